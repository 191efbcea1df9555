//! Strict JSON: what two readers could understand differently is refused.
//!
//! `serde_json` alone keeps the last of two equal keys without a word. Here equal keys are a fault with a path, and
//! size and depth have limits, before anything looks at the meaning.

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::fault::{ConfigError, Faults, Path};
use crate::limit::{CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX};
use crate::truth::Stage;

/// Reads one JSON object.
pub fn read_object(text: &str) -> Result<Value, ConfigError> {
    let refuse = |message: String| Err(ConfigError::new(Stage::Parse, "", message));
    if text.len() > CONFIG_BYTES_MAX {
        return refuse(format!(
            "the config has {} bytes: at most {CONFIG_BYTES_MAX} are allowed",
            text.len()
        ));
    }
    let faults = Faults::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { path: &Path::Root, faults: &faults }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    match value {
        Err(error) => refuse(format!("not valid JSON: {error}")),
        Ok(value) if !value.is_object() => {
            refuse(format!("the config is {}: write a JSON object, {{...}}", kind(&value)))
        }
        Ok(value) => faults.into_result(value),
    }
}

/// What a value is, in words for a message.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    path: &'a Path<'a>,
    faults: &'a Faults,
}

impl Strict<'_> {
    fn check_depth<E: Error>(&self) -> Result<(), E> {
        if self.path.depth() >= CONFIG_DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {CONFIG_DEPTH_MAX} levels")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut values = Vec::new();
        while let Some(value) = {
            let path = Path::Index(self.path, values.len());
            list.next_element_seed(Strict { path: &path, faults: self.faults })?
        } {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut values = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            let path = Path::Key(self.path, &key);
            if values.contains_key(&key) {
                self.faults.add(Stage::Parse, &path, "the key is given twice: keep one");
            }
            let value = object.next_value_seed(Strict { path: &path, faults: self.faults })?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_given_twice_is_refused_with_its_path() {
        let error = read_object(r#"{"plugins":[{"config":{"for":1,"for":2}}],"interval":1,"interval":2}"#);
        let paths: Vec<String> = error.unwrap_err().faults().iter().map(|fault| fault.path.clone()).collect();
        assert_eq!(paths, ["plugins[0].config.for", "interval"]);
    }

    #[test]
    fn what_is_not_a_small_shallow_json_object_is_refused_while_parsing() {
        let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(CONFIG_BYTES_MAX));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for text in
            ["", "interval: 5", "[]", "5", "null", "{}{}", r#"{"a":NaN}"#, r#"{"a":1e999}"#, &huge, &deep]
        {
            let error = read_object(text).unwrap_err();
            assert_eq!((error.stage(), error.path()), (Stage::Parse, ""), "{error}");
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn the_depth_has_a_limit_of_our_own() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(read_object(&nested(CONFIG_DEPTH_MAX)).is_ok());
        let error = read_object(&nested(CONFIG_DEPTH_MAX + 1)).unwrap_err();
        assert!(error.message().contains("nested deeper than 16 levels"), "{error}");
    }

    #[test]
    fn a_syntax_error_says_where() {
        let error = read_object("{\n\"interval\" 5}").unwrap_err();
        assert!(error.message().contains("line 2 column 12"), "{error}");
    }
}
