//! The alerts on a record: metadata `alerts`, one text each, and `alert_count`.

use std::collections::BTreeMap;

use crate::limit::METADATA_BYTES_MAX;
use crate::sample::Tick;

pub(super) const ALERTS: &str = "alerts";
pub(super) const ALERT_COUNT: &str = "alert_count";

const BETWEEN: &str = "; ";

/// Whether a plugin found an alert on this record.
pub(super) fn any(tick: &Tick) -> bool {
    tick.metadata.contains_key(ALERT_COUNT)
}

/// The texts on a record.
pub(super) fn texts(metadata: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    metadata.get(ALERTS).into_iter().flat_map(|alerts| alerts.split(BETWEEN))
}

/// What an alert is about: its text without the value, which changes from tick to tick.
pub(super) fn subject(alert: &str) -> &str {
    let before = alert.rsplit_once(" (threshold ").map_or(alert, |(before, _)| before);
    if before.len() == alert.len() {
        alert
    } else {
        before.rsplit_once(' ').map_or(before, |(subject, _)| subject)
    }
}

/// Writes one alert, free of the separator.
pub(super) fn text(subject: &str, value: f64, threshold: f64) -> String {
    let round = |number: f64| (number * 1_000.0).round() / 1_000.0;
    format!("{} {} (threshold {})", subject.replace(';', ","), round(value), threshold)
}

/// Adds alerts to a record. The count is exact; texts that do not fit are left out.
pub(super) fn add(metadata: &mut BTreeMap<String, String>, alerts: &[String]) {
    if alerts.is_empty() {
        return;
    }
    let before = metadata.get(ALERT_COUNT).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    metadata.insert(ALERT_COUNT.to_owned(), before.saturating_add(alerts.len()).to_string());
    let all = metadata.entry(ALERTS.to_owned()).or_default();
    for alert in alerts {
        let between = if all.is_empty() { "" } else { BETWEEN };
        if all.len() + between.len() + alert.len() > METADATA_BYTES_MAX {
            return;
        }
        all.push_str(between);
        all.push_str(alert);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_written_are_read_back_and_the_count_survives_the_cut() {
        let mut metadata = BTreeMap::new();
        let key = r#"system.filesystem.utilization{mountpoint="/a; b"}"#;
        add(&mut metadata, &[text("cpu_percent", 93.200_04, 80.0), text(key, 0.97, 0.9)]);
        assert_eq!(
            texts(&metadata).collect::<Vec<_>>(),
            [
                "cpu_percent 93.2 (threshold 80)",
                r#"system.filesystem.utilization{mountpoint="/a, b"} 0.97 (threshold 0.9)"#
            ]
        );
        assert_eq!(texts(&metadata).map(subject).next(), Some("cpu_percent"));
        add(&mut metadata, &vec!["x".repeat(100); 1_000]);
        assert_eq!(metadata[ALERT_COUNT], "1002");
        assert!(metadata[ALERTS].len() <= METADATA_BYTES_MAX);
    }
}
