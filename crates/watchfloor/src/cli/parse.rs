//! What people type, made into what the program relies on. Every fault says what would have been right.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use model::command::CommandType;
use model::id::AgentId;
use model::limit;
use model::presence::Timing;
use model::sample::Timestamp;
use serde_json::{Map, Value};
use url::Url;

/// Why an argument is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("{0:?} is not a duration: write 500ms, 30s, 5m, 1h or a number of seconds")]
    Duration(String),
    #[error("{given:?} is out of range: give {range}")]
    Range { given: String, range: &'static str },
    #[error("{0:?} is not a time: write how long ago (1h, 30m), or 2026-01-31T12:00:00Z")]
    Since(String),
    #[error("{0:?} is not the address of the API: write http://host:port ({1})")]
    Api(String, String),
    #[error("{0:?} is no address to listen on: write 127.0.0.1:50051, [::1]:50051 or localhost:50051")]
    Listen(String),
    #[error("{0:?} is not key=value")]
    Pair(String),
    #[error(
        "{0:?} is no command: give the agents first, then one of STATUS, STOP, START, UPDATE_CONFIG, RESTART"
    )]
    Command(String),
    #[error("no agent is named: name one or more before {0}, or give -l <selector> or --all")]
    NoTarget(CommandType),
    #[error("agents are named and {0} is given: use one of them")]
    TwoTargets(&'static str),
    #[error("{0}")]
    Agent(#[from] model::id::IdError),
    #[error("cannot read {path}: {cause}")]
    Text { path: String, cause: String },
    #[error("{path} has more than {max} bytes")]
    TextTooLong { path: String, max: usize },
}

/// Where to listen: an address and a port. `localhost` is the one name that needs no asking.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, ArgumentError> {
    let address = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    address.as_deref().unwrap_or(text).parse().map_err(|_| ArgumentError::Listen(text.to_owned()))
}

/// `30s`, `1h 30m`, `0.5` (seconds).
pub(crate) fn duration(text: &str) -> Result<Duration, ArgumentError> {
    let refuse = || ArgumentError::Duration(text.to_owned());
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| refuse());
    }
    let signed = text.parse::<jiff::SignedDuration>().map_err(|_| refuse())?;
    Duration::try_from(signed).map_err(|_| refuse())
}

/// How long a topic keeps its records. Less than an hour would take commands away before they can be answered for.
pub(crate) fn retention(text: &str) -> Result<Duration, ArgumentError> {
    let retention = duration(text)?;
    if !(Duration::from_secs(3_600)..=Duration::from_secs(10 * 365 * 86_400)).contains(&retention) {
        return Err(ArgumentError::Range { given: text.to_owned(), range: "1h to ten years (87600h)" });
    }
    Ok(retention)
}

pub(crate) fn timeout(text: &str) -> Result<Duration, ArgumentError> {
    let timeout = duration(text)?;
    if timeout.is_zero() || timeout > limit::COMMAND_TIMEOUT_MAX {
        return Err(ArgumentError::Range { given: text.to_owned(), range: "more than 0, at most 24h" });
    }
    Ok(timeout)
}

/// Time between two ticks, within what config allows too.
pub(crate) fn interval(text: &str) -> Result<Duration, ArgumentError> {
    let interval = duration(text)?;
    if !(limit::INTERVAL_MIN..=limit::INTERVAL_MAX).contains(&interval) {
        return Err(ArgumentError::Range { given: text.to_owned(), range: "0.1s to 1h" });
    }
    Ok(interval)
}

pub(crate) fn presence_timeout(text: &str) -> Result<Timing, ArgumentError> {
    Timing::new(duration(text)?)
        .ok_or_else(|| ArgumentError::Range { given: text.to_owned(), range: "1s to 1h" })
}

/// A moment of the past: an instant, or how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Ago(Duration),
    At(Timestamp),
}

impl Since {
    pub(crate) fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => {
                let ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_unix_ms(now.unix_ms().saturating_sub(ms))
            }
        }
    }
}

pub(crate) fn since(text: &str) -> Result<Since, ArgumentError> {
    if let Ok(ago) = duration(text) {
        return Ok(Since::Ago(ago));
    }
    Timestamp::parse(text).map(Since::At).ok_or_else(|| ArgumentError::Since(text.to_owned()))
}

pub(crate) fn api(text: &str) -> Result<Url, ArgumentError> {
    let refuse = |why: &str| ArgumentError::Api(text.to_owned(), why.to_owned());
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    match url.scheme() {
        "http" if url.has_host() => Ok(url),
        "https" => Err(refuse("this build speaks plain HTTP only; use a tunnel, such as ssh -L")),
        _ => Err(refuse("it begins with http://")),
    }
}

/// `key=value` for a command: the value is JSON if it reads as JSON, else text.
pub(crate) fn param(text: &str) -> Result<(String, Value), ArgumentError> {
    let (key, value) = pair(text)?;
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    Ok((key, value))
}

