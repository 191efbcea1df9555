//! What `watchfloor selftest collectors` claims about this machine: two readings in, verdicts out.
//!
//! It reads nothing itself; whoever calls it takes both readings with one [`CollectorSet`](super::CollectorSet), some
//! time apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::limit::SERIES_PER_AGENT_MAX;
use model::metric::CUMULATIVE;
use model::sample::{SeriesKey, SystemMetrics};

use super::Reading;

/// One claim and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    /// What was seen, for people.
    pub detail: String,
}

/// Checks two readings of a set that has all names of the seed documents.
pub fn check(first: &Reading, second: &Reading) -> Vec<Check> {
    let mut checks = collectors(second);
    checks.extend([
        first_has_no_rates(first),
        all_eight(second),
        percentages(second),
        rates(second),
        counters(first, second),
        shares(second),
        names(second),
        bounded(second),
    ]);
    checks
}

fn claim(name: &str, passed: bool, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), passed, detail: detail.into() }
}

/// One line for each collector, with its yield and its cost.
fn collectors(reading: &Reading) -> Vec<Check> {
    let line = |run: &super::Run| {
        let fault = reading.faults.iter().find(|fault| fault.collector == run.collector);
        let detail = match fault {
            Some(fault) => fault.to_string(),
            None => format!("{} samples in {} µs", run.samples, run.elapsed.as_micros()),
        };
        claim(&format!("collector {}", run.collector), fault.is_none(), detail)
    };
    let mut checks: Vec<Check> = reading.runs.iter().map(line).collect();
    let total: Duration = reading.runs.iter().map(|run| run.elapsed).sum();
    let samples: usize = reading.runs.iter().map(|run| run.samples).sum();
    checks.push(claim(
        "all collectors",
        samples > 0,
        format!("{samples} samples in {} µs", total.as_micros()),
    ));
    checks
}

fn first_has_no_rates(first: &Reading) -> Check {
    let rates = rate_fields(&first.metrics);
    let absent = rates.iter().all(|(_, rate)| rate.is_none()) && first.metrics.cpu_percent.is_none();
    claim("first reading has no rates", absent, "a rate needs two readings")
}

fn all_eight(second: &Reading) -> Check {
    let missing: Vec<&str> =
        second.metrics.named().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
    let detail =
        if missing.is_empty() { "all there".to_owned() } else { format!("missing: {}", missing.join(", ")) };
    claim("second reading has all eight fields", missing.is_empty(), detail)
}

fn percentages(second: &Reading) -> Check {
    let SystemMetrics { cpu_percent, memory_percent, memory_used_mb, memory_total_mb, .. } = second.metrics;
    let between = |value: Option<f64>| value.is_some_and(|value| (0.0..=100.0).contains(&value));
    let fits =
        matches!((memory_used_mb, memory_total_mb), (Some(used), Some(total)) if 0.0 < used && used <= total);
    let detail = format!("cpu {} %, memory {} %", shown(cpu_percent), shown(memory_percent));
    claim(
        "percentages are between 0 and 100",
        between(cpu_percent) && between(memory_percent) && fits,
        detail,
    )
}

fn rates(second: &Reading) -> Check {
    let rates = rate_fields(&second.metrics);
    let detail: Vec<String> = rates.iter().map(|(name, rate)| format!("{name} {}", shown(*rate))).collect();
    let passed = rates.iter().all(|(_, rate)| rate.is_some_and(|rate| rate >= 0.0 && rate.is_finite()));
    claim("disk and network are rates, not totals", passed, detail.join(", "))
}

fn rate_fields(metrics: &SystemMetrics) -> [(&'static str, Option<f64>); 4] {
    let SystemMetrics { disk_read_mb, disk_write_mb, net_in_mb, net_out_mb, .. } = *metrics;
    [
        ("disk_read_mb", disk_read_mb),
        ("disk_write_mb", disk_write_mb),
        ("net_in_mb", net_in_mb),
        ("net_out_mb", net_out_mb),
    ]
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| format!("{value:.3}"))
}

