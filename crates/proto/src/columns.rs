//! Ticks as rows under a shared schema: a series' name and attributes travel once per stream, then only its column.
//!
//! The agent's side is [`Encoder`], the server's [`Decoder`]. A row marks which columns have a value with one bit each,
//! so plugins may leave any of them out.

use std::collections::HashMap;

use model::id::Sequence;
use model::limit;
use model::sample::{Sample, SeriesKey, SystemMetrics, Tick, Timestamp};

use crate::wire;

/// Series in one `Schema` message: even with long attributes it stays below the message limit.
const SCHEMA_CHUNK: usize = 200;
/// A schema that outgrew the limit this many times over is mostly retired names (processes come and go): start anew.
const SCHEMA_COLUMNS_MAX: usize = 2 * limit::SERIES_PER_AGENT_MAX;

/// Why rows cannot be read. The peer is at fault; the stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    #[error("schema chunk begins at column {got}, {expected} was due")]
    Gap { got: u32, expected: usize },
    #[error("schema has more than {SCHEMA_COLUMNS_MAX} columns")]
    TooWide,
    #[error("row refers to schema {got}, {current} is current")]
    UnknownSchema { got: u32, current: u32 },
    #[error("row marks {marked} columns of {columns} and carries {values} values")]
    Shape { marked: usize, columns: usize, values: usize },
}

/// Gives columns to series, for the lifetime of one stream.
#[derive(Debug, Default)]
pub struct Encoder {
    id: u32,
    columns: HashMap<SeriesKey, usize>,
}

impl Encoder {
    /// The rows of `ticks`, the schema id they refer to, and the schema chunks the peer must see first.
    pub fn encode(&mut self, ticks: &[Tick]) -> (Vec<wire::Schema>, u32, Vec<wire::Row>) {
        let fresh = |columns: &HashMap<SeriesKey, usize>| {
            let mut seen = std::collections::HashSet::new();
            let keys = ticks.iter().flat_map(|tick| &tick.series).map(|sample| &sample.key);
            keys.filter(|key| !columns.contains_key(*key) && seen.insert(*key)).cloned().collect::<Vec<_>>()
        };
        let mut new = fresh(&self.columns);
        if self.id == 0 || self.columns.len() + new.len() > SCHEMA_COLUMNS_MAX {
            self.id += 1;
            self.columns.clear();
            new = fresh(&self.columns);
        }
        let schemas = self.append(&new);
        (schemas, self.id, ticks.iter().map(|tick| self.row(tick)).collect())
    }

    fn append(&mut self, new: &[SeriesKey]) -> Vec<wire::Schema> {
        let mut schemas = Vec::new();
        for chunk in new.chunks(SCHEMA_CHUNK) {
            let first = self.columns.len();
            for key in chunk {
                self.columns.insert(key.clone(), self.columns.len());
            }
            schemas.push(wire::Schema {
                id: self.id,
                first: u32::try_from(first).unwrap_or(u32::MAX),
                series: chunk.iter().map(series_to_wire).collect(),
            });
        }
        // A new id must be announced even when nothing has a column yet.
        if schemas.is_empty() && self.columns.is_empty() {
            schemas.push(wire::Schema { id: self.id, first: 0, series: Vec::new() });
        }
        schemas
    }

    fn row(&self, tick: &Tick) -> wire::Row {
        let mut cells: Vec<(usize, f64)> = tick
            .series
            .iter()
            .filter_map(|sample| Some((*self.columns.get(&sample.key)?, sample.value)))
            .collect();
        cells.sort_unstable_by_key(|(column, _)| *column);
        cells.dedup_by_key(|(column, _)| *column);
        let mut present = vec![0u8; cells.last().map_or(0, |(column, _)| column / 8 + 1)];
        for (column, _) in &cells {
            present[column / 8] |= 1 << (column % 8);
        }
        wire::Row {
            sequence: tick.sequence.0,
            first_sequence: tick.first_sequence.0,
            timestamp_ms: tick.at.unix_ms(),
            metrics: Some(metrics_to_wire(&tick.metrics)),
            present,
            values: cells.into_iter().map(|(_, value)| value).collect(),
            metadata: tick.metadata.clone().into_iter().collect(),
        }
    }
}

/// Knows the columns a peer announced, for the lifetime of one stream.
#[derive(Debug, Default)]
pub struct Decoder {
    id: u32,
    columns: Vec<SeriesKey>,
}

