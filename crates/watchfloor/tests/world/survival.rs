//! One long story: a fleet at work, and one thing after another that dies under it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::{AGENTS, ANALYSES, Fleet, MONITORS, PATIENCE, SERVERS, number, wait_until};
use crate::ledger::{Ledger, Run};
use crate::outside::Outside;

/// The agent that is killed, too. Every other one lives through everything.
const VICTIM: &str = AGENTS[4];
/// Config that anybody puts past us is in force by then.
const CONFIG_WITHIN: Duration = Duration::from_secs(1);
/// Enough ticks that every fault meets some on their way.
const CONFIG: &str = r#"{"interval": 0.2, "metrics": ["cpu", "memory"], "plugins": []}"#;

struct World {
    fleet: Fleet,
    outside: Outside,
    /// What had been acknowledged to each run when last looked at: whatever happens, Kafka has it.
    acknowledged: BTreeMap<Run, u64>,
    begun: Instant,
    _directory: tempfile::TempDir,
}

#[test]
fn a_fleet_on_kafka_and_etcd_survives_the_end_of_each_of_its_parts() {
    let mut world = World::start();
    world.metrics_flow();
    world.config_by_etcdctl_applies_within_a_second();
    world.all_five_commands_succeed_on_all();
    world.a_server_dies();
    world.the_leading_monitor_and_an_agent_die();
    world.an_analysis_dies();
    world.kafka_dies();
    world.etcd_goes_away_and_forgets_its_past();
    world.all_five_commands_succeed_on_all();
    world.nothing_acknowledged_is_lost_and_history_has_each_tick_once();
}

impl World {
    fn start() -> Self {
        let begun = Instant::now();
        let directory = tempfile::tempdir().unwrap();
        let outside = Outside::start(directory.path());
        let mut fleet = Fleet::new(directory.path(), outside.flags());
        SERVERS.into_iter().for_each(|id| fleet.server(id));
        MONITORS.into_iter().for_each(|id| fleet.monitor(id));
        ANALYSES.into_iter().for_each(|id| fleet.analysis(id));
        AGENTS.into_iter().for_each(|id| fleet.agent(id));
        let acknowledged = BTreeMap::new();
        let world = Self { fleet, outside, acknowledged, begun, _directory: directory };
        world.tell("kafka, etcd and eleven processes have started");
        world
    }