fn counters(first: &Reading, second: &Reading) -> Check {
    let before: BTreeMap<&SeriesKey, f64> =
        first.series.iter().map(|sample| (&sample.key, sample.value)).collect();
    let counters = second.series.iter().filter(|sample| CUMULATIVE.contains(&sample.key.name.as_str()));
    let (mut compared, mut fallen) = (0, Vec::new());
    for counter in counters {
        let Some(before) = before.get(&counter.key) else { continue };
        compared += 1;
        if counter.value < *before {
            fallen.push(counter.key.to_string());
        }
    }
    let detail = if fallen.is_empty() { format!("{compared} compared") } else { fallen.join(", ") };
    claim("counters do not go down", fallen.is_empty(), detail)
}

/// The states of the whole machine, and of each core, fill the time between the readings.
fn shares(second: &Reading) -> Check {
    let mut sums: BTreeMap<Option<&String>, f64> = BTreeMap::new();
    for sample in second.series.iter().filter(|sample| sample.key.name == "system.cpu.utilization") {
        *sums.entry(sample.key.attributes.get("cpu")).or_default() += sample.value;
    }
    let passed = sums.values().all(|sum| (sum - 1.0).abs() < 1e-6);
    claim(
        "processor states add up to the whole",
        passed,
        format!("{} processors and their total", sums.len().saturating_sub(1)),
    )
}

fn names(second: &Reading) -> Check {
    let mut seen = BTreeSet::new();
    let odd = |key: &SeriesKey| !is_metric_name(&key.name);
    let keys = second.series.iter().map(|sample| &sample.key);
    let wrong: Vec<String> =
        keys.filter(|key| !seen.insert(*key) || odd(key)).map(SeriesKey::to_string).collect();
    let detail = if wrong.is_empty() { format!("{} series", seen.len()) } else { wrong.join(", ") };
    claim("each series has one name of its own", wrong.is_empty(), detail)
}

/// Words of lower-case letters, digits and underscores, joined by dots, the first one a known namespace.
fn is_metric_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let namespace = name.split('.').next().unwrap_or_default();
    matches!(namespace, "system" | "process" | "container") && name.contains('.') && name.split('.').all(word)
}

fn bounded(second: &Reading) -> Check {
    let detail = format!("{} series, {} left out", second.series.len(), second.left_out);
    claim("the number of series is bounded", second.series.len() <= SERIES_PER_AGENT_MAX, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> (Reading, Reading) {
        let mut first = Reading::default();
        first.push("system.disk.io", &[("device", "sda")], 5.0);
        let metrics = SystemMetrics::from_values([1.0, 50.0, 512.0, 1_024.0, 0.0, 0.0, 0.1, 0.1].map(Some));
        let mut second = Reading { metrics, ..Reading::default() };
        second.push("system.disk.io", &[("device", "sda")], 6.0);
        second.runs.push(super::super::Run {
            collector: "disks",
            samples: 9,
            elapsed: Duration::from_micros(6),
        });
        (first, second)
    }

    fn failed(first: &Reading, second: &Reading) -> Vec<String> {
        check(first, second).into_iter().filter(|check| !check.passed).map(|check| check.name).collect()
    }

    #[test]
    fn a_healthy_pair_passes_everything() {
        let (first, second) = healthy();
        assert_eq!(failed(&first, &second), [""; 0]);
    }

    #[test]
    fn each_claim_can_fail() {
        type Break = fn(&mut Reading, &mut Reading);
        let cases: [(&str, Break); 7] = [
            ("first reading has no rates", |first, _| first.metrics.net_in_mb = Some(1.0)),
            ("percentages are between 0 and 100", |_, second| second.metrics.cpu_percent = Some(101.0)),
            ("disk and network are rates, not totals", |_, second| second.metrics.disk_read_mb = Some(-1.0)),
            ("counters do not go down", |_, second| second.series[0].value = 4.0),
            ("processor states add up to the whole", |_, second| {
                second.push("system.cpu.utilization", &[("state", "user")], 0.5);
            }),
            ("each series has one name of its own", |_, second| second.push("Disk IO", &[], 1.0)),
            ("each series has one name of its own", |_, second| {
                second.push("system.disk.io", &[("device", "sda")], 6.0);
            }),
        ];
        for (name, spoil) in cases {
            let (mut first, mut second) = healthy();
            spoil(&mut first, &mut second);
            assert_eq!(failed(&first, &second), [name]);
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let (first, mut second) = healthy();
        second.metrics.net_in_mb = None;
        let check =
            check(&first, &second).into_iter().find(|check| check.name.contains("all eight")).unwrap();
        assert!(!check.passed && check.detail == "missing: net_in_mb");
    }
}
