//! What OpenAPI says of the model's types, which know no OpenAPI themselves.
//!
//! The words of an enum are asked of serde, so they cannot differ from the JSON. The structs here are never made; a test
//! holds their fields against the model's.

use model::sample::SystemMetrics as Metrics;
use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Visitor};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

/// An enum that is one of a few words.
pub fn words<T: for<'de> Deserialize<'de>>() -> Object {
    let mut variants = Variants(&[]);
    // Nothing is read: the variants are what was asked for.
    drop(T::deserialize(&mut variants));
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(variants.0.iter().copied())).build()
}

/// The eight metrics, each of which may be absent.
pub fn system_metrics() -> Object {
    let object = ObjectBuilder::new().schema_type(Type::Object);
    let number = || ObjectBuilder::new().schema_type(Type::Number);
    Metrics::NAMES.iter().fold(object, |object, name| object.property(*name, number())).build()
}

/// [`CommandTarget`](crate::api::CommandTarget).
#[derive(Debug, ToSchema, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandTarget {
    Agents(Vec<String>),
    Selector(String),
    All,
}

/// [`model::sample::Sample`].
#[derive(Debug, ToSchema)]
pub struct Sample {
    pub name: String,
    /// Absent when the series has none.
    #[schema(required = false)]
    pub attributes: std::collections::BTreeMap<String, String>,
    pub value: f64,
}

/// [`model::truth::ConfigTruth`]; what has not happened is absent.
#[derive(Debug, ToSchema)]
pub struct ConfigTruth {
    /// What the registry asks for.
    pub desired: Option<Mark>,
    pub received: Option<Mark>,
    pub running: Option<Mark>,
    pub last_good: Option<Mark>,
    pub last_failed: Option<Failure>,
}

/// [`model::truth::Mark`]: one version of an effective config.
#[derive(Debug, ToSchema)]
pub struct Mark {
    pub revision: u64,
    pub digest: String,
}

/// [`model::truth::Failure`]: a refused version, where and why.
#[derive(Debug, ToSchema)]
pub struct Failure {
    pub revision: u64,
    pub digest: String,
    #[schema(schema_with = words::<model::truth::Stage>)]
    pub stage: model::truth::Stage,
    pub path: String,
    pub message: String,
    #[schema(format = DateTime)]
    pub at: String,
}

/// Asked for an enum, it notes the variants.
struct Variants(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut Variants {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("not an enum"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0 = variants;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use model::id::Revision;
    use model::presence::Presence;
    use model::sample::Timestamp;
    use model::truth;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_target_reads_as_it_is_described() {
        for target in [
            CommandTarget::Agents(vec!["a".to_owned()]),
            CommandTarget::Selector("role=db".to_owned()),
            CommandTarget::All,
        ] {
            let json = serde_json::to_value(target).unwrap();
            let read: crate::api::CommandTarget = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), json);
        }
    }

    fn fields(json: &Value) -> Vec<&str> {
        let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn agrees<T: utoipa::PartialSchema>(example: &impl serde::Serialize) {
        let schema = serde_json::to_value(T::schema()).unwrap();
        let example = serde_json::to_value(example).unwrap();
        assert_eq!(fields(&schema["properties"]), fields(&example));
    }

    #[test]
    fn the_words_of_an_enum_are_those_of_its_json() {
        let words = serde_json::to_value(words::<Presence>()).unwrap();
        let expected = ["ONLINE", "LATE", "OFFLINE", "SHUTDOWN", "RESTARTING", "DUPLICATE", "NEVER_SEEN"];
        assert_eq!(words["enum"], serde_json::json!(expected));
    }

    #[test]
    fn the_structs_have_the_models_fields() {
        let mark = truth::Mark { revision: Revision(1), digest: "d".to_owned() };
        let failure = truth::Failure {
            mark: mark.clone(),
            stage: truth::Stage::Parse,
            path: String::new(),
            message: String::new(),
            at: Timestamp::default(),
        };
        let key = model::sample::SeriesKey::new("load").with("cpu", "0");
        agrees::<Mark>(&mark);
        agrees::<Failure>(&failure);
        agrees::<ConfigTruth>(&truth::ConfigTruth {
            desired: Some(mark.clone()),
            received: Some(mark.clone()),
            running: Some(mark.clone()),
            last_good: Some(mark),
            last_failed: Some(failure),
        });
        agrees::<Sample>(&model::sample::Sample { key, value: 1.0 });
    }
}
