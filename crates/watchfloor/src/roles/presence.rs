//! One clear line per change of presence, as somebody reads who watches the fleet in a terminal.

use std::io::Write;

use proto::record::StatusRecord;

use crate::cli::render::{self, Cell};

/// Prints `12:42:28.042Z  agent-001  OFFLINE  connection lost (server s1)`.
pub(super) fn print(status: &StatusRecord) {
    // Nobody listening is no reason to stop watching.
    drop(writeln!(anstream::stdout(), "{}", line(status)));
}

fn line(status: &StatusRecord) -> String {
    let presence =
        Cell::styled(format!("{:<10}", status.status.label()), render::presence_style(status.status));
    let agent = Cell::styled(status.agent_id.as_str(), render::BOLD);
    let server = status.server.as_ref().map(|server| format!(" (server {server})")).unwrap_or_default();
    format!(
        "{}  {presence}  {agent}  {}{server}",
        render::time_of_day(status.timestamp),
        status.reason.words()
    )
}

#[cfg(test)]
mod tests {
    use model::id::{AgentId, ServerId};
    use model::presence::{Presence, Reason};
    use model::sample::Timestamp;

    use super::*;

    #[test]
    fn a_line_says_who_is_how_and_why() {
        let status = StatusRecord {
            agent_id: AgentId::new("agent-001").unwrap(),
            status: Presence::Offline,
            reason: Reason::ConnectionLost,
            incarnation: None,
            server: ServerId::new("s1").ok(),
            timestamp: Timestamp::from_unix_ms(1_767_225_600_042),
        };
        let text = anstream::adapter::strip_str(&line(&status)).to_string();
        assert_eq!(text, "00:00:00.042Z  OFFLINE     agent-001  connection lost (server s1)");
    }
}