    fn tell(&self, what: &str) {
        println!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    fn metrics_flow(&mut self) {
        for analysis in ANALYSES {
            wait_until("metrics of all", || {
                let run = self.fleet.cli(analysis, &["get-metrics", "-o", "json"]);
                let newest: Value = serde_json::from_str(&run.out).unwrap_or_default();
                let has_cpu = |record: &Value| record["metrics"]["cpu_percent"].is_f64();
                newest.as_array().is_some_and(|all| all.len() == AGENTS.len() && all.iter().all(has_cpu))
            });
        }
        self.tell("both analyses show metrics of all agents");
    }

    fn config_by_etcdctl_applies_within_a_second(&mut self) {
        for agent in AGENTS {
            self.outside.etcdctl(&["put", &format!("/monitor/config/{agent}"), CONFIG]);
            let took = wait_until("the config", || {
                (self.fleet.metric(agent, "watchfloor_agent_interval_seconds") - 0.2).abs() < 1e-9
            });
            assert!(took < CONFIG_WITHIN, "{agent} took {took:?}");
        }
        self.tell("a config put by etcdctl was in force on every agent within a second");
    }

    fn all_five_commands_succeed_on_all(&mut self) {
        for kind in ["STATUS", "STOP", "START", "UPDATE_CONFIG", "RESTART"] {
            let run = self.fleet.cli("a2", &["send-command", "--all", kind]);
            let all = format!("{} of {0} succeeded", AGENTS.len());
            assert!(run.code == 0 && run.out.contains(&all), "{kind}: {run:?}");
        }
        self.tell("all five commands succeeded on all agents");
        self.flows_on();
    }

    fn a_server_dies(&mut self) {
        self.note_acknowledged();
        self.fleet.kill("s1");
        self.flows_on();
        self.tell("a server was killed, and its agents' data flows through the other one");
        self.fleet.server("s1");
        self.nobody_was_called_offline();
    }

    fn the_leading_monitor_and_an_agent_die(&mut self) {
        self.note_acknowledged();
        let leader: Value = serde_json::from_str(&self.outside.etcdctl(&[
            "get",
            "/monitor/leader/monitor",
            "--print-value-only",
        ]))
        .unwrap();
        let leads = |id: &&&str| leader["id"].as_str().is_some_and(|leader| leader == **id);
        let leader = *MONITORS.iter().find(leads).unwrap_or_else(|| panic!("who is {leader}?"));
        let other = if leader == MONITORS[0] { MONITORS[1] } else { MONITORS[0] };
        self.fleet.kill(leader);
        self.fleet.kill(VICTIM);
        let line = self.fleet.process(other).wait_for(&format!("OFFLINE {VICTIM}"));
        assert!(line.contains("connection lost"), "{line}");
        self.tell(
            "the leading monitor was killed with an agent; the other one told that the agent is OFFLINE",
        );
        self.fleet.monitor(leader);
        self.fleet.agent(VICTIM);
        self.fleet.process(other).wait_for(&format!("ONLINE {VICTIM}"));
        self.flows_on();
        self.tell("both are back");
    }

    fn an_analysis_dies(&mut self) {
        self.note_acknowledged();
        self.fleet.kill("a1");
        self.flows_on();
        self.fleet.analysis("a1");
        wait_until("the fleet as the analysis that was killed sees it", || self.fleet.all_online("a1"));
        self.tell("an analysis was killed and is back");
    }

    fn kafka_dies(&mut self) {
        self.note_acknowledged();
        self.outside.kill_kafka();
        for id in SERVERS.into_iter().chain(MONITORS).chain(ANALYSES) {
            wait_until("word of it", || {
                let health = self.fleet.health(id);
                health["status"] == "DEGRADED" && health["components"]["kafka"]["reason"].is_string()
            });
        }
        let waiting = |fleet: &Fleet| AGENTS.map(|id| fleet.metric(id, "watchfloor_agent_buffer_ticks"));
        let before = waiting(&self.fleet);
        wait_until("agents that collect on", || {
            waiting(&self.fleet).iter().zip(before).all(|(now, before)| *now >= before + 10.0)
        });
        self.note_acknowledged();
        self.tell("kafka was killed; health says so everywhere, and agents keep what they collect");
        self.outside.start_kafka();
        self.flows_on();
        for id in SERVERS.into_iter().chain(MONITORS).chain(ANALYSES) {
            wait_until("health", || self.fleet.health(id)["status"] == "OK");
        }
        self.nobody_was_called_offline();
        self.tell("kafka is back; data flows, and everybody is well");
    }

    fn etcd_goes_away_and_forgets_its_past(&mut self) {
        self.note_acknowledged();
        self.outside.stop_etcd();
        for id in SERVERS {
            wait_until("word of it", || {
                let health = self.fleet.health(id);
                health["status"] == "DEGRADED" && health["components"]["registry"]["reason"].is_string()
            });
        }
        self.flows_on();
        self.tell("etcd was stopped; the servers say so, and data flows on");
        self.outside.start_etcd();
        for agent in AGENTS {
            self.outside.etcdctl(&[
                "put",
                &format!("/monitor/config/{agent}"),
                &CONFIG.replace("0.2", "0.25"),
            ]);
        }
        self.outside.compact();
        for agent in AGENTS {
            wait_until("the config put meanwhile", || {
                (self.fleet.metric(agent, "watchfloor_agent_interval_seconds") - 0.25).abs() < 1e-9
            });
        }
        for id in SERVERS.into_iter().chain(MONITORS).chain(ANALYSES) {
            wait_until("health", || self.fleet.health(id)["status"] == "OK");
        }
        wait_until("all ONLINE", || self.fleet.all_online("a1") && self.fleet.all_online("a2"));
        self.nobody_was_called_offline();
        self.tell("etcd is back without its past; configs put meanwhile are in force, and everybody is well");
    }

    fn nothing_acknowledged_is_lost_and_history_has_each_tick_once(&mut self) {
        let run = self.fleet.cli("a1", &["send-command", "--all", "STOP"]);
        assert_eq!(run.code, 0, "{run:?}");
        for agent in AGENTS {
            wait_until("the last acknowledgement", || {
                self.fleet.metric(agent, "watchfloor_agent_buffer_ticks") == 0.0
            });
            assert_eq!(self.fleet.metric(agent, "watchfloor_agent_ticks_lost_total"), 0.0);
        }
        self.note_acknowledged();
        let data = self.outside.consume("monitoring-data");
        let kept = Ledger::of(&data);
        let mut promised = 0;
        for (run, end) in &self.acknowledged {
            let missing = kept.missing(run, *end);
            assert!(missing.is_empty(), "{run:?} lost {missing:?} of {end} acknowledged ticks");
            promised += end;
        }
        self.tell(&format!(
            "kafka's own consumer found all of {promised} acknowledged ticks among {} ({} came twice)",
            kept.len(),
            kept.repeated
        ));
        for analysis in ANALYSES {
            let arguments = ["get-metrics", "--since", "1h"];
            let begun = Instant::now();
            let history = loop {
                let history = Ledger::of(self.fleet.json(analysis, &arguments).as_array().unwrap());
                if history.ticks() == kept.ticks() {
                    break history;
                }
                let missing = kept.beyond(&history);
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{analysis} has not {missing:?}, and {:?} too much",
                    history.beyond(&kept)
                );
            };
            assert_eq!(history.repeated, 0, "{analysis} has ticks twice");
        }
        self.tell("both histories have exactly these, each once");
        self.every_command_ended_once();
    }

