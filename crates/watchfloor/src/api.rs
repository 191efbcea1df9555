//! The HTTP API as its client sees it: blocking calls, problems turned into errors that say what to do.
//!
//! One place knows the paths. It never retries: a command that is lost must be seen to be lost.

mod events;

use std::io::{BufReader, ErrorKind, Read};
use std::time::Duration;

use model::id::{AgentId, CommandId, Revision};
use model::limit;
use model::sample::Timestamp;
use model::selector::Selector;
use proto::api::{
    Agent, CommandAccepted, CommandRequest, ConfigWrite, ConfigWritten, EffectiveConfig, Problem, Rollback,
    StoredConfig,
};
use proto::key::{HistoryEntry, Target};
use runtime::health::Report;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

pub(crate) use events::{Event, Events};

/// One answer: an hour of full records from a large fleet fits; a runaway server does not fill our memory.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The header that counts the older records an answer had no room for.
const LEFT_OUT: &str = "watchfloor-left-out";
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// For one read. The live tail sends a comment far more often.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A client of one analysis service.
#[derive(Debug)]
pub(crate) struct Api {
    base: Url,
    http: ureq::Agent,
}

/// Why the API gave no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(
        "no Watchfloor API at {base} ({cause}): start one with `watchfloor up`, or name another with --api or \
         WATCHFLOOR_API"
    )]
    Unreachable { base: Url, cause: Box<ureq::Error> },
    #[error("the connection to {base} ended ({cause})")]
    Lost { base: Url, cause: std::io::Error },
    #[error("{}", problem_text(.problem))]
    Refused { status: u16, problem: Box<Problem> },
    #[error("{url} answered {status}, which is not Watchfloor's API: check --api or WATCHFLOOR_API")]
    Stranger { url: Url, status: u16 },
    #[error("{url} answered with something else than expected ({cause}): is it another version?")]
    Unexpected { url: Url, cause: serde_json::Error },
}

impl ApiError {
    /// Whether waiting may help: there is no service now.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } => true,
            Self::Refused { status, .. } => *status == 503,
            Self::Stranger { .. } | Self::Unexpected { .. } => false,
        }
    }

    /// Whether nothing of the request can have arrived: there was no connection.
    pub(crate) fn is_never_sent(&self) -> bool {
        let Self::Unreachable { cause, .. } = self else { return false };
        match &**cause {
            ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => true,
            ureq::Error::Timeout(during) => {
                matches!(during, ureq::Timeout::Resolve | ureq::Timeout::Connect)
            }
            ureq::Error::Io(error) => matches!(
                error.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
            ),
            _ => false,
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

/// Which agents are asked about; all of them when nothing is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen<'a> {
    pub(crate) agents: &'a [AgentId],
    pub(crate) selector: Option<&'a Selector>,
}

impl Chosen<'_> {
    fn query(self) -> Vec<(&'static str, String)> {
        let agents = self.agents.iter().map(|id| ("agent", id.to_string()));
        agents.chain(self.selector.map(|selector| ("selector", selector.to_string()))).collect()
    }
}

/// Which part of the past is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) since: Timestamp,
    pub(crate) step: Option<Duration>,
}

/// The records of a window.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) records: Vec<Value>,
    /// Older records than an answer holds.
    pub(crate) left_out: u64,
}

impl Api {
    pub(crate) fn new(base: &Url) -> Self {
        let loopback = base.host().is_some_and(|host| match host {
            url::Host::Domain(name) => name == "localhost",
            url::Host::Ipv4(address) => address.is_loopback(),
            url::Host::Ipv6(address) => address.is_loopback(),
        });
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_per_read(Some(SILENCE_MAX))
            .user_agent(concat!("watchfloor/", env!("CARGO_PKG_VERSION")));
        if loopback {
            // A proxy of the environment is for the world outside.
            config = config.proxy(None);
        }
        Self { base: base.clone(), http: config.build().into() }
    }

    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    pub(crate) fn agents(&self, selector: Option<&Selector>) -> Result<Vec<Agent>, ApiError> {
        let query: Vec<_> = selector.map(|selector| ("selector", selector.to_string())).into_iter().collect();
        self.get(&["agents"], &query)
    }

    pub(crate) fn agent(&self, id: &AgentId) -> Result<Agent, ApiError> {
        self.get(&["agents", id.as_str()], &[])
    }

    /// The newest record of each agent that was chosen.
    pub(crate) fn latest(&self, chosen: Chosen<'_>) -> Result<Vec<Value>, ApiError> {
        self.get(&["metrics"], &[chosen.query(), vec![("latest", "true".to_owned())]].concat())
    }

    /// The records of a window, oldest first.
    pub(crate) fn history(&self, chosen: Chosen<'_>, window: Window) -> Result<Past, ApiError> {
        let mut query = chosen.query();
        query.push(("limit", limit::ANSWER_RECORDS_MAX.to_string()));
        query.push(("since", window.since.to_string()));
        if let Some(step) = window.step {
            query.push(("step", step.as_secs_f64().to_string()));
        }
        let url = self.url(&["metrics"], &query);
        let answer = self.accepted(&url, self.http.get(url.as_str()).call())?;
        let left_out = answer.headers().get(LEFT_OUT).and_then(|count| count.to_str().ok()?.parse().ok());
        Ok(Past { left_out: left_out.unwrap_or(0), records: self.read(&url, answer)? })
    }

