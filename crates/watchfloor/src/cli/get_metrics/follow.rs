//! `get-metrics --follow`: the live tail, over every absence of the API.
//!
//! After a reconnect the records of the gap are fetched from the history, so nothing that is kept is missed; a record
//! that comes both ways is shown once.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use model::id::{AgentId, Incarnation, Sequence};
use model::sample::Timestamp;
use proto::api::Lost;
use runtime::{Backoff, clock};

use super::show::Show;
use super::{Args, Received};
use crate::api::{Api, ApiError, Event, Window};
use crate::cli::pause;
use crate::cli::render;
use crate::exit::{Failure, Outcome};

/// Runs until a signal ends the process or the API says something that waiting does not mend.
pub(super) fn run(args: &Args, api: &Api, out: &mut dyn Write) -> Outcome {
    let mut tail = Tail::new(args);
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut since = args.since.map(|since| since.from(clock::wall()));
    // The first connection must succeed: a wrong address is a mistake, not an absence.
    let mut events = api.live(args.chosen())?;
    loop {
        if let Some(since) = since {
            match args.past(api, Window { since, step: None }) {
                Ok(records) => tail.show_all(&records, out)?,
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error.into()),
            }
        }
        backoff.reset();
        let lost = tail.drain(&mut events, out)?;
        let gone = Instant::now();
        anstream::eprintln!("{}; waiting for it to come back", lost.unwrap_or_else(|| closed(api)));
        since = Some(tail.newest.unwrap_or_else(clock::wall));
        events = loop {
            pause(backoff.next_delay());
            match api.live(args.chosen()) {
                Ok(events) => break events,
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error.into()),
            }
        };
        anstream::eprintln!("the API is back after {}", render::age(gone.elapsed()));
    }
}

fn closed(api: &Api) -> String {
    format!("the API at {} has stopped", api.base())
}

/// What was shown, so that nothing is shown twice.
pub(super) struct Tail {
    show: Show,
    shown: BTreeMap<AgentId, (Incarnation, Sequence)>,
    newest: Option<Timestamp>,
}

impl Tail {
    pub(super) fn new(args: &Args) -> Self {
        Self { show: Show::new(args.output, 0), shown: BTreeMap::new(), newest: None }
    }

    fn show_all(&mut self, records: &[Received], out: &mut dyn Write) -> Result<(), Failure> {
        for received in records {
            self.show(received, out)?;
        }
        out.flush()?;
        Ok(())
    }

    /// Shows records until the stream ends; why, if it did not end in order.
    fn drain(
        &mut self,
        events: &mut impl Iterator<Item = Result<Event, ApiError>>,
        out: &mut dyn Write,
    ) -> Result<Option<String>, Failure> {
        for event in events {
            let event = match event {
                Ok(event) => event,
                Err(error) => return Ok(Some(error.to_string())),
            };
            match event.name.as_str() {
                "data" => {
                    let value = serde_json::from_str(&event.data);
                    if let Ok(received) = value.and_then(Received::new) {
                        self.show(&received, out)?;
                        out.flush()?;
                    }
                }
                "lost" => {
                    let lost = serde_json::from_str(&event.data).map_or(0, |lost: Lost| lost.records);
                    anstream::eprintln!("{lost} records were passed over: this reader was too slow");
                }
                _ => {}
            }
        }
        Ok(None)
    }

    pub(super) fn show(&mut self, received: &Received, out: &mut dyn Write) -> std::io::Result<()> {
        let record = &received.record;
        let last = self.shown.get(&record.agent_id);
        if last.is_some_and(|(incarnation, sequence)| {
            *incarnation == record.incarnation && *sequence >= record.sequence
        }) {
            return Ok(());
        }
        self.shown.insert(record.agent_id.clone(), (record.incarnation.clone(), record.sequence));
        self.newest = self.newest.max(Some(record.timestamp));
        self.show.record(received, out)
    }
}
