//! What a process says once it runs: what is where, and what to try next.

use std::io::Write;
use std::path::Path;

use super::central::Addresses;
use crate::cli::render::{self, Cell};

/// The address operators' commands use when nothing is said.
const DEFAULT_API_PORT: u16 = 8090;

/// Prints to the standard output. That nobody reads it stops nothing.
pub(super) fn print(what: &str, addresses: &Addresses, data: &Path, local_agent: Option<&str>) {
    drop(write(&mut anstream::stdout(), what, addresses, data, local_agent));
}

fn write(
    out: &mut impl Write,
    what: &str,
    addresses: &Addresses,
    data: &Path,
    local_agent: Option<&str>,
) -> std::io::Result<()> {
    let Addresses { grpc, http, .. } = addresses;
    let version = env!("CARGO_PKG_VERSION");
    let dim = |text: &str| Cell::styled(text, render::DIM).to_string();
    writeln!(out, "{} {version}: {what}", Cell::styled("Watchfloor", render::BOLD))?;
    writeln!(out, "  gRPC   {grpc}  {}", dim("agents connect here"))?;
    writeln!(out, "  HTTP   http://{http}  {}", dim("API under /api/v1, /metrics, /readyz"))?;
    if let Some(agent) = local_agent {
        writeln!(out, "  agent  {agent}  {}", dim("watches this machine"))?;
    }
    writeln!(out, "  data   {}", data.display())?;
    writeln!(out, "Try next, in another terminal:")?;
    let default = http.port() == DEFAULT_API_PORT;
    let api = if default { String::new() } else { format!(" --api http://{http}") };
    writeln!(out, "  watchfloor get-metrics --follow{api}")?;
    match local_agent {
        Some(agent) => {
            writeln!(out, "  watchfloor send-command {agent} STATUS{api}")?;
            writeln!(out, "  watchfloor config set {agent} '{{\"interval\": 0.5}}'{api}")?;
        }
        None => {
            writeln!(out, "  watchfloor agent --agent-id agent-001 --server {grpc}")?;
            writeln!(out, "  watchfloor agents{api}")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_says_what_runs_where_and_what_to_try() {
        let addresses =
            Addresses { pid: 1, grpc: ([127, 0, 0, 1], 50051).into(), http: ([127, 0, 0, 1], 4000).into() };
        let mut out = anstream::StripStream::new(Vec::new());
        write(&mut out, "every role", &addresses, Path::new("./watchfloor-data"), Some("host-1")).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "0.0.0"), @r#"
        Watchfloor 0.0.0: every role
          gRPC   127.0.0.1:50051  agents connect here
          HTTP   http://127.0.0.1:4000  API under /api/v1, /metrics, /readyz
          agent  host-1  watches this machine
          data   ./watchfloor-data
        Try next, in another terminal:
          watchfloor get-metrics --follow --api http://127.0.0.1:4000
          watchfloor send-command host-1 STATUS --api http://127.0.0.1:4000
          watchfloor config set host-1 '{"interval": 0.5}' --api http://127.0.0.1:4000
        "#);
    }
}
