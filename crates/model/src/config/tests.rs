//! What a config may say, what it then means, and how a wrong one is refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::truth::Stage;

/// Any JSON, with the words of a config among its keys and texts.
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "interval",
            "metrics",
            "plugins",
            "thresholds",
            "window_size",
            "send_idle",
            "name",
            "config",
            "tolerance",
            "conditions",
            "field",
            "op",
            "value",
            "cpu_percent",
            "deduplication",
            "filter",
            "wasm:x",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn only_plugin(text: &str) -> PluginConfig {
    parse(text).unwrap().plugins()[0].clone()
}

/// Path and message of each fault.
fn faults(text: &str) -> Vec<(String, String)> {
    let error = parse(text).unwrap_err();
    error.faults().iter().map(|fault| (fault.path.clone(), fault.message.clone())).collect()
}

#[test]
fn an_empty_object_is_a_config() {
    assert_eq!(parse("{}"), Ok(AgentConfig::default()));
    assert_eq!(parse(r#"{"interval": 0.5}"#).unwrap().interval(), Duration::from_millis(500));
}

#[test]
fn the_seeds_config_means_what_the_seeds_say() {
    let config = parse(
        r#"{"interval": 5, "metrics": ["cpu","memory","disk read","disk write","net in","net out"],
            "plugins": ["agent.plugins.deduplication.DeduplicationPlugin",
                        "agent.plugins.threshold_alert.ThresholdAlertPlugin",
                        "agent.plugins.aggregation.AggregationPlugin", "agent.plugins.filter.FilterPlugin"],
            "thresholds": {"cpu_percent": 70.0, "memory_percent": 85.0}, "window_size": 7,
            "min_cpu": 1.5, "min_memory": 0.0, "send_idle": true}"#,
    )
    .unwrap();
    assert_eq!(config.metrics().iter().copied().collect::<Vec<_>>(), MetricName::SEED_SIX);
    let [
        _,
        PluginConfig::ThresholdAlert(alert),
        PluginConfig::Aggregation(window),
        PluginConfig::Filter(filter),
    ] = config.plugins()
    else {
        panic!("{:?}", config.plugins());
    };
    assert_eq!(alert.thresholds[&Field::Metric(0)], 70.0);
    assert_eq!(window.window, Window::Ticks(7));
    assert_eq!((filter.min_cpu, filter.send_idle), (1.5, true));
}

#[test]
fn class_paths_and_short_names_are_the_same_plugins() {
    for plugin in keys::BUILT_IN {
        let short = only_plugin(&json!({"plugins": [plugin.name]}).to_string());
        assert_eq!(short.name(), plugin.name);
        assert_eq!(short, only_plugin(&json!({"plugins": [plugin.class]}).to_string()));
        assert_eq!(
            short,
            only_plugin(&json!({"plugins": [{"name": plugin.class, "config": {}}]}).to_string())
        );
    }
}

#[test]
fn a_class_path_nobody_built_in_names_a_pushed_plugin() {
    for (name, version, given) in [
        ("wasm:my_plugin", None, "agent.plugins.my_plugin.MyPlugin"),
        ("wasm:thin", None, "wasm:thin"),
        ("wasm:thin", Some("1.2.0"), "wasm:thin@1.2.0"),
    ] {
        let PluginConfig::Sandboxed(plugin) = only_plugin(&json!({"plugins": [given]}).to_string()) else {
            panic!("{given} is built in");
        };
        assert_eq!((plugin.name.as_str(), plugin.version.as_deref()), (name, version));
    }
    for given in ["wasm:", "wasm:a@", "wasm:a b", "a..b", "../x.y"] {
        assert!(parse(&json!({"plugins": [given]}).to_string()).is_err(), "{given}");
    }
}

#[test]
fn a_plugins_own_config_beats_the_shorthand() {
    let text = r#"{"window_seconds": 60, "min_cpu": 5, "min_memory": 6, "plugins": [
        {"name": "aggregation", "config": {"window_size": 3}}, {"name": "filter", "config": {"min_cpu": 1}}]}"#;
    let config = parse(text).unwrap();
    let [PluginConfig::Aggregation(window), PluginConfig::Filter(filter)] = config.plugins() else {
        panic!()
    };
    assert_eq!(window.window, Window::Ticks(3));
    assert_eq!((filter.min_cpu, filter.min_memory), (1.0, 6.0));
}

#[test]
fn a_filter_that_nobody_told_anything_drops_idle_records() {
    for (config, send_idle) in [
        (json!({"plugins": ["filter"]}), false),
        (json!({"plugins": ["filter"], "min_cpu": 5}), true),
        (json!({"plugins": ["filter"], "min_cpu": 5, "send_idle": false}), false),
        (json!({"plugins": ["filter"], "send_idle": true}), true),
    ] {
        let PluginConfig::Filter(filter) = only_plugin(&config.to_string()) else { panic!() };
        assert_eq!(filter.send_idle, send_idle, "{config}");
    }
}

#[test]
fn tolerance_zero_is_exact() {
    let text = r#"{"plugins": [{"name": "deduplication", "config": {"tolerance": 0}}]}"#;
    let PluginConfig::Deduplication(dedup) = only_plugin(text) else { panic!() };
    assert_eq!((dedup.points, dedup.percent, dedup.rate_mb), (0.0, 0.0, 0.0));
}

