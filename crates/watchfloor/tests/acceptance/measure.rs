//! `watchfloor bench`: that it measures, not how fast this machine is.

use serde_json::Value;

use crate::sandbox::run;

#[test]
fn the_embedded_bus_is_measured_without_kafka_and_nothing_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let arguments = ["bench", "bus", "--records", "2000", "--rounds", "1", "-o", "json", "--data-dir"];
    let run = run(arguments.into_iter().chain([data.to_str().unwrap()]));
    assert_eq!(run.code, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.out).unwrap();
    let conditions = &report["conditions"];
    assert_eq!(
        (&conditions["kafka"], &conditions["records"]),
        (&Value::Null, &Value::from(2_048)),
        "whole batches"
    );
    let rows = report["rows"].as_array().unwrap();
    let turns: Vec<_> = rows.iter().map(|row| (row["turn"].as_str(), row["through"].as_str())).collect();
    assert_eq!(turns, [(Some("publish"), Some("embedded")), (Some("read"), Some("embedded"))]);
    for row in rows {
        let [rate, bytes, cpu] = ["records_per_second", "mb_per_second", "cpu_us_per_record"]
            .map(|name| row[name]["median"].as_f64().unwrap());
        assert!(rate > 0.0 && bytes > 0.0 && cpu > 0.0, "{row}");
        assert_eq!(row["ratio_to_librdkafka"], Value::Null);
    }
    assert!(run.err.contains("publish through embedded bus"), "{run:?}");
    assert!(!data.exists(), "the directory it made is still there");
}

#[test]
fn a_kafka_that_cannot_be_spoken_to_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let arguments = ["bench", "bus", "--kafka", "kafka.example:9092", "--data-dir", data.to_str().unwrap()];
    let run = run(arguments);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.err.contains("--insecure"), "{run:?}");
    assert!(!data.exists());
}
