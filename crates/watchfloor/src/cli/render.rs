//! How things look in a terminal: aligned tables, ages, sizes, and colours that say what the words already say.
//!
//! Styles are always written; the stream that prints them removes them where there is no terminal or `NO_COLOR` is set.
//! Text from agents is made harmless here: a terminal obeys control characters.

use std::io;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use model::command::CommandState;
use model::presence::Presence;
use model::sample::Timestamp;
use model::truth::Standing;
use serde_json::{Map, Value};

pub(crate) const PLAIN: Style = Style::new();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
pub(crate) const CYAN: Style = AnsiColor::Cyan.on_default();

/// One cell, or any styled piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    pub(crate) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: harmless(text.as_ref()), style, right: false }
    }

    pub(crate) fn plain(text: impl AsRef<str>) -> Self {
        Self::styled(text, PLAIN)
    }

    /// For numbers.
    pub(crate) fn right(text: impl AsRef<str>) -> Self {
        Self { right: true, ..Self::plain(text) }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.text.is_empty() {
            return Ok(());
        }
        write!(f, "{}{}{}", self.style.render(), self.text, self.style.render_reset())
    }
}

/// Columns as wide as their widest cell, two blanks apart, no lines.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(titles: [&str; N]) -> Self {
        Self { rows: vec![titles.map(|title| Cell::styled(title, BOLD)).to_vec()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn print(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max();
        let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0)).collect();
        // A title stands over its numbers.
        let right: Vec<bool> =
            (0..columns).map(|column| self.rows.iter().skip(1).any(|row| row[column].right)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = widths[column] - cell.width();
                let (before, after) = if right[column] { (pad, 0) } else { (0, pad) };
                let last = column + 1 == row.len();
                let after = if last { 0 } else { after + 2 };
                line.push_str(&format!("{:before$}{cell}{:after$}", "", ""));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Control characters shown, not obeyed.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `3s`, `5m`, `2h`, `4d`: one unit is enough to see at a glance.
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A duration as config writes it.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

/// The time of day, UTC; the date is known to whoever watches.
pub(crate) fn time_of_day(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('T').map_or_else(|| text.clone(), |(_, time)| time.to_owned())
}

/// What was not measured is a dash, never 0.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

pub(crate) fn presence_style(presence: Presence) -> Style {
    match presence {
        Presence::Online => GREEN,
        Presence::Late | Presence::Restarting | Presence::Duplicate => YELLOW,
        Presence::Offline => RED,
        Presence::Shutdown | Presence::NeverSeen => DIM,
    }
}

pub(crate) fn state_style(state: CommandState) -> Style {
    match state {
        CommandState::Succeeded => GREEN,
        CommandState::Pending | CommandState::Delivered | CommandState::Running => CYAN,
        CommandState::Unknown | CommandState::Cancelled => YELLOW,
        CommandState::Failed | CommandState::Rejected | CommandState::Expired | CommandState::Interrupted => {
            RED
        }
    }
}

pub(crate) fn standing(standing: Standing) -> Cell {
    match standing {
        Standing::InSync => Cell::styled("in sync", GREEN),
        Standing::Pending => Cell::styled("pending", YELLOW),
        Standing::Refused => Cell::styled("REFUSED", RED),
    }
}

/// A JSON object for people: `key  value` aligned, nested objects indented, equal objects in a list as a table.
pub(crate) fn facts(object: &Map<String, Value>, indent: usize, out: &mut dyn io::Write) -> io::Result<()> {
    let is_leaf = |value: &Value| !matches!(value, Value::Object(_)) && rows_of(value).is_none();
    let width = object.iter().filter(|(_, value)| is_leaf(value)).map(|(key, _)| key.chars().count()).max();
    let width = width.unwrap_or(0);
    for (key, value) in object {
        let name = Cell::styled(key.replace('_', " "), DIM);
        let pad = (width + 2).saturating_sub(name.width());
        match value {
            Value::Object(inner) if inner.is_empty() => {}
            Value::Object(inner) => {
                writeln!(out, "{:indent$}{name}", "")?;
                facts(inner, indent + 2, out)?;
            }
            list => match rows_of(list) {
                Some(rows) => {
                    writeln!(out, "{:indent$}{name}", "")?;
                    table_of(rows, indent + 2, out)?;
                }
                None => writeln!(out, "{:indent$}{name}{:pad$}{}", "", "", scalar(value))?,
            },
        }
    }
    Ok(())
}

/// The objects of a list, if it is a non-empty list of flat objects.
fn rows_of(value: &Value) -> Option<Vec<&Map<String, Value>>> {
    let list = value.as_array().filter(|list| !list.is_empty())?;
    list.iter().map(Value::as_object).collect()
}

fn table_of(rows: Vec<&Map<String, Value>>, indent: usize, out: &mut dyn io::Write) -> io::Result<()> {
    let titles: Vec<&String> = rows[0].keys().collect();
    let cell = |row: &Map<String, Value>, key: &str| match row.get(key) {
        Some(value @ Value::Number(_)) => Cell::right(scalar(value)),
        Some(value) => Cell::plain(scalar(value)),
        None => Cell::plain("-"),
    };
    let mut table = Table { rows: Vec::new() };
    table.rows.push(titles.iter().map(|title| Cell::styled(title.replace('_', " "), DIM)).collect());
    for row in rows {
        table.rows.push(titles.iter().map(|title| cell(row, title)).collect());
    }
    let mut text = Vec::new();
    table.print(&mut text)?;
    for line in String::from_utf8_lossy(&text).lines() {
        writeln!(out, "{:indent$}{line}", "")?;
    }
    Ok(())
}

/// One value on one line.
pub(crate) fn scalar(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => list.iter().map(scalar).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    };
    harmless(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(print: impl Fn(&mut dyn io::Write) -> io::Result<()>) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        print(&mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let mut table = Table::new(["AGENT", "CPU"]);
        table.row([Cell::styled("a-long-name", RED), Cell::right("5.0")]);
        table.row([Cell::plain("b"), Cell::right("100.0")]);
        assert_eq!(Cell::styled("", RED).to_string(), "", "nothing needs no colour");
        insta::assert_snapshot!(printed(|out| table.print(out)), @r"
        AGENT          CPU
        a-long-name    5.0
        b            100.0
        ");
    }

    #[test]
    fn a_terminal_does_not_obey_an_agent() {
        assert_eq!(Cell::plain("\u{1b}[2Jgone\n").text, r"\u{1b}[2Jgone\n");
        assert_eq!(scalar(&Value::from("a\u{7}")), r"a\u{7}");
    }

    #[test]
    fn an_age_is_one_unit() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (200_000, "2d")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn facts_read_without_knowing_json() {
        let value = serde_json::json!({
            "collection": "PAUSED", "interval_ms": 500,
            "config": {"running": {"revision": 7}}, "boot_id": "", "collectors": [],
            "plugins": [{"name": "filter", "dropped": 10}, {"name": "deduplication", "dropped": 3}],
        });
        let text = printed(|out| facts(value.as_object().unwrap(), 0, out));
        insta::assert_snapshot!(text, @r"
        collection   PAUSED
        interval ms  500
        config
          running
            revision  7
        boot id      -
        collectors   none
        plugins
          name           dropped
          filter              10
          deduplication        3
        ");
    }
}
