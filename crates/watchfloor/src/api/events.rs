//! Server-sent events, read line by line: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
//!
//! Only what our API sends is understood: `event`, `data`, comments. There is no `id`, so a reader that reconnects
//! begins anew.

use std::io::{self, BufRead, Read};

use url::Url;

use super::ApiError;

/// A record is at most one bus value; JSON within JSON never doubles it.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// The events of one stream, as they come. Ends with `None` when the server closes it.
pub(crate) struct Events {
    lines: Box<dyn BufRead>,
    base: Url,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(lines: impl BufRead + 'static, base: Url) -> Self {
        Self { lines: Box::new(lines), base }
    }

    fn read(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event { name: "message".to_owned(), data: String::new() };
        let mut has_data = false;
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            if line.is_empty() {
                if has_data {
                    return Ok(Some(event));
                }
                event.name = "message".to_owned();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event.name = value.to_owned(),
                "data" => {
                    if has_data {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                    has_data = true;
                }
                // A comment has no name before its colon; other fields are not ours.
                _ => {}
            }
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = self.lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        if read == 0 {
            return Ok(None);
        }
        if !line.ends_with('\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "an event was cut off"));
        }
        line.truncate(line.trim_end_matches(['\n', '\r']).len());
        Ok(Some(line))
    }
}

impl Iterator for Events {
    type Item = Result<Event, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().map_err(|cause| ApiError::Lost { base: self.base.clone(), cause }).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &'static str) -> Vec<Result<(String, String), String>> {
        let base = Url::parse("http://localhost:8090").unwrap();
        Events::new(text.as_bytes(), base)
            .map(|event| event.map(|event| (event.name, event.data)).map_err(|error| error.to_string()))
            .collect()
    }

    fn event(name: &str, data: &str) -> Result<(String, String), String> {
        Ok((name.to_owned(), data.to_owned()))
    }

    #[test]
    fn an_event_is_its_name_and_its_data_lines_joined() {
        let text = ": hello\n\nevent: record\ndata: {\"a\":\ndata: 1}\n\ndata:x\r\n\r\n";
        assert_eq!(events(text), [event("record", "{\"a\":\n1}"), event("message", "x")]);
    }

    #[test]
    fn a_keep_alive_and_an_event_without_data_are_nothing() {
        assert_eq!(events(":\n\n:\n\nevent: empty\n\nid: 3\nretry: 5\n\n"), []);
    }

    #[test]
    fn an_event_that_was_cut_off_is_not_delivered() {
        assert_eq!(events("data: whole\n\ndata: hal").len(), 2);
        assert!(events("data: whole\n\ndata: hal")[1].is_err());
        assert_eq!(events("data: whole\n\ndata: no blank line after\n").len(), 1);
    }
}
