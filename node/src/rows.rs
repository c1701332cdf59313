//! All rows of a range, page by page.

use crate::error::Error;
use bytes::Bytes;
use pontoon_client::Client;

/// Rows of a page. A page is what one call waits for and what is held in memory.
const PAGE_ROWS: u64 = 4096;

/// Reads a range in key order.
pub struct Rows {
    client: Client,
    /// Where the next page begins; `None` behind the last.
    from: Option<Bytes>,
    to: Option<Bytes>,
    left: u64,
}

impl Rows {
    /// The rows from `from` to before `to` (`None`: the end), at most `limit`.
    #[must_use]
    pub fn new(client: Client, from: Bytes, to: Option<Bytes>, limit: Option<u64>) -> Self {
        Self {
            client,
            from: Some(from),
            to,
            left: limit.unwrap_or(u64::MAX),
        }
    }

    /// The next rows; `None` when there are no more.
    ///
    /// # Errors
    /// If they could not be read.
    pub async fn next_page(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, Error> {
        let Some(from) = self.from.take().filter(|_| self.left > 0) else {
            return Ok(None);
        };
        let wanted = self.left.min(PAGE_ROWS) as usize;
        let page = self.client.scan(&from, self.to.as_deref(), wanted).await?;
        self.left -= page.len() as u64;
        let Some((last, _)) = page.last() else {
            return Ok(None);
        };
        if page.len() >= wanted {
            self.from = Some(successor(last));
        }
        Ok(Some(page))
    }
}

/// The least key greater than `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The least key greater than all that begin with `prefix`; `None` if there is none.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_between_a_key_and_its_successor() {
        assert_eq!(&successor(b"a")[..], b"a\0");
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(after_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(after_prefix(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
