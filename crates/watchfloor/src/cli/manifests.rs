//! A manifest is a claim, too: what the container files say is held against the real command line, against the types of
//! Kubernetes and Compose, and against each other.
//!
//! Types forgive names that they do not know. So each manifest goes through its type and back, and must come back as it was:
//! what the type did not know is lost on the way, and seen.

mod compose;
mod image;
mod kubernetes;
mod program;

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML file, merge keys merged.
fn documents(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = serde_norway::Deserializer::from_str(&text);
    let values = documents.map(|document| {
        let mut value = <serde_norway::Value as serde::Deserialize>::deserialize(document)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        value.apply_merge().unwrap();
        serde_json::to_value(value).unwrap()
    });
    values.collect()
}

/// The value as its type has it.
fn typed<T: DeserializeOwned>(place: &str, value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{place}: {error}"))
}

/// What is left of the value after its type.
fn round<T: DeserializeOwned + Serialize>(place: &str, value: &Value) -> Value {
    serde_json::to_value(typed::<T>(place, value)).unwrap()
}

/// Where `left` has something that `right` has not, or has otherwise. Null is the same as absent.
fn difference(left: &Value, right: &Value, at: &str) -> Option<String> {
    match (left, right) {
        (Value::Null, Value::Null) => None,
        (Value::Object(fields), Value::Object(_)) => {
            fields.iter().find_map(|(key, value)| difference(value, &right[key], &format!("{at}.{key}")))
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            (0..).zip(items.iter().zip(others)).find_map(|(index, (item, other)): (usize, _)| {
                difference(item, other, &format!("{at}[{index}]"))
            })
        }
        (left, right) if left == right => None,
        (left, right) => Some(format!("{at}: {left} is not {right}")),
    }
}

#[track_caller]
fn assert_same(place: &str, value: &Value, after: &Value) {
    let fault = difference(value, after, "").or_else(|| difference(after, value, ""));
    assert!(fault.is_none(), "{place}: {}", fault.unwrap());
}

/// A tag that says which version, so that tomorrow's image is today's.
fn assert_pinned(image: &str) {
    let tag = image.rsplit_once(':').map(|(_, tag)| tag);
    let is_pinned = tag.is_some_and(|tag| tag.contains(|c: char| c.is_ascii_digit()));
    assert!(is_pinned || image == image::BASE, "{image} is not pinned");
}

#[test]
fn what_a_type_does_not_know_is_found_wherever_it_stands() {
    use k8s_openapi::api::core::v1::Service;
    let service = |yaml: &str| serde_norway::from_str::<Value>(yaml).unwrap();
    let good = service("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}");
    assert_same("good", &good, &round::<Service>("good", &good));
    let bad =
        service("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1, prot: 2}]}}");
    let fault = difference(&bad, &round::<Service>("bad", &bad), "").unwrap();
    assert!(fault.starts_with(".spec.ports[0].prot: "), "{fault}");
}
