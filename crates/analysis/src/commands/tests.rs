//! The book: one newest response per agent, whatever order the topics are read in.

use model::command::{CommandState, CommandType};
use serde_json::Map;

use super::*;

fn id(text: &str) -> CommandId {
    CommandId::new(text).unwrap()
}

fn agent(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn command(agent_id: &str) -> CommandRecord {
    CommandRecord {
        command_id: None,
        agent_id: agent(agent_id),
        kind: CommandType::Stop,
        params: Map::new(),
        timestamp: Some(at(100)),
        expires_at: None,
        issued_by: None,
    }
}

fn response(command: &str, of: &str, state: CommandState) -> ResponseRecord {
    ResponseRecord::new(id(command), agent(of), CommandType::Stop, state, "", at(101))
}

fn respond(book: &CommandBook, command: &str, of: &str, state: CommandState) {
    book.take_response(response(command, of, state), at(101), 100);
}

fn states(command: &Command) -> Vec<(&str, CommandState)> {
    command.responses.iter().map(|r| (r.agent_id.as_str(), r.state)).collect()
}

#[test]
fn a_response_may_be_read_before_its_command() {
    let book = CommandBook::default();
    respond(&book, "c", "a", CommandState::Succeeded);
    assert_eq!((book.get(&id("c")), book.list(10).len()), (None, 0));
    book.issued(&id("c"), &command("a"), at(100));
    book.issued(&id("c"), &command("b"), at(100));
    let command = book.get(&id("c")).unwrap();
    assert_eq!(states(&command), [("a", CommandState::Succeeded)]);
    assert_eq!(command.open, [agent("b")]);
    assert_eq!(command.expires_at, at(130));
}

#[test]
fn a_final_response_stays_and_progress_does_not_go_back() {
    let book = CommandBook::default();
    book.issued(&id("c"), &command("a"), at(100));
    for (said, stands) in [
        (CommandState::Running, CommandState::Running),
        (CommandState::Delivered, CommandState::Running),
        (CommandState::Failed, CommandState::Failed),
        (CommandState::Succeeded, CommandState::Failed),
        (CommandState::Running, CommandState::Failed),
    ] {
        respond(&book, "c", "a", said);
        assert_eq!(states(&book.get(&id("c")).unwrap()), [("a", stands)]);
    }
}

#[test]
fn a_command_read_again_changes_nothing() {
    let book = CommandBook::default();
    book.issued(&id("c"), &command("a"), at(100));
    respond(&book, "c", "a", CommandState::Succeeded);
    let before = (book.get(&id("c")), *book.shared.changes.borrow());
    book.issued(&id("c"), &command("a"), at(105));
    assert_eq!((book.get(&id("c")), *book.shared.changes.borrow()), before);
}

#[test]
fn the_newest_command_is_listed_first() {
    let book = CommandBook::default();
    for (name, seconds) in [("c1", 1), ("c3", 3), ("c2", 2)] {
        book.issued(&id(name), &command("a"), at(seconds));
    }
    let listed: Vec<String> = book.list(2).into_iter().map(|c| c.command_id.to_string()).collect();
    assert_eq!(listed, ["c3", "c2"]);
}

#[test]
fn the_oldest_commands_go_when_there_are_too_many_or_they_are_too_large() {
    let issued = |n: i64| Issued {
        kind: CommandType::Stop,
        params: Map::from_iter([("text".to_owned(), "x".repeat(1_000).into())]),
        issued_at: at(n),
        expires_at: at(n + 30),
        issued_by: None,
    };
    for (entries_max, bytes_max, kept) in [(3, usize::MAX, 3), (usize::MAX, 5_000, 3)] {
        let mut book = Book::new(entries_max, bytes_max);
        for n in 0..10 {
            book.issue(&id(&format!("c{n}")), agent("a"), issued(n), at(n));
        }
        let names: Vec<String> = book.list(100).into_iter().map(|c| c.command_id.to_string()).collect();
        assert_eq!(names, ["c9", "c8", "c7"][..kept]);
    }
    let mut book = Book::new(10, usize::MAX);
    book.issue(&id("c"), agent("a"), issued(1), at(1));
    book.expire(at(2));
    assert_eq!(book.list(10), []);
}

#[tokio::test]
async fn a_follower_gets_what_was_said_and_what_comes_and_then_the_end() {
    let book = CommandBook::default();
    book.issued(&id("c"), &command("a"), at(100));
    book.issued(&id("c"), &command("b"), at(100));
    respond(&book, "c", "b", CommandState::Succeeded);
    respond(&book, "c", "a", CommandState::Running);
    let mut responses = book.responses(&id("c")).unwrap();
    let told = |of: &str, state| Some(Progress::Response(Box::new(response("c", of, state))));
    assert_eq!(responses.next().await, told("b", CommandState::Succeeded));
    assert_eq!(responses.next().await, told("a", CommandState::Running));
    let (next, ()) = tokio::join!(responses.next(), async { respond(&book, "c", "a", CommandState::Failed) });
    assert_eq!(next, told("a", CommandState::Failed));
    assert_eq!(responses.next().await, Some(Progress::Done));
    assert_eq!(responses.next().await, None);
}

#[tokio::test]
async fn followers_end_with_analysis_and_strangers_have_none() {
    let book = CommandBook::default();
    assert!(book.responses(&id("c")).is_none());
    book.issued(&id("c"), &command("a"), at(100));
    let mut responses = book.responses(&id("c")).unwrap();
    let (next, ()) = tokio::join!(responses.next(), async { book.close() });
    assert_eq!(next, None);
}
