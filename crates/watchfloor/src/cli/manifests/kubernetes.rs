//! `deploy/kubernetes/`: a base and two overlays of kustomize.
//!
//! kustomize itself is not here: files are read as they stand. So overlays change little, and a patch that changes arguments
//! gives all of them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, Probe, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde_json::Value;

use super::program::{Understood, understand, variables};
use super::{assert_pinned, assert_same, compose, difference, documents, image, root, round, typed};

const FOLDER: &str = "deploy/kubernetes";
const FOLDERS: [&str; 3] = ["base", "trial", "existing"];

/// What we use of kustomize, and nothing else of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    api_version: String,
    kind: String,
    #[expect(dead_code, reason = "known to kustomize; which one it is, the files say")]
    namespace: Option<String>,
    resources: Vec<String>,
    #[serde(default)]
    config_map_generator: Vec<Generator>,
    #[serde(default)]
    patches: Vec<Patch>,
    #[serde(default)]
    images: Vec<Image>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Generator {
    name: String,
    #[expect(dead_code, reason = "known to kustomize, needed to merge")]
    namespace: Option<String>,
    behavior: Option<String>,
    literals: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Image {
    name: String,
    #[expect(dead_code, reason = "the operator's to fill in")]
    new_name: String,
    new_tag: String,
}

/// One object of a file.
struct Object {
    place: String,
    kind: String,
    name: String,
    value: Value,
}

/// The pods of a workload.
struct Pods {
    place: String,
    name: String,
    labels: BTreeMap<String, String>,
    spec: PodSpec,
}

fn kustomization(folder: &str) -> Kustomization {
    let path = format!("{FOLDER}/{folder}/kustomization.yaml");
    let read: Kustomization = typed(&path, &documents(&path)[0]);
    assert_eq!(
        (read.api_version.as_str(), read.kind.as_str()),
        ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    );
    read
}

fn objects_of(folder: &str, files: &[String]) -> Vec<Object> {
    let objects = files.iter().filter(|file| !file.starts_with("..")).flat_map(|file| {
        let path = format!("{FOLDER}/{folder}/{file}");
        documents(&path).into_iter().map(move |value| {
            let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{path}: no name")).to_owned();
            let (kind, name) = (text(&value["kind"]), text(&value["metadata"]["name"]));
            Object { place: format!("{path}, {kind} {name}"), kind, name, value }
        })
    });
    objects.collect()
}

fn resources(folder: &str) -> Vec<Object> {
    objects_of(folder, &kustomization(folder).resources)
}

fn patches(folder: &str) -> Vec<Object> {
    let files: Vec<String> = kustomization(folder).patches.into_iter().map(|patch| patch.path).collect();
    objects_of(folder, &files)
}

/// The object after its type.
fn after_type(object: &Object) -> Value {
    let Object { place, value, .. } = object;
    match (value["apiVersion"].as_str().unwrap(), object.kind.as_str()) {
        ("v1", "Namespace") => round::<Namespace>(place, value),
        ("v1", "Service") => round::<Service>(place, value),
        ("v1", "ServiceAccount") => round::<ServiceAccount>(place, value),
        ("apps/v1", "DaemonSet") => round::<DaemonSet>(place, value),
        ("apps/v1", "Deployment") => round::<Deployment>(place, value),
        ("apps/v1", "StatefulSet") => round::<StatefulSet>(place, value),
        ("policy/v1", "PodDisruptionBudget") => round::<PodDisruptionBudget>(place, value),
        (version, kind) => panic!("{place}: no type for {version} {kind}"),
    }
}

fn pods(objects: &[Object]) -> Vec<Pods> {
    let workloads = objects.iter().filter(|object| !object.value["spec"]["template"].is_null());
    let pods = workloads.map(|object| {
        let template = &object.value["spec"]["template"];
        Pods {
            place: object.place.clone(),
            name: object.name.clone(),
            labels: serde_json::from_value(template["metadata"]["labels"].clone()).unwrap_or_default(),
            spec: typed(&object.place, &template["spec"]),
        }
    });
    pods.collect()
}

/// The container of each role in the base.
fn roles() -> Vec<(Pods, Understood)> {
    let pods = pods(&resources("base")).into_iter();
    let roles = pods.map(|pods| {
        let role = understood(&pods.place, &pods.spec.containers[0]);
        (pods, role)
    });
    roles.collect()
}

/// The arguments understood, with a node's name where Kubernetes puts one.
fn understood(place: &str, container: &Container) -> Understood {
    let words =
        container.args.iter().flatten().map(|word| word.replace("$(NODE_NAME)", "node-1.example.org"));
    understand(place, &words.collect::<Vec<_>>())
}

/// The pairs an overlay gives to a role, on top of the base's.
fn settings(folder: &str, name: &str) -> BTreeMap<String, String> {
    let generators =
        ["base", folder].into_iter().flat_map(|folder| kustomization(folder).config_map_generator);
    let literals =
        generators.filter(|generator| generator.name == name).flat_map(|generator| generator.literals);
    literals
        .map(|literal| literal.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap())
        .collect()
}

#[test]
fn every_manifest_is_what_its_type_says() {
    for folder in FOLDERS {
        for object in resources(folder) {
            assert_same(&object.place, &object.value, &after_type(&object));
        }
        // A patch leaves out what it does not change, and its type fills some of it in.
        for object in patches(folder) {
            assert_eq!(difference(&object.value, &after_type(&object), ""), None, "{}", object.place);
        }
    }
}

#[test]
fn every_file_is_used_once_and_every_patch_has_something_to_patch() {
    for folder in FOLDERS {
        let Kustomization { resources: named, patches: changed, images, .. } = kustomization(folder);
        let mut used: Vec<String> = named.into_iter().filter(|file| !file.starts_with("..")).collect();
        used.extend(changed.into_iter().map(|patch| patch.path));
        used.sort();
        let entries = std::fs::read_dir(root().join(FOLDER).join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut there: Vec<String> = names.filter(|name| name != "kustomization.yaml").collect();
        there.sort();
        assert_eq!(used, there, "{folder}");
        for patch in patches(folder) {
            let mut base = resources("base").into_iter();
            assert!(
                base.any(|object| (object.kind, object.name) == (patch.kind.clone(), patch.name.clone()))
            );
        }
        for image in images {
            assert_eq!(format!("{}:{}", image.name, image.new_tag), image::name());
        }
    }
}

#[test]
fn every_role_is_there_with_arguments_that_are_understood() {
    let verbs: Vec<String> = roles().into_iter().map(|(_, role)| role.verb).collect();
    assert_eq!(verbs, ["server", "monitor", "analysis", "agent"]);
    for pods in pods(&patches("existing")) {
        let container = &pods.spec.containers[0];
        if container.args.is_some() {
            let role = understood(&pods.place, container);
            assert!(role.has_tls(), "{}", pods.place);
            assert!(!container.args.iter().flatten().any(|word| word == "--insecure"));
        }
    }
}

#[test]
fn a_patch_of_arguments_keeps_those_of_the_base() {
    for patch in pods(&patches("existing")) {
        let Some(given) = &patch.spec.containers[0].args else { continue };
        let base = pods(&resources("base")).into_iter().find(|base| base.name == patch.name).unwrap();
        let kept = base.spec.containers[0].args.clone().unwrap();
        assert_eq!(given[..kept.len()], kept, "{}", patch.place);
    }
}

#[test]
fn probes_ask_where_the_process_listens() {
    for (pods, role) in roles() {
        let container = &pods.spec.containers[0];
        let listens = role.listener("http_listen").unwrap();
        assert!(listens.ip().is_loopback(), "{}: HTTP has no TLS", pods.place);
        let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
        for probe in probes {
            let command =
                probe.as_ref().and_then(|probe: &Probe| probe.exec.as_ref()?.command.clone()).unwrap();
            assert_eq!(command[0], "watchfloor");
            let health = understand(&pods.place, &command[1..]);
            assert_eq!((health.verb.as_str(), health.asks()), ("health", Some(listens)), "{}", pods.place);
        }
    }
}

#[test]
fn every_variable_is_known_and_comes_from_an_overlay() {
    let known = variables();
    for folder in FOLDERS {
        for generator in kustomization(folder).config_map_generator {
            let expected = (folder != "base").then_some("merge");
            assert_eq!(generator.behavior.as_deref(), expected, "{folder}: {}", generator.name);
            for variable in settings(folder, &generator.name).keys() {
                assert!(known.contains(variable), "{folder}: {variable}");
            }
        }
    }
    for (pods, role) in roles() {
        let from = pods.spec.containers[0].env_from.clone().unwrap();
        let maps: Vec<String> = from.into_iter().map(|from| from.config_map_ref.unwrap().name).collect();
        assert_eq!(maps, [if role.verb == "agent" { "agent" } else { "backends" }], "{}", pods.place);
    }
}

#[test]
fn plain_text_is_said_in_the_trial_only() {
    for map in ["backends", "agent"] {
        let said = |folder| settings(folder, map).get("WATCHFLOOR_INSECURE").cloned();
        assert_eq!(FOLDERS.map(said), [None, Some("true".to_owned()), None], "{map}");
    }
    for (pods, _) in roles() {
        let args = pods.spec.containers[0].args.clone().unwrap();
        assert!(!args.iter().any(|word| word == "--insecure"), "{}", pods.place);
    }
}

#[test]
fn agents_find_the_servers() {
    let settings = settings("base", "agent");
    let (server, role) = roles().into_iter().find(|(_, role)| role.verb == "server").unwrap();
    let listens = role.listener("grpc_listen").unwrap();
    assert_eq!(settings["GRPC_SERVER_HOST"], "server.watchfloor.svc");
    assert_eq!(settings["GRPC_SERVER_PORT"], listens.port().to_string());
    let ports = server.spec.containers[0].ports.clone().unwrap();
    assert_eq!(ports[0].container_port, i32::from(listens.port()));
}

#[test]
fn services_lead_to_ports_of_pods() {
    for folder in ["base", "trial"] {
        let objects = resources(folder);
        let pods = pods(&objects);
        for object in objects.iter().filter(|object| object.kind == "Service") {
            let spec = typed::<Service>(&object.place, &object.value).spec.unwrap();
            let selector = spec.selector.unwrap();
            let chosen =
                |pods: &&Pods| selector.iter().all(|(key, value)| pods.labels.get(key) == Some(value));
            let chosen = pods.iter().find(chosen).unwrap_or_else(|| panic!("{}: no pods", object.place));
            let open = chosen.spec.containers[0].ports.clone().unwrap();
            for port in spec.ports.unwrap() {
                let Some(IntOrString::String(name)) = port.target_port else { panic!("{}", object.place) };
                let target = open.iter().find(|port| port.name.as_ref() == Some(&name)).unwrap();
                assert_eq!(target.container_port, port.port, "{}", object.place);
            }
        }
    }
}

#[test]
fn pods_have_no_rights_that_they_do_not_need() {
    for pods in ["base", "trial"].into_iter().flat_map(|folder| pods(&resources(folder))) {
        let place = &pods.place;
        assert_eq!(pods.spec.automount_service_account_token, Some(false), "{place}");
        // ETCD_PORT and KAFKA_PORT of Kubernetes' making are not what those who read them mean.
        assert_eq!(pods.spec.enable_service_links, Some(false), "{place}");
        assert_eq!(pods.spec.security_context.clone().unwrap().run_as_non_root, Some(true), "{place}");
        for container in &pods.spec.containers {
            assert_pinned(container.image.as_ref().unwrap());
            let rights = container.security_context.clone().unwrap();
            assert_eq!(rights.allow_privilege_escalation, Some(false), "{place}");
            assert_eq!(rights.capabilities.unwrap().drop.unwrap(), ["ALL"], "{place}");
            assert!(
                container.resources.as_ref().is_some_and(|resources| resources.limits.is_some()),
                "{place}"
            );
        }
    }
}

#[test]
fn roles_keep_their_state_where_the_image_does() {
    for (pods, role) in roles() {
        let container = &pods.spec.containers[0];
        assert_eq!(container.image.as_ref(), Some(&image::name()));
        let user = pods.spec.security_context.as_ref().and_then(|context| context.run_as_user);
        assert_eq!(user, Some(image::USER), "{}", pods.place);
        let mounts = container.volume_mounts.clone().unwrap();
        let state = mounts.iter().find(|mount| mount.name == "state").unwrap();
        assert_eq!(state.mount_path, image::STATE, "{}", pods.place);
        let writable: Vec<&str> = mounts
            .iter()
            .filter(|mount| mount.read_only != Some(true))
            .map(|mount| mount.name.as_str())
            .collect();
        assert_eq!(writable, ["state"], "{}", pods.place);
        if role.verb == "agent" {
            let init = &pods.spec.init_containers.as_ref().unwrap()[0];
            assert_eq!(init.command.as_ref().unwrap()[1], format!("{0}:{0}", image::USER));
        }
    }
}

#[test]
fn the_seeds_lines_find_what_they_name() {
    let trial = resources("trial");
    let kafka = trial.iter().find(|object| object.kind == "StatefulSet" && object.name == "kafka").unwrap();
    assert_eq!(kafka.value["metadata"]["namespace"], "kafka");
    assert_eq!(kafka.value["spec"]["ordinals"]["start"], 1, "the pod is kafka-1");
    let etcd = trial.iter().find(|object| object.kind == "Service" && object.name == "etcd").unwrap();
    assert_eq!(etcd.value["spec"]["ports"][0]["nodePort"], 32_379);
    let settings = settings("trial", "backends");
    assert_eq!(
        settings["ETCD_HOST"],
        format!("etcd.{}.svc", etcd.value["metadata"]["namespace"].as_str().unwrap())
    );
    assert_eq!(etcd.value["spec"]["ports"][0]["port"].to_string(), settings["ETCD_PORT"]);
}

#[test]
fn both_trials_set_their_broker_up_alike() {
    let trial = pods(&resources("trial"));
    let kafka = trial.iter().find(|pods| pods.name == "kafka").unwrap();
    let here: BTreeMap<String, String> = kafka.spec.containers[0]
        .env
        .clone()
        .unwrap()
        .into_iter()
        .map(|pair| (pair.name, pair.value.unwrap()))
        .collect();
    let there: BTreeMap<String, String> = compose::kafka().into_iter().collect();
    assert!(here.keys().eq(there.keys()), "{here:?} {there:?}");
    let differ: Vec<&str> =
        here.iter().filter(|(name, value)| there[*name] != **value).map(|(name, _)| name.as_str()).collect();
    assert_eq!(differ, ["CLUSTER_ID", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_LISTENERS"]);
    let brokers = &settings("trial", "backends")["KAFKA_BOOTSTRAP_SERVERS"];
    assert_eq!(here["KAFKA_ADVERTISED_LISTENERS"], format!("HOST://localhost:9092,CLUSTER://{brokers}"));
}
