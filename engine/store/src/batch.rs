//! What one turn of the apply thread writes: rows of many groups, and how far each group has come.

use crate::keys::{self, MAX_KEY_PREFIX_BYTES, MAX_STORED_KEY_BYTES, Space};
use pontoon_types::{GroupId, LogIndex, TabletId};
use std::collections::HashMap;
use std::ops::Range;

/// Rows and applied indexes that become visible, and later durable, at once.
///
/// All keys and values lie in one buffer that is kept from batch to batch, so that filling a batch
/// allocates nothing once it has reached its usual size. Of several rows with one key the last wins.
#[derive(Debug, Default)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    rows: Vec<RowSpan>,
    /// How far groups have come; `None`: the group has left the node.
    applied: Vec<(GroupId, Option<LogIndex>)>,
    /// Where a key's last row is. Built by the first look-up of a batch and kept up to date from
    /// there on, so that batches without compare-and-swap never pay for it.
    index: Option<HashMap<Box<[u8]>, usize>>,
}

/// Where a row lies in the buffer: its stored key, directly followed by its value.
#[derive(Clone, Copy, Debug)]
struct RowSpan {
    start: usize,
    key_end: usize,
    /// `None`: the row is removed.
    value_end: Option<usize>,
}

/// A row of a batch, as ranges of [`WriteBatch::bytes`].
pub(crate) struct StagedRow {
    pub(crate) key: Range<usize>,
    /// `None`: the row is removed.
    pub(crate) value: Option<Range<usize>>,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a row.
    ///
    /// # Panics
    /// If the key is longer than [`MAX_STORED_KEY_BYTES`]; whoever takes keys from outside bounds them.
    pub fn put(&mut self, tablet: TabletId, space: Space, key: &[u8], value: &[u8]) {
        self.push(tablet, space, key, Some(value));
    }

    /// Removes a row, which need not be there.
    ///
    /// # Panics
    /// If the key is longer than [`MAX_STORED_KEY_BYTES`].
    pub fn delete(&mut self, tablet: TabletId, space: Space, key: &[u8]) {
        self.push(tablet, space, key, None);
    }

    /// Removes a row by its stored key.
    pub(crate) fn delete_stored(&mut self, stored_key: &[u8]) {
        self.append(&[], stored_key, None);
    }

    /// Sets a row, or removes it, by its stored key.
    pub(crate) fn put_stored(&mut self, stored_key: &[u8], value: Option<&[u8]>) {
        self.append(&[], stored_key, value);
    }

    /// The stored key of the last row.
    pub(crate) fn last_key(&self) -> Option<&[u8]> {
        let row = self.rows.last()?;
        Some(&self.bytes[row.start..row.key_end])
    }

    fn push(&mut self, tablet: TabletId, space: Space, key: &[u8], value: Option<&[u8]>) {
        assert!(
            key.len() <= MAX_STORED_KEY_BYTES,
            "a key of {} bytes reached the store, {MAX_STORED_KEY_BYTES} is the most",
            key.len()
        );
        self.append(&keys::prefix(tablet, space), key, value);
    }

    fn append(&mut self, prefix: &[u8], key: &[u8], value: Option<&[u8]>) {
        let start = self.bytes.len();
        self.bytes
            .reserve(MAX_KEY_PREFIX_BYTES + key.len() + value.map_or(0, <[u8]>::len));
        self.bytes.extend_from_slice(prefix);
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        let value_end = value.map(|value| {
            self.bytes.extend_from_slice(value);
            self.bytes.len()
        });
        if let Some(index) = &mut self.index {
            index.insert(self.bytes[start..key_end].into(), self.rows.len());
        }
        self.rows.push(RowSpan {
            start,
            key_end,
            value_end,
        });
    }

    /// States that with this batch `group` has been applied up to `index`.
    pub fn set_applied(&mut self, group: GroupId, index: LogIndex) {
        match self.applied.last_mut() {
            Some((last, Some(at))) if *last == group => *at = index,
            _ => self.applied.push((group, Some(index))),
        }
    }

    /// States that with this batch `group` has left the node: it has no applied index any more, and may begin anew.
    pub fn forget_applied(&mut self, group: GroupId) {
        self.applied.push((group, None));
    }

    /// What the batch does to a row: `None` if nothing, `Some(None)` if it removes it.
    pub fn staged(&mut self, stored_key: &[u8]) -> Option<Option<&[u8]>> {
        let Self {
            bytes, rows, index, ..
        } = self;
        let index = index.get_or_insert_with(|| {
            let keys = rows.iter().map(|row| bytes[row.start..row.key_end].into());
            keys.enumerate().map(|(at, key)| (key, at)).collect()
        });
        let row = rows[*index.get(stored_key)?];
        Some(row.value_end.map(|end| &bytes[row.key_end..end]))
    }

    /// Whether it would change nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.applied.is_empty()
    }

    /// How many rows it has, applied indexes not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.applied.clear();
        self.index = None;
    }

    /// The buffer that [`WriteBatch::rows`] points into.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = StagedRow> + '_ {
        self.rows.iter().map(|row| StagedRow {
            key: row.start..row.key_end,
            value: row.value_end.map(|end| row.key_end..end),
        })
    }

    pub(crate) fn applied(&self) -> &[(GroupId, Option<LogIndex>)] {
        &self.applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_knows_its_own_last_word_on_a_key() {
        let mut batch = WriteBatch::new();
        let tablet = TabletId(1);
        let stored = keys::stored_key(tablet, Space::Data, b"k");
        batch.put(tablet, Space::Data, b"k", b"one");
        assert_eq!(batch.staged(&stored), Some(Some(&b"one"[..])));
        batch.delete(tablet, Space::Data, b"k");
        assert_eq!(batch.staged(&stored), Some(None));
        batch.put(tablet, Space::Data, b"k", b"");
        assert_eq!(batch.staged(&stored), Some(Some(&b""[..])));
        assert_eq!(
            batch.staged(&keys::stored_key(tablet, Space::Data, b"kk")),
            None
        );
        batch.clear();
        assert_eq!(batch.staged(&stored), None);
        assert!(batch.is_empty());
    }
}
