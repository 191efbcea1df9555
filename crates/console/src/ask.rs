//! Reading requests strictly: an unknown query key, a value given twice or a body of another shape is refused with
//! what to write instead.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Query, Request};
use axum::http::{StatusCode, Uri};
use model::config::unknown;
use model::id::AgentId;
use model::limit::ASKER_BYTES_MAX;
use model::sample::Timestamp;
use model::selector::Selector;
use serde::de::DeserializeOwned;

use crate::problem::Refusal;

/// The query of a request.
#[derive(Debug)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Refuses keys that are not `known`.
    pub(crate) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Refusal> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Refusal::malformed(format!("the query cannot be read: {error}")))?;
        if let Some((key, _)) = pairs.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            return Err(Refusal::malformed(unknown("query key", key, known)));
        }
        Ok(Self { pairs })
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn one<'a>(&'a self, key: &'a str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.all(key);
        let first = values.next();
        match values.next() {
            Some(_) => Err(Refusal::malformed(format!("{key} is given twice: give it once"))),
            None => Ok(first),
        }
    }

    /// A value that its type can read itself.
    pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, key: &str) -> Result<Option<T>, Refusal> {
        let parse = |text: &str| text.parse().map_err(|error| Refusal::malformed(format!("{key}: {error}")));
        self.one(key)?.map(parse).transpose()
    }

    pub(crate) fn agents(&self) -> Result<BTreeSet<AgentId>, Refusal> {
        self.all("agent")
            .map(|text| AgentId::new(text).map_err(|e| Refusal::malformed(e.to_string())))
            .collect()
    }

    pub(crate) fn selector(&self) -> Result<Option<Selector>, Refusal> {
        self.parsed("selector")
    }

    /// `1` to `max`, or the default.
    pub(crate) fn limit(&self, default: usize, max: usize) -> Result<usize, Refusal> {
        let Some(text) = self.one("limit")? else { return Ok(default) };
        let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        limit.ok_or_else(|| Refusal::malformed(format!("limit is {text:?}: give 1 to {max}")))
    }

    /// An instant, or how long before `now` it was.
    pub(crate) fn time(&self, key: &str, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
        let read = |text: &str| {
            let ago = || duration(text).map(|ago| now.minus(ago));
            Timestamp::parse(text).or_else(ago).ok_or_else(|| {
                Refusal::malformed(format!(
                    "{key} is {text:?}: give a time such as 2026-01-31T12:00:00Z, Unix seconds, or how long ago it was \
                     (90s, 15m, 1h, 2d)"
                ))
            })
        };
        self.one(key)?.map(read).transpose()
    }

    /// A length of time at least `min`.
    pub(crate) fn duration(&self, key: &str, min: Duration) -> Result<Option<Duration>, Refusal> {
        let read = |text: &str| {
            let seconds = || text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            duration(text).or_else(seconds).filter(|length| *length >= min).ok_or_else(|| {
                Refusal::malformed(format!(
                    "{key} is {text:?}: give {min:?} or more, as 10s, 1m, 1h or seconds"
                ))
            })
        };
        self.one(key)?.map(read).transpose()
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, Refusal> {
        match self.one(key)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Refusal::malformed(format!("{key} is {other:?}: give true or false"))),
        }
    }
}

/// A number with a unit: `500ms`, `90s`, `15m`, `1.5h`, `2d`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

/// The JSON body of a write.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Refusal::not_json()),
            Err(JsonRejection::JsonDataError(error)) => Err(Refusal::invalid(in_words(&error.body_text()))),
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let max = model::limit::HTTP_BODY_BYTES_MAX;
                Err(Refusal::too_large(format!("the body is too large: at most {max} bytes are read")))
            }
            Err(error) => Err(Refusal::malformed(in_words(&error.body_text()))),
        }
    }
}

/// The library's text tells programmers of types; whoever reads ours wrote a body.
fn in_words(text: &str) -> String {
    text.replace("Failed to deserialize the JSON body into the target type", "the body does not fit")
        .replace("Failed to parse the request body as JSON", "the body is not JSON")
}

/// Who asks, as they say: shown to people, so short and printable.
pub(crate) fn asker(given: Option<String>) -> Result<Option<String>, Refusal> {
    let fits = |text: &String| text.len() <= ASKER_BYTES_MAX && !text.chars().any(char::is_control);
    match given {
        Some(text) if !fits(&text) => Err(Refusal::invalid(format!(
            "the name of who asks must be printable and have at most {ASKER_BYTES_MAX} bytes"
        ))),
        other => Ok(other.filter(|text| !text.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_with_a_unit() {
        assert_eq!(duration("1.5h"), Some(Duration::from_secs(5_400)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        for text in ["", "h", "5", "1y", "-1h", "1h30m", "1e9h", "9999999999999999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
