//! Headers of a record. Clones share them until one is changed: a record is cloned for every try to publish it, and the
//! records of one publisher have the same headers, as a rule.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Arc<BTreeMap<String, String>>);

impl Deref for Headers {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Changing them takes a copy first, if they are shared.
impl DerefMut for Headers {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl<const N: usize> From<[(String, String); N]> for Headers {
    fn from(headers: [(String, String); N]) -> Self {
        headers.into_iter().collect()
    }
}

impl FromIterator<(String, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(headers: I) -> Self {
        Self(Arc::new(headers.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_not_seen_in_clones() {
        let original = Headers::from([("a".to_owned(), "1".to_owned())]);
        let mut changed = original.clone();
        changed.insert("a".to_owned(), "2".to_owned());
        assert_eq!((original["a"].as_str(), changed["a"].as_str()), ("1", "2"));
    }
}