    /// The live tail: `data` with a record, `lost` with a count.
    pub(crate) fn live(&self, chosen: Chosen<'_>) -> Result<Events, ApiError> {
        self.stream(&["metrics", "live"], &chosen.query())
    }

    pub(crate) fn order(&self, request: &CommandRequest) -> Result<CommandAccepted, ApiError> {
        self.send("POST", &["commands"], &[], request)
    }

    /// The responses to one command, those so far included.
    pub(crate) fn responses(&self, id: &CommandId) -> Result<Events, ApiError> {
        self.stream(&["commands", id.as_str(), "live"], &[])
    }

    pub(crate) fn config(&self, of: &Target) -> Result<StoredConfig, ApiError> {
        self.get(&config_path(of), &[])
    }

    pub(crate) fn write_config(&self, of: &Target, write: &ConfigWrite) -> Result<ConfigWritten, ApiError> {
        self.send("PUT", &config_path(of), &[], write)
    }

    pub(crate) fn delete_config(
        &self,
        of: &Target,
        expect: Option<Revision>,
        by: &str,
    ) -> Result<ConfigWritten, ApiError> {
        let mut query = vec![("by", by.to_owned())];
        query.extend(expect.map(|revision| ("expect_revision", revision.to_string())));
        let url = self.url(&config_path(of), &query);
        self.answer(&url, self.http.delete(url.as_str()).call())
    }

    pub(crate) fn config_history(&self, of: &Target) -> Result<Vec<HistoryEntry>, ApiError> {
        self.get(&[&config_path(of)[..], &["history"]].concat(), &[])
    }

    pub(crate) fn roll_back(&self, of: &Target, rollback: &Rollback) -> Result<ConfigWritten, ApiError> {
        self.send("POST", &[&config_path(of)[..], &["rollback"]].concat(), &[], rollback)
    }

    pub(crate) fn effective_config(&self, id: &AgentId) -> Result<EffectiveConfig, ApiError> {
        self.get(&["config", "effective", id.as_str()], &[])
    }

    /// How the process there is. Every role answers this, not only the one with the whole API.
    pub(crate) fn health(&self) -> Result<Report, ApiError> {
        self.get(&["health"], &[])
    }

    fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T, ApiError> {
        let url = self.url(path, query);
        self.answer(&url, self.http.get(url.as_str()).call())
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &[&str],
        query: &[(&str, String)],
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let url = self.url(path, query);
        let request = match method {
            "PUT" => self.http.put(url.as_str()),
            _ => self.http.post(url.as_str()),
        };
        self.answer(&url, request.send_json(body))
    }

    fn stream(&self, path: &[&str], query: &[(&str, String)]) -> Result<Events, ApiError> {
        let url = self.url(path, query);
        let answer = self.http.get(url.as_str()).header("accept", "text/event-stream").call();
        let body = self.accepted(&url, answer)?.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Events::new(BufReader::new(Box::new(body)), self.base.clone()))
    }

    fn answer<T: DeserializeOwned>(&self, url: &Url, answer: Answer) -> Result<T, ApiError> {
        let answer = self.accepted(url, answer)?;
        self.read(url, answer)
    }

    fn read<T: DeserializeOwned>(&self, url: &Url, answer: Response) -> Result<T, ApiError> {
        let body = answer.into_body().into_reader().take(ANSWER_BYTES_MAX);
        serde_json::from_reader(BufReader::new(body)).map_err(|cause| match cause.io_error_kind() {
            Some(_) => ApiError::Lost { base: self.base.clone(), cause: cause.into() },
            None => ApiError::Unexpected { url: url.clone(), cause },
        })
    }

    /// The answer if its status is a success; the problem it holds otherwise.
    fn accepted(&self, url: &Url, answer: Answer) -> Result<Response, ApiError> {
        let unreachable = |cause| ApiError::Unreachable { base: self.base.clone(), cause: Box::new(cause) };
        let answer = answer.map_err(unreachable)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.into_body().into_reader().take(ANSWER_BYTES_MAX);
        match serde_json::from_reader::<_, Problem>(body) {
            Ok(problem) => Err(ApiError::Refused { status: status.as_u16(), problem: Box::new(problem) }),
            Err(_) => Err(ApiError::Stranger { url: url.clone(), status: status.as_u16() }),
        }
    }

    /// Ids may hold `:` and `@`, so segments are pushed one by one.
    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

type Response = ureq::http::Response<ureq::Body>;
type Answer = Result<Response, ureq::Error>;

fn config_path(of: &Target) -> [&str; 3] {
    match of {
        Target::Agent(id) => ["config", "agents", id.as_str()],
        Target::Group(name) => ["config", "groups", name.as_str()],
    }
}

/// The message, and each fault of a refused config on a line of its own.
fn problem_text(problem: &Problem) -> String {
    let mut text = problem.message.clone();
    for fault in &problem.faults {
        let path = if fault.path.is_empty() { "the whole text" } else { &fault.path };
        text.push_str(&format!("\n  {path}: {}", fault.message));
    }
    text
}
