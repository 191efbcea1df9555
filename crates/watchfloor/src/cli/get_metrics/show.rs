//! One record as a row, a line, JSON or CSV.

use std::io::{self, Write};

use model::sample::SystemMetrics;
use proto::record::{DataRecord, NotSentAction};
use runtime::clock;

use super::Received;
use crate::cli::output::RecordOutput;
use crate::cli::render::{self, Cell, Table, number};

/// The newest record of each agent.
pub(super) fn table(records: impl Iterator<Item = DataRecord>) -> Table {
    let mut table = Table::new([
        "AGENT", "AGE", "CPU %", "MEM %", "USED MB", "TOTAL MB", "DISK R", "DISK W", "NET IN", "NET OUT",
        "ALERTS",
    ]);
    let now = clock::wall();
    for record in records {
        let [cpu, memory, used, total, read, write, net_in, net_out] = record.metrics.values();
        table.row([
            Cell::styled(record.agent_id.as_str(), render::BOLD),
            Cell::plain(render::age(now.since(record.timestamp))),
            Cell::right(number(cpu, 1)),
            Cell::right(number(memory, 1)),
            Cell::right(number(used, 0)),
            Cell::right(number(total, 0)),
            Cell::right(number(read, 2)),
            Cell::right(number(write, 2)),
            Cell::right(number(net_in, 2)),
            Cell::right(number(net_out, 2)),
            Cell::styled(alerts(&record).unwrap_or_default(), render::RED),
        ]);
    }
    table
}

/// Prints record after record.
#[derive(Debug)]
pub(super) struct Show {
    output: RecordOutput,
    width: usize,
    began: bool,
}

impl Show {
    pub(super) fn new(output: RecordOutput, width: usize) -> Self {
        Self { output, width, began: false }
    }

    pub(super) fn record(&mut self, received: &Received, out: &mut dyn Write) -> io::Result<()> {
        let first = !std::mem::replace(&mut self.began, true);
        match self.output {
            RecordOutput::Table => {
                self.width = self.width.max(received.record.agent_id.as_str().len());
                writeln!(out, "{}", line(&received.record, self.width))
            }
            RecordOutput::Json | RecordOutput::Jsonl => {
                serde_json::to_writer(&mut *out, &received.value)?;
                writeln!(out)
            }
            RecordOutput::Csv => {
                if first {
                    let names = SystemMetrics::NAMES.join(",");
                    writeln!(out, "agent_id,timestamp,incarnation,sequence,{names},alerts")?;
                }
                writeln!(out, "{}", csv(&received.record))
            }
        }
    }
}

/// `12:42:28.042Z  agent-001  cpu  12.5 %  mem ...`
fn line(record: &DataRecord, width: usize) -> String {
    let agent = format!("{:width$}", record.agent_id.as_str());
    let mut line =
        format!("{}  {}", render::time_of_day(record.timestamp), Cell::styled(agent, render::BOLD));
    if record.has_values() {
        let [cpu, memory, used, total, read, write, net_in, net_out] = record.metrics.values();
        line.push_str(&format!(
            "  cpu {:>5} %  mem {:>5} % ({}/{} MB)  disk R {} W {}  net in {} out {} MB/s",
            number(cpu, 1),
            number(memory, 1),
            number(used, 0),
            number(total, 0),
            number(read, 2),
            number(write, 2),
            number(net_in, 2),
            number(net_out, 2),
        ));
    }
    if let Some(alerts) = alerts(record) {
        line.push_str(&format!("  {}", Cell::styled(format!("ALERT {alerts}"), render::RED)));
    }
    if let Some(plugins) = plugins(record) {
        line.push_str(&format!("  {}", Cell::styled(plugins, render::DIM)));
    }
    line
}

/// What `threshold_alert` noted.
fn alerts(record: &DataRecord) -> Option<String> {
    let none = |count: &String| count == "0";
    if record.metadata.get("alert_count").is_some_and(none) {
        return None;
    }
    record.metadata.get("alerts").filter(|alerts| !alerts.is_empty()).cloned()
}

/// `[3 dropped by deduplication, 10 merged by aggregation]`: what became of the ticks that are not records.
fn plugins(record: &DataRecord) -> Option<String> {
    let stretch = |not_sent: &proto::record::NotSent| {
        let what = match not_sent.action {
            NotSentAction::Dropped => "dropped",
            NotSentAction::Merged => "merged",
            NotSentAction::NotCollected => "not collected",
        };
        let by = if not_sent.plugin.is_empty() { String::new() } else { format!(" by {}", not_sent.plugin) };
        format!("{} {what}{by}", not_sent.ticks())
    };
    let stretches: Vec<String> = record.not_sent.iter().map(stretch).collect();
    (!stretches.is_empty()).then(|| format!("[{}]", stretches.join(", ")))
}

/// RFC 4180; what was not measured is empty.
fn csv(record: &DataRecord) -> String {
    let values = record.metrics.values().map(|value| value.map(|v| v.to_string()).unwrap_or_default());
    let alerts = alerts(record).unwrap_or_default().replace('"', "\"\"");
    let DataRecord { agent_id, timestamp, incarnation, sequence, .. } = record;
    format!("{agent_id},{timestamp},{incarnation},{sequence},{},\"{alerts}\"", values.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn received(more: &Value) -> Received {
        let mut value = json!({
            "agent_id": "agent-001", "timestamp": "2026-01-01T12:42:28.042Z", "incarnation": "i1", "sequence": 7,
            "metrics": {"cpu_percent": 12.5, "memory_percent": 15.25, "memory_used_mb": 1200, "memory_total_mb": 7800,
                        "disk_read_mb": 0.0, "net_in_mb": 0.125}
        });
        for (key, more) in more.as_object().unwrap() {
            value[key] = more.clone();
        }
        Received::new(value).unwrap()
    }

    fn shown(output: RecordOutput, more: &Value) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        Show::new(output, 0).record(&received(more), &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn a_line_shows_what_was_measured_and_a_dash_for_what_was_not() {
        insta::assert_snapshot!(shown(RecordOutput::Table, &json!({})), @"12:42:28.042Z  agent-001  cpu  12.5 %  mem  15.2 % (1200/7800 MB)  disk R 0.00 W -  net in 0.12 out - MB/s");
    }

    #[test]
    fn alerts_and_what_plugins_did_are_told() {
        let more = json!({
            "metrics": {},
            "metadata": {"alerts": "cpu_percent 93.1 > 80", "alert_count": "1"},
            "not_sent": [{"first": 3, "last": 6, "action": "dropped", "plugin": "deduplication"}]
        });
        insta::assert_snapshot!(shown(RecordOutput::Table, &more), @"12:42:28.042Z  agent-001  ALERT cpu_percent 93.1 > 80  [4 dropped by deduplication]");
    }

    #[test]
    fn json_lines_keep_what_we_do_not_know() {
        assert!(shown(RecordOutput::Jsonl, &json!({"new": 1})).contains(r#""new":1"#));
    }

    #[test]
    fn csv_has_a_title_and_leaves_empty_what_was_not_measured() {
        let more = json!({"metadata": {"alerts": "say \"high\""}});
        insta::assert_snapshot!(shown(RecordOutput::Csv, &more), @r#"
        agent_id,timestamp,incarnation,sequence,cpu_percent,memory_percent,memory_used_mb,memory_total_mb,disk_read_mb,disk_write_mb,net_in_mb,net_out_mb,alerts
        agent-001,2026-01-01T12:42:28.042Z,i1,7,12.5,15.25,1200,7800,0,,0.125,,"say ""high"""
        "#);
    }
}