pub(crate) fn pair(text: &str) -> Result<(String, String), ArgumentError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(ArgumentError::Pair(text.to_owned())),
    }
}

pub(crate) fn params(pairs: &[(String, Value)]) -> Map<String, Value> {
    pairs.iter().cloned().collect()
}

/// The words of `send-command`: agents, then the type. Without agents a selector or `--all` must say whom.
pub(crate) fn order(
    words: &[String],
    other: Option<&'static str>,
) -> Result<(Vec<AgentId>, CommandType), ArgumentError> {
    let Some((last, agents)) = words.split_last() else { return Err(ArgumentError::Command(String::new())) };
    let kind = CommandType::parse(last).ok_or_else(|| ArgumentError::Command(last.clone()))?;
    match (agents, other) {
        ([], None) => return Err(ArgumentError::NoTarget(kind)),
        ([_, ..], Some(other)) => return Err(ArgumentError::TwoTargets(other)),
        _ => {}
    }
    let mut ids = Vec::new();
    for agent in agents {
        let id = AgentId::new(agent.as_str())?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok((ids, kind))
}

/// The text itself, the content of `@file`, or of the standard input for `-`.
pub(crate) fn text(given: &str) -> Result<String, ArgumentError> {
    const TEXT_BYTES_MAX: usize = limit::HTTP_BODY_BYTES_MAX;
    let (path, reader): (_, Box<dyn Read>) = match given.strip_prefix('@') {
        None if given == "-" => ("the standard input", Box::new(std::io::stdin())),
        None => return Ok(given.to_owned()),
        Some(path) => {
            let opened = std::fs::File::open(path);
            let refuse =
                |cause: std::io::Error| ArgumentError::Text { path: path.into(), cause: cause.to_string() };
            (path, Box::new(opened.map_err(refuse)?))
        }
    };
    let mut text = String::new();
    let read = reader.take(TEXT_BYTES_MAX as u64 + 1).read_to_string(&mut text);
    read.map_err(|cause| ArgumentError::Text { path: path.to_owned(), cause: cause.to_string() })?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(ArgumentError::TextTooLong { path: path.to_owned(), max: TEXT_BYTES_MAX });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_listens_on_an_address_and_localhost_is_one() {
        assert_eq!(listen("localhost:0").unwrap(), "127.0.0.1:0".parse().unwrap());
        assert_eq!(listen("[::1]:50051").unwrap(), "[::1]:50051".parse().unwrap());
        for text in ["", "50051", "host.example:1", "localhost", "127.0.0.1:x"] {
            assert!(listen(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, ms) in
            [("30s", 30_000), ("500ms", 500), ("1h", 3_600_000), ("1h30m", 5_400_000), ("0.5", 500)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "-5s", "-1", "soon", "5 parsecs", "NaN", "inf"] {
            assert!(duration(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn since_is_an_age_or_an_instant() {
        let now = Timestamp::from_unix_seconds(1_767_225_600);
        assert_eq!(since("1h").unwrap().from(now), Timestamp::from_unix_seconds(1_767_222_000));
        assert_eq!(since("2026-01-01T00:00:00Z").unwrap().from(now), now);
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn the_last_word_is_the_command_and_the_words_before_it_are_agents() {
        let words = ["a", "b", "a", "update-config"].map(str::to_owned);
        let (agents, kind) = order(&words, None).unwrap();
        assert_eq!(agents.iter().map(AgentId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(kind, CommandType::UpdateConfig);
    }

    #[test]
    fn a_command_without_a_target_with_two_or_with_none_of_ours_is_refused() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(order(&words(&["STOP"]), None), Err(ArgumentError::NoTarget(CommandType::Stop)));
        assert_eq!(order(&words(&["a", "STOP"]), Some("--all")), Err(ArgumentError::TwoTargets("--all")));
        assert_eq!(order(&words(&["a"]), None), Err(ArgumentError::Command("a".to_owned())));
        assert!(matches!(order(&words(&["a/b", "STOP"]), None), Err(ArgumentError::Agent(_))));
        assert_eq!(order(&words(&["STOP"]), Some("--all")), Ok((Vec::new(), CommandType::Stop)));
    }

    #[test]
    fn a_parameter_is_json_where_it_reads_as_json() {
        assert_eq!(param("a=1").unwrap().1, Value::from(1));
        assert_eq!(param("a=b=c").unwrap().1, Value::from("b=c"));
        assert!(param("=1").is_err() && param("a").is_err());
    }

    #[test]
    fn the_api_is_plain_http() {
        assert!(api("http://localhost:8090").is_ok());
        assert!(api("https://h").unwrap_err().to_string().contains("plain HTTP only"));
        assert!(api("localhost:8090").is_err());
    }
}
