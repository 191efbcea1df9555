//! Records of one run, column by column, compressed: what changes little lies side by side.
//!
//! A block names each series once, and each combination of series once. Every column is whole: sequences, times, the
//! eight, then the values of one series after the other. What only few records have (metadata, ticks that were not sent)
//! is JSON at the end. zstd closes it with a checksum, which no reader of the file would have otherwise.
//!
//! Numbers are LEB128, signed ones zigzag, differences to the record before where they rise; floating point is as it is
//! in memory, since zstd finds what repeats in columns.

mod wire;

use std::collections::{BTreeMap, HashMap};
use std::io;

use model::id::Sequence;
use model::limit::ARCHIVE_BLOCK_BYTES_MAX;
use model::sample::{SeriesKey, SystemMetrics, Timestamp};
use proto::record::NotSent;
use serde::{Deserialize, Serialize};

use crate::history::Point;
use wire::{Reader, Writer};

/// zstd's own default: higher ones cost several times the work for some percent.
const LEVEL: i32 = 3;

/// What is in a block.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Block {
    /// Every series of the block; one that a record names twice is there twice.
    pub(crate) keys: Vec<SeriesKey>,
    /// Series of records, in their order, as places in `keys`.
    pub(crate) layouts: Vec<Vec<usize>>,
    pub(crate) rows: Vec<Row>,
}

/// One record, its agent and run aside.
#[derive(Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) sequence: Sequence,
    pub(crate) first_sequence: Option<Sequence>,
    pub(crate) at: Timestamp,
    pub(crate) received: Timestamp,
    pub(crate) metrics: SystemMetrics,
    /// Which of the block's layouts.
    pub(crate) layout: usize,
    pub(crate) values: Box<[f64]>,
    pub(crate) extra: Extra,
}

/// What most records do not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Extra {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) not_sent: Vec<NotSent>,
}

