//! What a process says once it runs: what is where, and what to try next.

use std::io::Write;
use std::path::Path;

use super::backends::Choice;
use super::central::Addresses;
use crate::cli::render::{self, Cell};

/// The address operators' commands use when nothing is said.
const DEFAULT_API_PORT: u16 = 8090;

/// What there is to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Banner<'a> {
    pub(super) what: &'a str,
    pub(super) addresses: &'a Addresses,
    pub(super) choice: &'a Choice,
    /// Whether HTTP is the API, or health and metrics alone.
    pub(super) console: bool,
    pub(super) data: &'a Path,
    /// The agent in this process.
    pub(super) agent: Option<&'a str>,
}

/// Prints to the standard output. That nobody reads it stops nothing.
pub(super) fn print(banner: &Banner<'_>) {
    drop(write(&mut anstream::stdout(), banner));
}

fn write(out: &mut impl Write, banner: &Banner<'_>) -> std::io::Result<()> {
    let Banner { what, addresses, choice, console, data, agent } = *banner;
    let version = env!("CARGO_PKG_VERSION");
    let dim = |text: &str| Cell::styled(text, render::DIM).to_string();
    writeln!(out, "{} {version}: {what}", Cell::styled("Watchfloor", render::BOLD))?;
    if let Some(grpc) = addresses.grpc {
        writeln!(out, "  gRPC      {grpc}  {}", dim("agents connect here"))?;
    }
    let routes =
        if console { "API under /api/v1, /metrics, /readyz" } else { "/metrics, /readyz, /api/v1/health" };
    writeln!(out, "  HTTP      http://{}  {}", addresses.http, dim(routes))?;
    if let Some(agent) = agent {
        writeln!(out, "  agent     {agent}  {}", dim("watches this machine"))?;
    }
    if let Choice::External { brokers, etcd } = choice {
        writeln!(out, "  bus       kafka://{brokers}")?;
        writeln!(out, "  registry  {etcd}")?;
    }
    writeln!(out, "  data      {}", data.display())?;
    if addresses.grpc.is_some() || console {
        write_next(out, banner)?;
    }
    out.flush()
}

/// What to try in another terminal.
fn write_next(out: &mut impl Write, banner: &Banner<'_>) -> std::io::Result<()> {
    let Addresses { grpc, http, .. } = banner.addresses;
    writeln!(out, "Try next, in another terminal:")?;
    let default = http.port() == DEFAULT_API_PORT;
    let api = if default { String::new() } else { format!(" --api http://{http}") };
    if banner.console {
        writeln!(out, "  watchfloor get-metrics --follow{api}")?;
    }
    if let Some(agent) = banner.agent {
        writeln!(out, "  watchfloor send-command {agent} STATUS{api}")?;
        return writeln!(out, "  watchfloor config set {agent} '{{\"interval\": 0.5}}'{api}");
    }
    if let Some(grpc) = grpc {
        writeln!(out, "  watchfloor agent --agent-id agent-001 --server {grpc}")?;
    }
    if banner.console {
        writeln!(out, "  watchfloor agents{api}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(what: &str, grpc: Option<u16>, choice: &Choice, console: bool, agent: Option<&str>) -> String {
        let local = |port| ([127, 0, 0, 1], port).into();
        let addresses = Addresses { pid: 1, grpc: grpc.map(local), http: local(4000) };
        let data = Path::new("./watchfloor-data");
        let mut out = anstream::StripStream::new(Vec::new());
        write(&mut out, &Banner { what, addresses: &addresses, choice, console, data, agent }).unwrap();
        String::from_utf8(out.into_inner()).unwrap().replace(env!("CARGO_PKG_VERSION"), "0.0.0")
    }

    #[test]
    fn the_banner_says_what_runs_where_and_what_to_try() {
        let text = text("every role", Some(50051), &Choice::Embedded, true, Some("host-1"));
        insta::assert_snapshot!(text, @r#"
        Watchfloor 0.0.0: every role
          gRPC      127.0.0.1:50051  agents connect here
          HTTP      http://127.0.0.1:4000  API under /api/v1, /metrics, /readyz
          agent     host-1  watches this machine
          data      ./watchfloor-data
        Try next, in another terminal:
          watchfloor get-metrics --follow --api http://127.0.0.1:4000
          watchfloor send-command host-1 STATUS --api http://127.0.0.1:4000
          watchfloor config set host-1 '{"interval": 0.5}' --api http://127.0.0.1:4000
        "#);
    }

    #[test]
    fn a_role_alone_says_what_it_stands_on() {
        let external = Choice::External { brokers: "k:9092".to_owned(), etcd: "etcd://e:2379".to_owned() };
        insta::assert_snapshot!(text("monitor m1", None, &external, false, None), @r#"
        Watchfloor 0.0.0: monitor m1
          HTTP      http://127.0.0.1:4000  /metrics, /readyz, /api/v1/health
          bus       kafka://k:9092
          registry  etcd://e:2379
          data      ./watchfloor-data
        "#);
        insta::assert_snapshot!(text("server s1", Some(50051), &external, false, None), @r#"
        Watchfloor 0.0.0: server s1
          gRPC      127.0.0.1:50051  agents connect here
          HTTP      http://127.0.0.1:4000  /metrics, /readyz, /api/v1/health
          bus       kafka://k:9092
          registry  etcd://e:2379
          data      ./watchfloor-data
        Try next, in another terminal:
          watchfloor agent --agent-id agent-001 --server 127.0.0.1:50051
        "#);
    }
}
