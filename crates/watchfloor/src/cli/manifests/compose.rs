//! `docker-compose.yml`.

use std::collections::BTreeSet;

use docker_compose_types::Compose;
use serde_json::Value;

use super::program::{Understood, understand, variables};
use super::{assert_pinned, assert_same, documents, image, round};

const FILE: &str = "docker-compose.yml";

fn file() -> Value {
    documents(FILE).remove(0)
}

fn services(file: &Value) -> impl Iterator<Item = (&String, &Value)> {
    file["services"].as_object().unwrap().iter()
}

fn ours(file: &Value) -> impl Iterator<Item = (&String, &Value)> {
    services(file).filter(|(_, service)| service["image"] == image::name())
}

/// The text of each item; none where the key is not there.
fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|fields| fields.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn command(name: &str, service: &Value) -> Understood {
    understand(&format!("{FILE}, {name}"), &texts(&service["command"]))
}

/// The settings of the broker here, which Kubernetes' are compared with.
pub(super) fn kafka() -> Vec<(String, String)> {
    let file = file();
    let variables = file["services"]["kafka"]["environment"].as_object().unwrap();
    variables.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

#[test]
fn the_file_is_what_its_type_says() {
    let file = file();
    assert_same(FILE, &file, &round::<Compose>(FILE, &file));
}

#[test]
fn every_role_is_there_with_a_command_that_is_understood() {
    let file = file();
    let verbs: Vec<String> = ours(&file).map(|(name, service)| command(name, service).verb).collect();
    assert_eq!(verbs, ["server", "monitor", "analysis", "agent"]);
}

#[test]
fn a_health_check_asks_where_its_process_listens() {
    let file = file();
    for (name, service) in ours(&file) {
        let test = texts(&service["healthcheck"]["test"]);
        assert_eq!(test[..2], ["CMD", "watchfloor"], "{name}");
        let asked = understand(name, &test[2..]);
        assert_eq!(asked.verb, "health");
        let (asked, listens) =
            (asked.asks().unwrap(), command(name, service).listener("http_listen").unwrap());
        assert_eq!(asked.port(), listens.port(), "{name}");
    }
}

#[test]
fn every_variable_is_known() {
    let (file, known) = (file(), variables());
    for (name, service) in ours(&file) {
        for variable in keys(&service["environment"]) {
            assert!(known.contains(variable), "{name}: {variable}");
        }
    }
}

#[test]
fn ports_are_the_seeds_and_on_loopback_only() {
    let file = file();
    let ports: Vec<(String, String)> = services(&file)
        .flat_map(|(name, service)| texts(&service["ports"]).into_iter().map(|port| (name.clone(), port)))
        .collect();
    let expected =
        [("kafka", 9092), ("etcd", 2379), ("kafka-ui", 8080), ("server", 50051), ("analysis", 8090)];
    let expected: Vec<(String, String)> = expected
        .iter()
        .map(|(name, port)| ((*name).to_owned(), format!("127.0.0.1:{port}:{port}")))
        .collect();
    assert_eq!(ports, expected);
    let listener =
        |name: &str, flag| command(name, &file["services"][name]).listener(flag).unwrap().to_string();
    assert_eq!(listener("server", "grpc_listen"), "0.0.0.0:50051");
    assert_eq!(listener("analysis", "http_listen"), "0.0.0.0:8090");
}

#[test]
fn roles_find_one_another() {
    let file = file();
    let services = &file["services"];
    let kafka = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].as_str().unwrap();
    for (name, service) in ours(&file) {
        let environment = &service["environment"];
        if name == "agent" {
            let server = format!("{}:{}", environment["GRPC_SERVER_HOST"], environment["GRPC_SERVER_PORT"]);
            assert_eq!(server.replace('"', ""), "server:50051");
        } else {
            let brokers = environment["KAFKA_BOOTSTRAP_SERVERS"].as_str().unwrap();
            assert!(kafka.contains(&format!("CLUSTER://{brokers}")), "{name}: {brokers} is not of {kafka}");
            assert!(services[environment["ETCD_HOST"].as_str().unwrap()].is_object(), "{name}");
            assert_eq!(environment["ETCD_PORT"], "2379");
        }
    }
}

#[test]
fn what_is_waited_for_is_there_and_says_when_it_is_healthy() {
    let file = file();
    for (name, service) in services(&file) {
        for awaited in keys(&service["depends_on"]) {
            assert_eq!(service["depends_on"][awaited]["condition"], "service_healthy", "{name}");
            assert!(
                file["services"][awaited]["healthcheck"]["test"].is_array(),
                "{name} waits for {awaited}"
            );
        }
        assert_eq!(service["restart"], "unless-stopped", "{name}");
    }
}

#[test]
fn images_are_pinned_and_state_lies_in_volumes() {
    let file = file();
    let declared = keys(&file["volumes"]);
    for (name, service) in services(&file) {
        assert_pinned(service["image"].as_str().unwrap());
        for volume in texts(&service["volumes"]) {
            let (source, target) = volume.split_once(':').unwrap();
            let is_read_only = target.contains(":ro");
            assert!(source.starts_with('/') == is_read_only, "{name}: {volume}");
            assert!(is_read_only || declared.contains(source), "{name}: {source} is not declared");
        }
    }
    for (name, service) in ours(&file) {
        let volumes = texts(&service["volumes"]);
        assert!(volumes.contains(&format!("{name}-state:{}", image::STATE)), "{name}: {volumes:?}");
    }
}

#[test]
fn one_command_starts_everything_under_the_seeds_names() {
    let file = file();
    for (name, service) in services(&file) {
        assert!(service["profiles"].is_null(), "{name} would not start by itself");
    }
    let names: Vec<&str> = services(&file).map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["kafka", "etcd", "kafka-ui", "server", "monitor", "analysis", "agent"]);
    for name in ["kafka", "etcd"] {
        assert_eq!(file["services"][name]["container_name"], name);
    }
}
