//! Reading one pinned version.

use super::background::Shared;
use super::pins::Pin;
use crate::{Row, StoreError, View};
use bytes::Bytes;
use lsm_tree::{AbstractTree, Guard as _, Slice};
use std::sync::Arc;

/// An immutable version of an [`LsmStore`](crate::LsmStore).
#[derive(Clone)]
pub struct LsmView(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    pin: Pin,
}

impl LsmView {
    pub(super) fn new(shared: Arc<Shared>, pin: Pin) -> Self {
        Self(Arc::new(Inner { shared, pin }))
    }
}

impl View for LsmView {
    fn get(&self, stored_key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Inner { shared, pin } = &*self.0;
        let found = shared.tree.get(stored_key, pin.seqno());
        let value = found.map_err(|error| shared.read_error(error, stored_key, stored_key))?;
        Ok(value.map(own))
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<Row, StoreError>> + Send + use<'a> {
        let Inner { shared, pin } = &*self.0;
        // The tree takes an inverted range for a bug of its caller.
        let rows = (from < to).then(|| shared.tree.range(from..to, pin.seqno(), None));
        let keep = Arc::clone(&self.0);
        let (mut last, to) = (Slice::from(from), Slice::from(to));
        rows.into_iter().flatten().map(move |row| {
            let (key, value) = row
                .into_inner()
                .map_err(|error| keep.shared.read_error(error, &last, &to))?;
            last = key.clone();
            Ok((own(key), own(value)))
        })
    }
}

/// What was read, for whoever wants it. Small rows are copied, so that one that waits to be sent does
/// not keep its block of 4 KiB alive.
pub(super) fn own(row: Slice) -> Bytes {
    if row.len() < 1024 {
        Bytes::copy_from_slice(&row)
    } else {
        Bytes::from_owner(row)
    }
}