impl Decoder {
    /// Takes a schema chunk. Attributes over the limit are cut, series over the limit refused.
    pub fn learn(&mut self, schema: wire::Schema) -> Result<(), ColumnsError> {
        if schema.id != self.id {
            self.id = schema.id;
            self.columns.clear();
        }
        if schema.first as usize != self.columns.len() {
            return Err(ColumnsError::Gap { got: schema.first, expected: self.columns.len() });
        }
        if self.columns.len() + schema.series.len() > SCHEMA_COLUMNS_MAX {
            return Err(ColumnsError::TooWide);
        }
        self.columns.extend(schema.series.into_iter().map(series_from_wire));
        Ok(())
    }

    /// The tick a row speaks of.
    pub fn decode(&self, schema_id: u32, row: wire::Row) -> Result<Tick, ColumnsError> {
        if schema_id != self.id {
            return Err(ColumnsError::UnknownSchema { got: schema_id, current: self.id });
        }
        let marked: Vec<usize> = (0..row.present.len() * 8)
            .filter(|column| row.present.get(column / 8).is_some_and(|byte| byte & (1 << (column % 8)) != 0))
            .collect();
        let fits =
            marked.len() == row.values.len() && marked.last().is_none_or(|last| *last < self.columns.len());
        if !fits {
            let (columns, values) = (self.columns.len(), row.values.len());
            return Err(ColumnsError::Shape { marked: marked.len(), columns, values });
        }
        let keys = marked.into_iter().filter_map(|column| self.columns.get(column)).cloned();
        let series = keys.zip(row.values).map(|(key, value)| Sample { key, value }).collect();
        let sequence = Sequence(row.sequence);
        let merged = row.first_sequence != 0 && row.first_sequence <= row.sequence;
        Ok(Tick {
            first_sequence: if merged { Sequence(row.first_sequence) } else { sequence },
            sequence,
            at: Timestamp::from_unix_ms(row.timestamp_ms),
            metrics: row.metrics.as_ref().map(metrics_from_wire).unwrap_or_default(),
            series,
            metadata: bounded_metadata(row.metadata),
        })
    }
}

/// The eight, as the seeds' message.
pub fn metrics_to_wire(metrics: &SystemMetrics) -> wire::SystemMetrics {
    let SystemMetrics {
        cpu_percent,
        memory_percent,
        memory_used_mb,
        memory_total_mb,
        disk_read_mb,
        disk_write_mb,
        net_in_mb,
        net_out_mb,
    } = *metrics;
    wire::SystemMetrics {
        cpu_percent,
        memory_percent,
        memory_used_mb,
        memory_total_mb,
        disk_read_mb,
        disk_write_mb,
        net_in_mb,
        net_out_mb,
    }
}

/// The eight as received; NaN and infinities are no measurement and become absent.
pub fn metrics_from_wire(metrics: &wire::SystemMetrics) -> SystemMetrics {
    let values = [
        metrics.cpu_percent,
        metrics.memory_percent,
        metrics.memory_used_mb,
        metrics.memory_total_mb,
        metrics.disk_read_mb,
        metrics.disk_write_mb,
        metrics.net_in_mb,
        metrics.net_out_mb,
    ];
    SystemMetrics::from_values(values.map(|value| value.filter(|v| v.is_finite())))
}

