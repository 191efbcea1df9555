//! `/metrics` under `/api/v1`: what was measured, and what is being measured.

use std::collections::BTreeSet;
use std::time::Duration;

use analysis::{Answer, Query, SeriesFilter, Stored, Tail};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use futures_util::stream;
use model::id::AgentId;
use model::limit;
use model::selector::Selector;
use proto::api::{Lost, Problem};
use proto::record::DataRecord;
use runtime::clock;
use serde::Serialize;

use crate::ask::Params;
use crate::problem::Refusal;
use crate::{Desk, agents};

/// How many older records the limit left out.
const LEFT_OUT: HeaderName = HeaderName::from_static("watchfloor-left-out");
/// Bytes written at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Well below the silence after which clients and proxies give up.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The records of a window, oldest first; or the newest one of each agent.
#[utoipa::path(
    get, path = "/api/v1/metrics", tag = "metrics",
    params(
        ("agent" = Option<Vec<String>>, Query, description = "only these; may be repeated"),
        ("selector" = Option<String>, Query, description = "only agents with these labels"),
        ("since" = Option<String>, Query, description = "a time, or how long ago it was: 1h"),
        ("until" = Option<String>, Query, description = "a time, or how long ago it was; itself not included"),
        ("step" = Option<String>, Query, description = "one record per agent and step: means, and the last of counters"),
        ("series" = Option<Vec<String>>, Query, description = "only series whose name begins so; may be repeated"),
        ("limit" = Option<usize>, Query, description = "the newest so many; watchfloor-left-out counts the others"),
        ("latest" = Option<bool>, Query, description = "only the newest measurement of each agent")
    ),
    responses(
        (status = 200, body = Vec<DataRecord>), (status = 400, body = Problem), (status = 404, body = Problem)
    )
)]
pub(crate) async fn records(State(desk): State<Desk>, uri: Uri) -> Result<Response, Refusal> {
    let known = ["agent", "selector", "since", "until", "step", "series", "limit", "latest"];
    let params = Params::of(&uri, &known)?;
    let choice = Choice::read(&params)?;
    if params.flag("latest")? {
        for key in ["since", "until", "step", "limit"] {
            if params.one(key)?.is_some() {
                return Err(Refusal::malformed(format!(
                    "latest=true and {key} exclude each other: drop one"
                )));
            }
        }
        let latest = desk.history.latest(choice.resolve(&desk)?.as_ref());
        let records: Vec<DataRecord> = latest.iter().map(|stored| stored.record(&choice.series)).collect();
        return Ok(Json(records).into_response());
    }
    let now = clock::wall();
    let query = Query {
        agents: choice.resolve(&desk)?,
        since: params.time("since", now)?,
        until: params.time("until", now)?,
        step: params.duration("step", limit::STEP_MIN)?,
        series: choice.series,
        limit: params.limit(limit::ANSWER_RECORDS_DEFAULT, limit::ANSWER_RECORDS_MAX)?,
    };
    let history = desk.history.clone();
    // Millions of records may have to be looked at.
    let answer = tokio::task::spawn_blocking(move || history.query(query)).await;
    let answer =
        answer.map_err(|error| Refusal::internal(format!("the history could not be asked: {error}")))?;
    let headers =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (LEFT_OUT, answer.left_out().to_string())];
    Ok((headers, Body::from_stream(stream::iter(Chunks { answer, begun: false, ended: false })))
        .into_response())
}

/// Records as they come: event `data` holds one, event `lost` how many this reader was too slow for.
#[utoipa::path(
    get, path = "/api/v1/metrics/live", tag = "metrics",
    params(
        ("agent" = Option<Vec<String>>, Query, description = "only these; may be repeated"),
        ("selector" = Option<String>, Query, description = "only agents that have these labels when they measure"),
        ("series" = Option<Vec<String>>, Query, description = "only series whose name begins so; may be repeated")
    ),
    responses(
        (status = 200, body = DataRecord, content_type = "text/event-stream"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)
    )
)]
pub(crate) async fn live(State(desk): State<Desk>, uri: Uri) -> Result<Response, Refusal> {
    let params = Params::of(&uri, &["agent", "selector", "series"])?;
    let choice = Choice::read(&params)?;
    choice.check_known(&desk)?;
    let permit = desk.stream_permit()?;
    let tail = desk.history.live();
    let events = stream::unfold((tail, desk, choice, permit), async |(mut tail, desk, choice, permit)| {
        loop {
            let event = match tail.next().await? {
                Tail::Record(stored) if !choice.includes(&desk, &stored) => continue,
                Tail::Record(stored) => event("data", &stored.record(&choice.series)),
                Tail::Lost(records) => event("lost", &Lost { records }),
            };
            return Some((event, (tail, desk, choice, permit)));
        }
    });
    Ok(sse(events))
}

/// A server-sent event with a JSON value.
pub(crate) fn event(name: &str, value: &impl Serialize) -> Result<Event, axum::Error> {
    Event::default().event(name).json_data(value)
}

/// A stream of events that shows it is alive when there is nothing to say.
pub(crate) fn sse(events: impl Stream<Item = Result<Event, axum::Error>> + Send + 'static) -> Response {
    Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive")).into_response()
}

/// Whose records, and which series of them.
#[derive(Debug)]
struct Choice {
    agents: BTreeSet<AgentId>,
    selector: Option<Selector>,
    series: SeriesFilter,
}

impl Choice {
    fn read(params: &Params) -> Result<Self, Refusal> {
        let series = SeriesFilter::new(params.all("series").map(str::to_owned).collect());
        Ok(Self { agents: params.agents()?, selector: params.selector()?, series })
    }

    /// The agents meant now; `None` for all, those included that only the data knows.
    fn resolve(&self, desk: &Desk) -> Result<Option<BTreeSet<AgentId>>, Refusal> {
        self.check_known(desk)?;
        let Some(selector) = &self.selector else {
            return Ok((!self.agents.is_empty()).then(|| self.agents.clone()));
        };
        let chosen = desk.fleet.agents(selector).into_iter().map(|entry| entry.agent_id);
        Ok(Some(chosen.filter(|id| self.agents.is_empty() || self.agents.contains(id)).collect()))
    }

    /// A mistyped id would wait for ever.
    fn check_known(&self, desk: &Desk) -> Result<(), Refusal> {
        let measured = |id: &AgentId| !desk.history.latest(Some(&[id.clone()].into())).is_empty();
        match self.agents.iter().find(|id| desk.fleet.agent(id).is_none() && !measured(id)) {
            Some(stranger) => Err(agents::unknown(desk, stranger)),
            None => Ok(()),
        }
    }

    fn includes(&self, desk: &Desk, stored: &Stored) -> bool {
        let id = stored.agent();
        (self.agents.is_empty() || self.agents.contains(id))
            && self.selector.as_ref().is_none_or(|selector| desk.fleet.matches(id, selector))
    }
}

/// A JSON array, a chunk at a time: a large answer is never whole in memory.
#[derive(Debug)]
struct Chunks {
    answer: Answer,
    begun: bool,
    ended: bool,
}

impl Iterator for Chunks {
    type Item = Result<Bytes, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES {
            let Some(record) = self.answer.next() else {
                self.ended = true;
                chunk.extend_from_slice(if self.begun { b"]" } else { b"[]" });
                break;
            };
            chunk.push(if self.begun { b',' } else { b'[' });
            self.begun = true;
            if let Err(error) = serde_json::to_writer(&mut chunk, &record) {
                return Some(Err(error));
            }
        }
        Some(Ok(chunk.into()))
    }
}