/// Why a block cannot be read: the file is damaged, or somebody else wrote it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    #[error("a block cannot be decompressed: {0}")]
    Compression(#[from] io::Error),
    #[error("a block ends within its {column}")]
    Short { column: &'static str },
    #[error("a block makes no sense in its {column}")]
    Malformed { column: &'static str },
}

/// The columns of `points`, which are of one run and in the order they are to have; to be compressed.
pub(super) fn columns(points: &[&Point]) -> Result<Vec<u8>, BlockError> {
    let mut out = Writer::default();
    out.number(points.len() as u64);
    out.rising(points.iter().map(|point| point.sequence.0 as i64));
    let first = |point: &&Point| point.first_sequence.map(|first| first.0 as i64);
    out.optional(points.iter().map(first), Writer::difference);
    out.rising(points.iter().map(|point| point.at.unix_ms()));
    out.rising(points.iter().map(|point| point.received.unix_ms()));
    let metrics: Vec<_> = points.iter().map(|point| point.metrics.values()).collect();
    for metric in 0..SystemMetrics::NAMES.len() {
        out.optional(metrics.iter().map(|values| values[metric]), Writer::float);
    }
    encode_series(points, &mut out);
    let extra = |point: &&Point| point.extra().map(serde_json::to_string).transpose();
    let extras: Vec<_> = points.iter().map(extra).collect::<Result<_, _>>().map_err(io::Error::from)?;
    out.optional(extras.iter().map(Option::as_deref), Writer::text);
    Ok(out.bytes)
}

pub(super) fn compress(columns: &[u8]) -> Result<Vec<u8>, BlockError> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    Ok(compressor.compress(columns)?)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Block, BlockError> {
    let bytes = zstd::bulk::decompress(bytes, ARCHIVE_BLOCK_BYTES_MAX)?;
    let mut from = Reader::new(&bytes);
    let records = from.at("record count").count()?;
    let sequences = from.at("sequences").rising(records)?;
    let firsts = from.at("first sequences").optional(records, Reader::difference)?;
    let times = from.at("times").rising(records)?;
    let received = from.at("times of the bus").rising(records)?;
    let mut metrics = vec![[None; SystemMetrics::NAMES.len()]; records];
    for metric in 0..SystemMetrics::NAMES.len() {
        let column = from.at("metrics").optional(records, Reader::float)?;
        metrics.iter_mut().zip(column).for_each(|(values, value)| values[metric] = value);
    }
    let series = decode_series(records, &mut from)?;
    let extras = from.at("extras").optional(records, Reader::text)?;
    let extra = |text: Option<&str>| match text {
        Some(text) => serde_json::from_str(text).map_err(|_| BlockError::Malformed { column: "extras" }),
        None => Ok(Extra::default()),
    };
    from.end()?;
    let mut rows = Vec::with_capacity(records);
    for (index, ((layout, values), text)) in series.cells.into_iter().zip(extras).enumerate() {
        rows.push(Row {
            sequence: Sequence(sequences[index] as u64),
            first_sequence: firsts[index].map(|first| Sequence(first as u64)),
            at: Timestamp::from_unix_ms(times[index]),
            received: Timestamp::from_unix_ms(received[index]),
            metrics: SystemMetrics::from_values(metrics[index]),
            layout,
            values,
            extra: extra(text)?,
        });
    }
    Ok(Block { keys: series.keys, layouts: series.layouts, rows })
}

/// Names, layouts, the layout of each record, then one column of values per name.
fn encode_series(points: &[&Point], out: &mut Writer) {
    let mut places: HashMap<(&SeriesKey, usize), usize> = HashMap::new();
    let mut keys: Vec<&SeriesKey> = Vec::new();
    let mut layouts: Vec<Vec<usize>> = Vec::new();
    // Records of one agent mostly share one layout by its address.
    let mut known: HashMap<*const (), usize> = HashMap::new();
    let mut layout_of = Vec::with_capacity(points.len());
    for point in points {
        let address = point.layout.as_ptr().cast();
        layout_of.push(*known.entry(address).or_insert_with(|| {
            let mut times: HashMap<&SeriesKey, usize> = HashMap::new();
            let mut layout = Vec::with_capacity(point.layout.len());
            for key in point.layout.iter().map(AsRef::as_ref) {
                let time = times.entry(key).and_modify(|time| *time += 1).or_default();
                layout.push(*places.entry((key, *time)).or_insert_with(|| {
                    keys.push(key);
                    keys.len() - 1
                }));
            }
            layouts.push(layout);
            layouts.len() - 1
        }));
    }
    out.number(keys.len() as u64);
    for key in &keys {
        out.text(&key.name);
        out.number(key.attributes.len() as u64);
        key.attributes.iter().for_each(|(name, value)| {
            out.text(name);
            out.text(value);
        });
    }
    out.number(layouts.len() as u64);
    for layout in &layouts {
        out.number(layout.len() as u64);
        out.rising(layout.iter().map(|place| *place as i64));
    }
    layout_of.iter().for_each(|layout| out.number(*layout as u64));
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); keys.len()];
    for (point, layout) in points.iter().zip(layout_of) {
        let places = layouts[layout].iter().zip(&point.values);
        places.for_each(|(place, value)| columns[*place].push(*value));
    }
    columns.into_iter().flatten().for_each(|value| out.float(value));
}

struct Series {
    keys: Vec<SeriesKey>,
    layouts: Vec<Vec<usize>>,
    /// Layout and values of each record.
    cells: Vec<(usize, Box<[f64]>)>,
}

fn decode_series(records: usize, from: &mut Reader<'_>) -> Result<Series, BlockError> {
    from.at("series");
    let names = from.count()?;
    let mut keys = Vec::with_capacity(names);
    for _ in 0..names {
        let mut key = SeriesKey::new(from.text()?);
        for _ in 0..from.count()? {
            key.attributes.insert(from.text()?.to_owned(), from.text()?.to_owned());
        }
        keys.push(key);
    }
    let mut layouts = Vec::new();
    for _ in 0..from.at("layouts").count()? {
        let width = from.count()?;
        let places = from.rising(width)?.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>();
        let places = places.ok().filter(|places| places.iter().all(|place| *place < keys.len()));
        layouts.push(places.ok_or_else(|| from.malformed())?);
    }
    let mut layout_of = Vec::with_capacity(records);
    let mut heights = vec![0; keys.len()];
    for _ in 0..records {
        let layout = from.number()? as usize;
        for place in layouts.get(layout).ok_or_else(|| from.malformed())? {
            heights[*place] += 1;
        }
        layout_of.push(layout);
    }
    let mut columns = Vec::with_capacity(keys.len());
    for height in heights {
        columns.push(from.at("values").floats(height)?.into_iter());
    }
    let cells = layout_of.into_iter().map(|layout| {
        // A column is as high as the layouts that mention it are many.
        let values = layouts[layout].iter().filter_map(|place| columns[*place].next());
        (layout, values.collect())
    });
    let cells = cells.collect();
    Ok(Series { keys, layouts, cells })
}

#[cfg(test)]
mod tests;
