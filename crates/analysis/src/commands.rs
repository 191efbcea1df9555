//! What was ordered, and what became of it at each agent: a bounded memory of the two command topics.
//!
//! The topics are read side by side, so a response may come before its command; it waits for it here.

mod book;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backends::bus::Record;
use model::id::{AgentId, CommandId};
use model::limit::{self, COMMAND_TIMEOUT_DEFAULT};
use model::sample::Timestamp;
use proto::api::Command;
use proto::record::{CommandRecord, ResponseRecord};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use book::{Book, Issued};

/// The newest commands. Clones share one book.
#[derive(Clone, Debug)]
pub struct CommandBook {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    /// Rises with every change.
    changes: watch::Sender<u64>,
    closed: CancellationToken,
}

/// The responses to one command: those there are, then those to come.
#[derive(Debug)]
pub struct Responses {
    book: CommandBook,
    /// `None` once it is done.
    command_id: Option<CommandId>,
    changes: watch::Receiver<u64>,
    /// Everything up to this change has been given.
    seen: u64,
    waiting: std::vec::IntoIter<ResponseRecord>,
}

/// What following a command yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    Response(Box<ResponseRecord>),
    /// Every agent has its final response. Nothing comes after it.
    Done,
}

impl Default for CommandBook {
    fn default() -> Self {
        let book = Book::new(limit::COMMAND_BOOK_MAX, limit::COMMAND_BOOK_BYTES_MAX);
        let shared = Shared {
            book: Mutex::new(book),
            changes: watch::Sender::new(0),
            closed: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl CommandBook {
    /// A command and the newest response of each of its agents.
    pub fn get(&self, id: &CommandId) -> Option<Command> {
        self.book().get(id)
    }

    /// The newest commands first.
    pub fn list(&self, limit: usize) -> Vec<Command> {
        self.book().list(limit)
    }

    /// Everyone a command was for.
    pub fn agents(&self, id: &CommandId) -> Vec<AgentId> {
        self.book().agents(id)
    }

    /// Follows one command; `None` when it is not known.
    pub fn responses(&self, id: &CommandId) -> Option<Responses> {
        let changes = self.shared.changes.subscribe();
        self.get(id)?;
        let waiting = Vec::new().into_iter();
        Some(Responses { book: self.clone(), command_id: Some(id.clone()), changes, seen: 0, waiting })
    }

    /// Tells of every change of the book.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// A command is durable on the bus. Reading it from there later changes nothing.
    pub fn issued(&self, command_id: &CommandId, record: &CommandRecord, at: Timestamp) {
        let issued = Issued {
            kind: record.kind,
            params: record.params.clone(),
            issued_at: record.timestamp.unwrap_or(at),
            expires_at: record.expires_at.unwrap_or(at.plus(COMMAND_TIMEOUT_DEFAULT)),
            issued_by: record.issued_by.clone(),
        };
        self.change(|book| book.issue(command_id, record.agent_id.clone(), issued, at));
    }

    pub(crate) fn take_command(&self, command: &CommandRecord, record: &Record) {
        let position = record.position;
        let named = || CommandId::new(format!("c-{}-{}", position.partition, position.offset)).ok();
        let Some(id) = command.command_id.clone().or_else(named) else { return };
        self.issued(&id, command, record.at);
    }

    pub(crate) fn take_response(&self, response: ResponseRecord, at: Timestamp, bytes: usize) {
        self.change(|book| book.respond(response, at, bytes));
    }

    pub(crate) fn expire(&self, now: Timestamp) {
        self.change(|book| book.expire(now.minus(limit::COMMAND_BOOK_WINDOW)));
    }

    /// Ends every [`Responses`].
    pub(crate) fn close(&self) {
        self.shared.closed.cancel();
    }

    fn change(&self, change: impl FnOnce(&mut Book)) {
        let mut book = self.book();
        change(&mut book);
        let changes = book.changes();
        drop(book);
        self.shared.changes.send_if_modified(|known| std::mem::replace(known, changes) != changes);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Responses {
    /// What came next. Of several responses by one agent since the last call only the newest is told. `None` after
    /// [`Progress::Done`], when the command was forgotten, and when analysis has ended.
    ///
    /// Cancel safe: yes.
    pub async fn next(&mut self) -> Option<Progress> {
        loop {
            if let Some(response) = self.waiting.next() {
                return Some(Progress::Response(Box::new(response)));
            }
            self.changes.borrow_and_update();
            let news = self.book.book().since(self.command_id.as_ref()?, self.seen)?;
            let (done, quiet) = (news.done, news.responses.is_empty());
            self.seen = news.changes;
            self.waiting = news.responses.into_iter();
            if quiet && done {
                self.command_id = None;
                return Some(Progress::Done);
            }
            if quiet {
                tokio::select! {
                    () = self.book.shared.closed.cancelled() => return None,
                    changed = self.changes.changed() => changed.ok()?,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
