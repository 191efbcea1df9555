//! What differs between two configs, key by key.

use serde_json::Value;

use super::fault::Path;

/// One difference. `None` is absence.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    pub path: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// Every difference between two JSON values, the smallest parts that differ, in the order of their keys. Lists are
/// compared entry by entry.
pub fn diff(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&Path::Root, Some(old), Some(new), &mut changes);
    changes
}

fn compare(path: &Path<'_>, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    match (old, new) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut keys: Vec<&String> =
                a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).collect();
            keys.sort();
            for key in keys {
                compare(&Path::Key(path, key), a.get(key), b.get(key), changes);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                compare(&Path::Index(path, index), a.get(index), b.get(index), changes);
            }
        }
        _ if old == new => {}
        _ => {
            changes.push(Change { path: path.to_string(), old: old.cloned(), new: new.cloned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_smallest_parts_that_differ_are_named() {
        let old =
            json!({"interval": 5, "plugins": ["filter", "aggregation"], "thresholds": {"cpu_percent": 80}});
        let new =
            json!({"plugins": ["filter"], "interval": 5, "thresholds": {"cpu_percent": 90}, "min_cpu": 1});
        let changes: Vec<String> = diff(&old, &new)
            .into_iter()
            .map(|c| {
                format!("{} {:?} {:?}", c.path, c.old.map(|v| v.to_string()), c.new.map(|v| v.to_string()))
            })
            .collect();
        assert_eq!(
            changes,
            [
                r#"min_cpu None Some("1")"#,
                r#"plugins[1] Some("\"aggregation\"") None"#,
                r#"thresholds.cpu_percent Some("80") Some("90")"#,
            ]
        );
        assert_eq!(diff(&new, &new), []);
    }
}