    fn every_command_ended_once(&self) {
        let mut finals: BTreeMap<(String, String), usize> = BTreeMap::new();
        for response in self.outside.consume("command-responses") {
            let word = |name: &str| response[name].as_str().unwrap().to_owned();
            let count = finals.entry((word("command_id"), word("agent_id"))).or_default();
            *count += usize::from(response["final"] == true);
        }
        let wrong: Vec<_> = finals.iter().filter(|(_, count)| **count != 1).collect();
        assert!(wrong.is_empty(), "commands with another number of ends than one: {wrong:?}");
        self.tell(&format!("each of {} commands has one end", finals.len()));
    }

    /// Waits until more of every agent is acknowledged than now.
    fn flows_on(&mut self) {
        for agent in AGENTS {
            let before = self.acknowledged_of(agent);
            wait_until("data that flows on", || {
                let now = self.acknowledged_of(agent);
                // A new run counts anew.
                now.0 != before.0 && now.1 > 0 || now.1 > before.1
            });
        }
    }

    fn note_acknowledged(&mut self) {
        for agent in AGENTS {
            let (run, end) = self.acknowledged_of(agent);
            let noted = self.acknowledged.entry(run).or_default();
            *noted = end.max(*noted);
        }
    }

    /// The run of an agent, and up to which tick its data is acknowledged.
    fn acknowledged_of(&self, agent: &str) -> (Run, u64) {
        let metrics = self.fleet.metrics(agent);
        let info = metrics.lines().find(|line| line.starts_with("watchfloor_agent_info{")).unwrap();
        let run = info.split("incarnation=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let end = number(&metrics, "watchfloor_agent_acknowledged_sequence");
        ((agent.to_owned(), run), end.to_string().parse().unwrap())
    }

    /// Only one agent has ever been away for longer than the timeout.
    fn nobody_was_called_offline(&self) {
        let mut offline = BTreeSet::new();
        for status in self.outside.consume("agent-status") {
            if status["status"] == "OFFLINE" {
                offline.insert(status["agent_id"].as_str().unwrap().to_owned());
            }
        }
        offline.remove(VICTIM);
        assert!(offline.is_empty(), "called OFFLINE though they lived: {offline:?}");
    }
}
