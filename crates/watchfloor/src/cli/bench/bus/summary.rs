//! What the rounds say together: medians with the least and the most, and ours beside librdkafka's.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stopwatch::Took;
use crate::cli::render::{self, Cell, Table};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Turn {
    Publish,
    Read,
}

/// Through what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// Our bus on Kafka.
    Kafka,
    Librdkafka,
    Embedded,
}

impl Turn {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
        }
    }
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "our bus on Kafka",
            Self::Librdkafka => "librdkafka alone",
            Self::Embedded => "embedded bus",
        }
    }
}

/// Every round's measurements, in order.
#[derive(Debug, Default)]
pub(super) struct Rounds(BTreeMap<(Turn, Way), Vec<Took>>);

/// The middle, and how far the rounds lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    turn: Turn,
    through: Way,
    records_per_second: Spread,
    mb_per_second: Spread,
    /// Of this process: a broker's work is not in it, an embedded bus's is.
    cpu_us_per_record: Spread,
    /// Of the two turns of each round, which follow one another: what else the machine does falls on both.
    ratio_to_librdkafka: Option<Spread>,
    records_without_offset: u64,
    calls_repeated: u64,
}

impl Rounds {
    pub(super) fn add(&mut self, turn: Turn, way: Way, took: Took) {
        self.0.entry((turn, way)).or_default().push(took);
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.0.iter().map(|(&(turn, way), rounds)| self.row(turn, way, rounds)).collect()
    }

    fn row(&self, turn: Turn, way: Way, rounds: &[Took]) -> Row {
        let rate = |took: &Took| took.records_per_second();
        let raw = self.0.get(&(turn, Way::Librdkafka)).filter(|_| way == Way::Kafka);
        let ratios =
            |raw: &Vec<Took>| Spread::of(rounds.iter().zip(raw).map(|(ours, raw)| rate(ours) / rate(raw)));
        Row {
            turn,
            through: way,
            records_per_second: Spread::of(rounds.iter().map(rate)),
            mb_per_second: Spread::of(rounds.iter().map(Took::mb_per_second)),
            cpu_us_per_record: Spread::of(rounds.iter().map(Took::cpu_us_per_record)),
            ratio_to_librdkafka: raw.map(ratios),
            records_without_offset: rounds.iter().map(|took| took.without_offset).sum(),
            calls_repeated: rounds.iter().map(|took| took.repeated).sum(),
        }
    }
}

impl Spread {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), min: at(0), max: at(last) }
    }

    fn cells(self, text: impl Fn(f64) -> String) -> [Cell; 2] {
        let Self { median, min, max } = self;
        [Cell::right(text(median)), Cell::styled(format!("{}..{}", text(min), text(max)), render::DIM)]
    }
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table =
        Table::new(["", "", "RECORDS/S", "MIN..MAX", "MB/S", "CPU µs/RECORD", "OURS ÷ RAW", "MIN..MAX"]);
    for row in rows {
        let [rate, rates] = row.records_per_second.cells(grouped);
        let [ratio, ratios] = match row.ratio_to_librdkafka {
            Some(ratio) => ratio.cells(|ratio| format!("{ratio:.2}")),
            None => [Cell::right("-"), Cell::plain("")],
        };
        table.row([
            Cell::plain(row.turn.name()),
            Cell::styled(row.through.name(), render::BOLD),
            rate,
            rates,
            Cell::right(format!("{:.1}", row.mb_per_second.median)),
            Cell::right(format!("{:.2}", row.cpu_us_per_record.median)),
            ratio,
            ratios,
        ]);
    }
    table
}

/// What a reader of the table must know besides, a sentence each.
pub(super) fn remarks(rows: &[Row]) -> Vec<String> {
    let of = |row: &Row| format!("{} through {}", row.turn.name(), row.through.name());
    let mut remarks = Vec::new();
    for row in rows {
        if row.records_without_offset > 0 {
            let count = row.records_without_offset;
            remarks.push(format!(
                "{}: {count} records were reported without an offset, which proves nothing",
                of(row)
            ));
        }
        if row.calls_repeated > 0 {
            remarks.push(format!("{}: {} calls failed and were made again", of(row), row.calls_repeated));
        }
    }
    remarks
}

/// `123 456`.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn took(records: u64) -> Took {
        Took { elapsed: Duration::from_secs(1), records, bytes: records * 512, ..Took::default() }
    }

    #[test]
    fn the_ratio_is_that_of_turns_that_follow_one_another() {
        let mut rounds = Rounds::default();
        // The machine slows down tenfold; ours does not lose against librdkafka by that.
        for (ours, raw) in [(100, 100), (10, 10), (9, 10)] {
            rounds.add(Turn::Publish, Way::Kafka, took(ours));
            rounds.add(Turn::Publish, Way::Librdkafka, took(raw));
        }
        rounds.add(Turn::Publish, Way::Embedded, took(5));
        let rows = rounds.rows();
        let ratios: Vec<_> = rows.iter().map(|row| row.ratio_to_librdkafka).collect();
        assert_eq!(ratios, [Some(Spread { median: 1.0, min: 0.9, max: 1.0 }), None, None]);
        assert_eq!(rows[0].records_per_second, Spread { median: 10.0, min: 9.0, max: 100.0 });
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter());
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
    }

    #[test]
    fn the_table_shows_who_is_how_fast_and_remarks_what_went_wrong() {
        let mut rounds = Rounds::default();
        rounds.add(Turn::Publish, Way::Kafka, Took { repeated: 2, ..took(1_234_567) });
        rounds.add(Turn::Publish, Way::Librdkafka, Took { without_offset: 3, ..took(1_000_000) });
        rounds.add(Turn::Read, Way::Embedded, took(999));
        let rows = rounds.rows();
        let mut out = anstream::StripStream::new(Vec::new());
        table(&rows).print(&mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out.into_inner()).unwrap(), @r"
                                   RECORDS/S  MIN..MAX               MB/S  CPU µs/RECORD  OURS ÷ RAW  MIN..MAX
        publish  our bus on Kafka  1 234 567  1 234 567..1 234 567  632.1           0.00        1.23  1.23..1.23
        publish  librdkafka alone  1 000 000  1 000 000..1 000 000  512.0           0.00           -
        read     embedded bus            999  999..999                0.5           0.00           -
        ");
        insta::assert_snapshot!(remarks(&rows).join("\n"), @r"
        publish through our bus on Kafka: 2 calls failed and were made again
        publish through librdkafka alone: 3 records were reported without an offset, which proves nothing
        ");
    }

    #[test]
    fn digits_stand_in_threes() {
        assert_eq!([0.0, 999.4, 1_000.0, 1_234_567.0].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }
}
