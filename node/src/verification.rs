//! The proof: a fresh client reads everything, and the history says whether it can be the truth.

use crate::error::Error;
use crate::history::{History, Verdict};
use crate::output::printable;
use crate::rows::Rows;
use bytes::Bytes;
use pontoon_client::Client;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Acknowledged writes.
    pub acked: u64,
    /// Those that are there, or were overwritten by a write that may have.
    pub verified: u64,
    /// Those that are not, or whose key holds something that cannot be.
    pub missing: u64,
    /// Rows whose key nobody wrote.
    pub unexpected: u64,
    /// Rows that were read.
    pub rows: u64,
    /// The first finding, in words.
    pub first: Option<String>,
}

impl Verification {
    /// Reads all rows of a cluster and checks them, and then all keys that should be there and were
    /// not among them. `tell` hears how many rows were read. With `strangers_may_be_there`, rows that
    /// nobody wrote are passed over: the cluster may have had them before.
    ///
    /// # Errors
    /// If a page of rows could not be read.
    pub async fn of(
        client: &Client,
        history: &History,
        strangers_may_be_there: bool,
        mut tell: impl FnMut(u64),
    ) -> Result<Self, Error> {
        let mut verification = Self {
            acked: history.tally().acknowledged,
            ..Self::default()
        };
        let mut rows = Rows::new(client.clone(), Bytes::new(), None, None);
        while let Some(page) = rows.next_page().await? {
            verification.rows += page.len() as u64;
            for (key, value) in &page {
                verification.check(history, key, Some(value), strangers_may_be_there);
            }
            tell(verification.rows);
        }
        for key in history.unchecked_keys() {
            verification.check(history, &key, None, strangers_may_be_there);
        }
        Ok(verification)
    }

    fn check(&mut self, history: &History, key: &[u8], found: Option<&[u8]>, strangers: bool) {
        let acknowledged = history.acknowledged(key);
        let finding = match history.check(key, found) {
            Verdict::Right => {
                self.verified += acknowledged;
                return;
            }
            // What was there before the first write nobody told us.
            Verdict::Unexpected if strangers => return,
            Verdict::Wrong if strangers && acknowledged == 0 => return,
            Verdict::Unexpected => {
                self.unexpected += 1;
                "was never written, and is there"
            }
            Verdict::Lost => {
                self.missing += acknowledged;
                "was acknowledged, and is not there"
            }
            Verdict::Wrong => {
                // A value that only refused writes, or none, could have left is wrong even where
                // nothing was acknowledged.
                self.missing += acknowledged.max(1);
                "holds a value that was overwritten, refused or never written"
            }
        };
        self.first
            .get_or_insert_with(|| format!("first: key {} {finding}", printable(key)));
    }

    /// Whether nothing is missing, wrong or too much.
    ///
    /// # Errors
    /// If something is.
    pub fn into_result(self) -> Result<(), Error> {
        match self.first {
            None => Ok(()),
            Some(first) => Err(Error::Verification {
                acked: self.acked,
                missing: self.missing + self.unexpected,
                first,
            }),
        }
    }

    /// The line that says it.
    #[must_use]
    pub fn to_text(&self) -> String {
        use crate::output::{count, counted};
        format!(
            "verified {} of {} ({} read)",
            count(self.verified as f64),
            counted(self.acked, "acknowledged write"),
            counted(self.rows, "row")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;

    fn history(keys: &[&str]) -> History {
        let history = History::default();
        for key in keys {
            let pending = history.begin(key.as_bytes(), Some(b"v"));
            history.end(pending, Outcome::Acknowledged);
        }
        history
    }

    #[test]
    fn what_is_there_is_verified_and_what_is_not_is_named() {
        let history = history(&["a", "b", "c"]);
        let mut verification = Verification {
            acked: 3,
            ..Verification::default()
        };
        verification.check(&history, b"a", Some(b"v"), false);
        verification.check(&history, b"b", Some(b"other"), false);
        for key in history.unchecked_keys() {
            verification.check(&history, &key, None, false);
        }
        assert_eq!((verification.verified, verification.missing), (1, 2));
        let error = verification.into_result().unwrap_err().to_string();
        assert!(
            error.contains("2 of 3 acknowledged") && error.contains("\"b\""),
            "{error}"
        );
    }

    #[test]
    fn a_stranger_is_a_finding_only_in_a_cluster_that_was_empty() {
        let history = history(&["a"]);
        let mut verification = Verification::default();
        verification.check(&history, b"x", Some(b"v"), true);
        assert!(verification.clone().into_result().is_ok());
        verification.check(&history, b"x", Some(b"v"), false);
        assert_eq!(verification.unexpected, 1);
        assert!(verification.into_result().is_err());
    }
}