/// Metadata within the limits: the first pairs by name, long values cut. Also used for `StreamMetrics` clients.
pub fn bounded_metadata(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> std::collections::BTreeMap<String, String> {
    let sorted: std::collections::BTreeMap<_, _> = pairs.into_iter().collect();
    sorted
        .into_iter()
        .take(limit::METADATA_PAIRS_MAX)
        .map(|(key, value)| (cut(key, limit::ATTRIBUTE_BYTES_MAX), cut(value, limit::METADATA_BYTES_MAX)))
        .collect()
}

fn series_to_wire(key: &SeriesKey) -> wire::SeriesKey {
    wire::SeriesKey { name: key.name.clone(), attributes: key.attributes.clone().into_iter().collect() }
}

fn series_from_wire(key: wire::SeriesKey) -> SeriesKey {
    let attributes = key.attributes.into_iter();
    SeriesKey {
        name: cut(key.name, limit::ATTRIBUTE_BYTES_MAX),
        attributes: attributes
            .map(|(key, value)| {
                (cut(key, limit::ATTRIBUTE_BYTES_MAX), cut(value, limit::ATTRIBUTE_BYTES_MAX))
            })
            .collect(),
    }
}

fn cut(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tick(sequence: u64, series: &[(&str, f64)]) -> Tick {
        Tick {
            first_sequence: Sequence(sequence),
            sequence: Sequence(sequence),
            at: Timestamp::from_unix_ms(1_000),
            series: series
                .iter()
                .map(|(name, value)| Sample { key: SeriesKey::new(name), value: *value })
                .collect(),
            ..Tick::default()
        }
    }

    fn sent(encoder: &mut Encoder, decoder: &mut Decoder, ticks: &[Tick]) -> (usize, Vec<Tick>) {
        let (schemas, id, rows) = encoder.encode(ticks);
        let announced = schemas.iter().map(|schema| schema.series.len()).sum();
        for schema in schemas {
            decoder.learn(schema).unwrap();
        }
        (announced, rows.into_iter().map(|row| decoder.decode(id, row).unwrap()).collect())
    }

    #[test]
    fn a_series_is_named_once_per_stream() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let first = [tick(1, &[("a", 1.0), ("b", 2.0)])];
        let second = [tick(2, &[("b", 3.0)]), tick(3, &[("c", 4.0), ("a", 5.0)])];
        assert_eq!(sent(&mut encoder, &mut decoder, &first), (2, first.to_vec()));
        let (announced, ticks) = sent(&mut encoder, &mut decoder, &second);
        assert_eq!((announced, &ticks[0]), (1, &second[0]));
        assert_eq!(ticks[1].series, tick(3, &[("a", 5.0), ("c", 4.0)]).series);
    }

    #[test]
    fn names_that_come_and_go_do_not_grow_the_schema_for_ever() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for round in 0..10u64 {
            let names: Vec<String> = (0..1_000).map(|i| format!("p{round}-{i}")).collect();
            let series: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
            let ticks = [tick(round + 1, &series)];
            assert_eq!(sent(&mut encoder, &mut decoder, &ticks).1, ticks);
            assert!(decoder.columns.len() <= SCHEMA_COLUMNS_MAX);
        }
    }

    #[test]
    fn a_row_that_does_not_fit_its_schema_is_refused() {
        let mut decoder = Decoder::default();
        decoder.learn(wire::Schema { id: 1, first: 0, series: vec![wire::SeriesKey::default()] }).unwrap();
        let row = |present: Vec<u8>, values: Vec<f64>| wire::Row { present, values, ..wire::Row::default() };
        assert!(decoder.decode(1, row(vec![1], vec![1.0])).is_ok());
        assert!(decoder.decode(2, row(vec![1], vec![1.0])).is_err());
        assert!(decoder.decode(1, row(vec![2], vec![1.0])).is_err());
        assert!(decoder.decode(1, row(vec![1], vec![])).is_err());
        assert!(decoder.learn(wire::Schema { id: 1, first: 5, series: Vec::new() }).is_err());
    }

    #[test]
    fn a_metric_that_is_not_a_number_was_not_measured() {
        let wire =
            wire::SystemMetrics { cpu_percent: Some(f64::NAN), net_in_mb: Some(0.0), ..Default::default() };
        let metrics = metrics_from_wire(&wire);
        assert_eq!((metrics.cpu_percent, metrics.net_in_mb), (None, Some(0.0)));
    }

    proptest! {
        #[test]
        fn every_tick_arrives_as_it_was_sent(
            batches in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::btree_map("[a-e]{1,2}", -1e9f64..1e9, 0..8), 0..5), 0..6),
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for batch in batches {
                let ticks: Vec<Tick> = batch.iter().enumerate().map(|(i, series)| {
                    let series: Vec<(&str, f64)> = series.iter().map(|(k, v)| (k.as_str(), *v)).collect();
                    tick(i as u64 + 1, &series)
                }).collect();
                let mut received = sent(&mut encoder, &mut decoder, &ticks).1;
                for tick in &mut received { tick.series.sort_by(|a, b| a.key.cmp(&b.key)); }
                prop_assert_eq!(received, ticks);
            }
        }

        #[test]
        fn no_row_panics_the_decoder(present in any::<Vec<u8>>(), values in any::<Vec<f64>>(), seq in any::<u64>(), first in any::<u64>()) {
            let row = wire::Row { present, values, sequence: seq, first_sequence: first, ..Default::default() };
            drop(Decoder::default().decode(0, row));
        }
    }
}