#[test]
fn a_fault_is_named_with_its_path_and_what_to_write() {
    for (text, path, message) in [
        (
            r#"{"intervl": 5}"#,
            "intervl",
            r#"unknown key "intervl": did you mean "interval"? known: interval, metrics"#,
        ),
        (r#"{"interval": 0.05}"#, "interval", "expected seconds, 0.1 to 3600, found 0.05"),
        (r#"{"interval": "5"}"#, "interval", "expected seconds, 0.1 to 3600, found a text"),
        (r#"{"window_size": 2.5}"#, "window_size", "expected a whole number, 1 to 10000, found 2.5"),
        (r#"{"metrics": ["cpu", "gpu"]}"#, "metrics[1]", r#"unknown metric "gpu""#),
        (r#"{"metrics": "cpu"}"#, "metrics", "expected a list of metric names, found a text"),
        (
            r#"{"plugins": ["dedup"]}"#,
            "plugins[0]",
            r#"unknown plugin "dedup": did you mean "deduplication"?"#,
        ),
        (r#"{"plugins": [5]}"#, "plugins[0]", "expected a plugin's name"),
        (r#"{"plugins": [{"config": {}}]}"#, "plugins[0].name", "expected the plugin's name"),
        (r#"{"plugins": [{"name": "filter", "conf": {}}]}"#, "plugins[0].conf", "unknown key of a plugin"),
        (
            r#"{"plugins": ["filter", {"name": "deduplication", "config": {"tolerance": -1}}]}"#,
            "plugins[1].config.tolerance",
            "expected a number, 0 to 100, found -1",
        ),
        (
            r#"{"plugins": [{"name": "aggregation", "config": {"window": 5}}]}"#,
            "plugins[0].config.window",
            r#"unknown setting of aggregation "window": did you mean "window_size"?"#,
        ),
        (
            r#"{"thresholds": {"cpu": 80}}"#,
            "thresholds.cpu",
            r#"unknown field "cpu": did you mean "cpu_percent"?"#,
        ),
        (
            r#"{"thresholds": {"cpu_percent": 800}}"#,
            "thresholds.cpu_percent",
            "a number, 0 to 100, found 800",
        ),
        (
            r#"{"plugins": [{"name": "filter", "config": {"conditions": [{"field": "cpu_percent", "op": "=", "value": 1}]}}]}"#,
            "plugins[0].config.conditions[0].op",
            r#"unknown comparison "=""#,
        ),
    ] {
        let found = faults(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].0, path, "{text}");
        assert!(found[0].1.contains(message), "{text}: {}", found[0].1);
    }
}

#[test]
fn all_faults_are_listed_up_to_a_limit() {
    let found = faults(r#"{"interval": 0, "metrics": ["x"], "plugins": ["y"], "zzz": 1}"#);
    assert_eq!(found.len(), 4, "{found:?}");
    let many = json!({"plugins": vec!["nothing"; 1_000]}).to_string();
    assert_eq!(faults(&many).len(), crate::limit::CONFIG_FAULTS_MAX);
}

#[test]
fn null_is_absence() {
    assert_eq!(parse(r#"{"interval": null, "thresholds": {"cpu_percent": null}}"#), parse("{}"));
}

#[test]
fn stating_a_default_changes_nothing() {
    for key in keys::AGENT {
        let Ok(value) = serde_json::from_str::<Value>(key.default) else { continue };
        // The shorthand is taken beside another rule, because saying anything ends the filter's idle rule.
        let filter = json!({"name": "filter", "config": {"send_idle": true}});
        let plugins = json!(["deduplication", "threshold_alert", "aggregation", filter]);
        let stated = json!({"plugins": plugins.clone(), key.name: value});
        if key.name != "plugins" {
            assert_eq!(check(&stated), check(&json!({"plugins": plugins})), "{}", key.name);
        }
    }
    for plugin in keys::BUILT_IN {
        for key in plugin.keys {
            let Ok(value) = serde_json::from_str::<Value>(key.default) else { continue };
            let with = |config: Value| json!({"plugins": [{"name": plugin.name, "config": config}]});
            let idle = if plugin.name == "filter" { json!({"send_idle": true}) } else { json!({}) };
            let mut stated = idle.clone();
            stated[key.name] = value;
            assert_eq!(check(&with(stated)), check(&with(idle)), "{}.{}", plugin.name, key.name);
        }
    }
}

#[test]
fn the_document_describes_every_key_and_shows_only_valid_configs() {
    let document = include_str!("../../../../docs/config.md");
    let plugin_keys = keys::BUILT_IN.iter().flat_map(|plugin| plugin.keys.iter());
    for key in keys::AGENT.iter().chain(plugin_keys) {
        let row = format!("| `{}` | {} | {} | {} |", key.name, key.takes, key.default, key.meaning);
        assert!(document.contains(&row), "docs/config.md lacks this row:\n{row}");
    }
    for name in MetricName::ALL {
        assert!(document.contains(&format!("| `{name}` | ")), "docs/config.md lacks the metric {name}");
    }
    for plugin in keys::BUILT_IN {
        assert!(document.contains(plugin.class) && document.contains(plugin.summary), "{}", plugin.name);
    }
    let blocks: Vec<&str> =
        document.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() > 5);
    for block in blocks {
        parse(block).unwrap_or_else(|error| panic!("{error} in\n{block}"));
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = parse(&text) {
            prop_assert!(!error.faults().is_empty());
        }
    }

    #[test]
    fn no_json_makes_the_reader_panic_and_a_refusal_is_short(json in any_json()) {
        if let Err(error) = parse(&json.to_string()) {
            prop_assert!(error.to_string().len() < 20_000);
            prop_assert!(!error.to_string().contains(char::is_control), "{}", error);
        }
        if let Err(error) = check(&json) {
            prop_assert_eq!(error.stage(), Stage::Validate);
        }
    }
}
