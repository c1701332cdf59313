//! Rows of an incoming snapshot, written straight into tables.
//!
//! They belong to a tablet that nothing refers to yet, so they meet no other rows, and no view can tell when they
//! come: they need neither the memtable nor a number of their own. A thread writes the tables from the stream of rows; when
//! it has ended, all of them are registered at once.

use super::background::Shared;
use crate::keys::{self, MAX_KEY_PREFIX_BYTES};
use crate::{Stager, StoreError};
use lsm_tree::{AbstractTree, InternalValue, Slice, ValueType};
use pontoon_types::TabletId;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::vec;

/// Bytes of rows that are handed to the thread at once.
const PARCEL_BYTES: usize = 64 << 10;
/// Parcels that wait for the thread, at most.
const PARCELS: usize = 8;
/// The longest that the end of the store goes unnoticed.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// Takes in the rows of one tablet.
pub struct LsmStager {
    prefix: Vec<u8>,
    parcel: Vec<InternalValue>,
    parcel_bytes: usize,
    /// `None` once all is sent.
    parcels: Option<SyncSender<Vec<InternalValue>>>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

impl LsmStager {
    pub(super) fn new(shared: &Arc<Shared>, tablet: TabletId) -> Result<Self, StoreError> {
        let (parcels, received) = sync_channel(PARCELS);
        let (writer, staging) = (Arc::clone(shared), shared.begin_staging());
        let thread = thread::Builder::new()
            .name("pontoon-stage".into())
            .spawn(move || {
                let _staging = staging;
                let written = write_tables(&writer, received);
                if written.is_err() {
                    writer.note_litter();
                }
                writer.tidy();
                written
            });
        let thread = thread.map_err(|source| StoreError::Io {
            operation: "start a thread",
            path: shared.path.clone(),
            source: Arc::new(source),
        })?;
        Ok(Self {
            prefix: keys::tablet_prefix(tablet).to_vec(),
            parcel: Vec::new(),
            parcel_bytes: 0,
            parcels: Some(parcels),
            thread: Some(thread),
        })
    }

    fn send(&mut self) -> Result<(), StoreError> {
        self.parcel_bytes = 0;
        let parcel = std::mem::take(&mut self.parcel);
        let sent = self.parcels.as_ref().map(|to| to.send(parcel));
        if matches!(sent, Some(Ok(()))) {
            return Ok(());
        }
        // The thread ends before its rows do only if it has failed.
        self.end()
    }

    /// No more rows come. Waits for the tables.
    fn end(&mut self) -> Result<(), StoreError> {
        drop(self.parcels.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(StoreError::ThreadDied { thread: "staging" }),
        }
    }
}

impl Stager for LsmStager {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut stored = Vec::with_capacity(MAX_KEY_PREFIX_BYTES + key.len());
        stored.extend_from_slice(&self.prefix);
        stored.extend_from_slice(key);
        self.parcel_bytes += stored.len() + value.len();
        self.parcel.push(InternalValue::from_components(
            stored,
            Slice::from(value),
            0,
            ValueType::Value,
        ));
        if self.parcel_bytes < PARCEL_BYTES {
            return Ok(());
        }
        self.send()
    }

    fn finish(mut self) -> Result<(), StoreError> {
        if !self.parcel.is_empty() {
            self.send()?;
        }
        self.end()
    }
}

impl Drop for LsmStager {
    /// What came of it is garbage, but not before its tables are registered: then it can be reclaimed like any other.
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

fn write_tables(shared: &Shared, parcels: Receiver<Vec<InternalValue>>) -> Result<(), StoreError> {
    let _writing = shared.writing.read();
    let rows = Rows {
        shared,
        parcels,
        parcel: Vec::new().into_iter(),
    };
    let failed = |error| shared.error("stage a snapshot", error);
    let written = shared.tree.flush_to_tables(rows).map_err(failed)?;
    let Some((tables, _)) = written.filter(|(tables, _)| !tables.is_empty()) else {
        return Ok(());
    };
    let watermark = shared.pins.watermark();
    shared
        .tree
        .register_tables(&tables, None, None, &[], watermark)
        .map_err(failed)?;
    shared.want_compaction();
    Ok(())
}

/// The rows as they come, until the store stops: whoever sends them may take their time, and the directory must be
/// left alone by then.
struct Rows<'a> {
    shared: &'a Shared,
    parcels: Receiver<Vec<InternalValue>>,
    parcel: vec::IntoIter<InternalValue>,
}

impl Iterator for Rows<'_> {
    type Item = lsm_tree::Result<InternalValue>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.parcel.next() {
                return Some(Ok(row));
            }
            if let Err(stopped) = self.shared.check_running() {
                return Some(Err(stopped));
            }
            match self.parcels.recv_timeout(MAX_WAIT) {
                Ok(parcel) => self.parcel = parcel.into_iter(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}
