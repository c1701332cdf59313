//! Reading many rows in key order, over shard borders, one page at a time.

use crate::discover::successor;
use crate::protocol::{Response, ScanRange};
use crate::request::{Ask, clip};
use crate::shell::Shell;
use crate::{Client, ClientError};
use bytes::Bytes;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

/// A key and its value.
pub type Row = (Bytes, Bytes);

/// A scan under way. Holds one page of rows; the next is asked for when that is used up.
///
/// Each page is linearizable by itself: it holds every write that was acknowledged before the page was
/// asked for. Pages are read one after the other, so the whole is not a snapshot of one moment.
#[derive(Debug)]
pub struct Scan {
    shell: Arc<Shell>,
    timeout: Duration,
    /// The first key that was not read; `None` when there is nothing left.
    from: Option<Bytes>,
    to: Option<Bytes>,
    page: VecDeque<Row>,
}

impl Scan {
    pub(crate) fn new(client: &Client, from: &[u8], to: Option<&[u8]>) -> Self {
        let is_empty = to.is_some_and(|to| to <= from);
        Self {
            shell: client.shell.clone(),
            timeout: client.timeout,
            from: (!is_empty).then(|| Bytes::copy_from_slice(from)),
            to: to.map(Bytes::copy_from_slice),
            page: VecDeque::new(),
        }
    }

    /// The next row, or `None` behind the last.
    ///
    /// # Errors
    /// As [`Scan::next_page`].
    pub async fn next(&mut self) -> Result<Option<Row>, ClientError> {
        while self.page.is_empty() {
            let max_rows = self.shell.config.scan_page_rows;
            match self.fetch(max_rows).await? {
                Some(page) => self.page = page.into(),
                None => return Ok(None),
            }
        }
        Ok(self.page.pop_front())
    }

    /// The rows that one answer brought, at least one; or `None` behind the last.
    ///
    /// # Errors
    /// If a shard could not be read within the client's request timeout, which each page has for itself.
    /// The scan may then be continued by calling again: nothing is skipped.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Row>>, ClientError> {
        self.next_page_of(self.shell.config.scan_page_rows).await
    }

    pub(crate) async fn next_page_of(
        &mut self,
        max_rows: u32,
    ) -> Result<Option<Vec<Row>>, ClientError> {
        if !self.page.is_empty() {
            return Ok(Some(core::mem::take(&mut self.page).into()));
        }
        while let Some(page) = self.fetch(max_rows).await? {
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// One answer, which may be empty; `None` if there is nothing left to ask for.
    async fn fetch(&mut self, max_rows: u32) -> Result<Option<Vec<Row>>, ClientError> {
        let Some(from) = self.from.clone() else {
            return Ok(None);
        };
        let mut ask = Ask::Scan(ScanRange {
            from: from.clone(),
            to: self.to.clone(),
            max_rows: max_rows.max(1),
            max_bytes: self.shell.config.scan_page_bytes,
        });
        let answer = self.shell.execute(&mut ask, self.timeout).await?;
        let end = clip(self.to.as_ref(), answer.shard.end.as_ref());
        let Response::Rows { rows, more } = &answer.response else {
            return Err(answer.unexpected("rows"));
        };
        // Whatever a node says, a scan moves forward and stays within its bounds.
        let is_within = rows.first().is_none_or(|(key, _)| *key >= from)
            && rows.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && rows
                .last()
                .is_none_or(|(key, _)| end.as_ref().is_none_or(|end| key < end));
        if !is_within || (*more && rows.is_empty()) {
            return Err(answer.unexpected("ascending rows of the range"));
        }
        self.from = match rows.last() {
            Some((last, _)) if *more => Some(successor(last)),
            _ => end.filter(|end| Some(end) != self.to.as_ref()),
        };
        match answer.response {
            Response::Rows { rows, .. } => Ok(Some(rows)),
            _ => Ok(None),
        }
    }
}
