//! Takes typed values out of JSON and notes what is wrong, with its path, and goes on.

use std::time::Duration;

use serde_json::{Map, Value};

use super::fault::{Faults, Path, unknown};
use super::json::kind;
use super::keys::Key;

/// An object being read. A key whose value is `null` counts as absent: that is how a layer removes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'a> {
    pub(super) path: &'a Path<'a>,
    pub(super) map: &'a Map<String, Value>,
    pub(super) faults: &'a Faults,
}

impl<'a> Object<'a> {
    pub(super) fn of(path: &'a Path<'a>, value: &'a Value, faults: &'a Faults) -> Option<Self> {
        let map = value.as_object();
        if map.is_none() {
            faults.invalid(path, format!("expected an object, found {}", kind(value)));
        }
        map.map(|map| Self { path, map, faults })
    }

    /// Notes every key that is not among `known`.
    pub(super) fn only(&self, kind: &str, known: &[&str]) {
        for key in self.map.keys().filter(|key| !known.contains(&key.as_str())) {
            self.faults.invalid(&Path::Key(self.path, key), unknown(kind, key, known));
        }
    }

    pub(super) fn only_keys(&self, kind: &str, keys: &[&Key]) {
        self.only(kind, &keys.iter().map(|key| key.name).collect::<Vec<_>>());
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn at<'k>(&'k self, key: &'k str) -> Path<'k> {
        Path::Key(self.path, key)
    }

    /// Notes that `key` should have been what it takes.
    pub(super) fn expected<T>(&self, key: &Key, value: &Value) -> Option<T> {
        let found = match value {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        self.faults.invalid(&self.at(key.name), format!("expected {}, found {found}", key.takes));
        None
    }

    pub(super) fn number(&self, key: &Key) -> Option<f64> {
        let value = self.get(key.name)?;
        let (min, max) = key.takes.range();
        match value.as_f64() {
            Some(number) if number >= min && number <= max => Some(number),
            _ => self.expected(key, value),
        }
    }

    pub(super) fn seconds(&self, key: &Key) -> Option<Duration> {
        self.number(key).map(Duration::from_secs_f64)
    }

    pub(super) fn count(&self, key: &Key) -> Option<u64> {
        let number = self.number(key)?;
        // 10.0 is a whole number too, however a tool wrote it.
        if number.fract() != 0.0 {
            return self.expected(key, self.get(key.name)?);
        }
        Some(number as u64)
    }

    pub(super) fn flag(&self, key: &Key) -> Option<bool> {
        let value = self.get(key.name)?;
        value.as_bool().or_else(|| self.expected(key, value))
    }

    pub(super) fn list(&self, key: &Key) -> Option<&'a [Value]> {
        let value = self.get(key.name)?;
        value.as_array().map(Vec::as_slice).or_else(|| self.expected(key, value))
    }

    pub(super) fn object(&self, key: &Key) -> Option<&'a Map<String, Value>> {
        let value = self.get(key.name)?;
        value.as_object().or_else(|| self.expected(key, value))
    }
}
