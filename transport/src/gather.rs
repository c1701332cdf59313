//! Turns many small pieces into few slices for one vectored write.
//!
//! QUIC keeps what was written until it is acknowledged, as a list that it walks for every packet;
//! thousands of tiny slices make that walk the cost of a message. So pieces below [`SLICE_BYTES`] are
//! copied together, and only larger ones stay the slices that they are.

use bytes::{BufMut, Bytes, BytesMut};
use pontoon_types::codec::varint_len;

use crate::frame::{Frame, FrameKind, header};

/// From this length on a piece is not copied. A copy of 8 KiB costs about as much as the bookkeeping
/// of a slice through its life in the send buffer.
const SLICE_BYTES: usize = 8 * 1024;

/// Room that the copying buffer asks for when it has none left.
const BLOCK_BYTES: usize = 32 * 1024;

/// Pieces gathered for a write.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    chunks: Vec<Bytes>,
    open: BytesMut,
    len: usize,
}

impl Gather {
    /// How many bytes have been gathered.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room for `more` bytes to be appended by copying.
    pub(crate) fn reserve(&mut self, more: usize) {
        if self.open.capacity() - self.open.len() < more {
            self.open.reserve(more.max(BLOCK_BYTES));
        }
    }

    pub(crate) fn put_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.open.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn put(&mut self, bytes: Bytes) {
        if bytes.len() < SLICE_BYTES {
            self.put_slice(&bytes);
        } else {
            self.close_open();
            self.len += bytes.len();
            self.chunks.push(bytes);
        }
    }

    /// A whole frame of the host's.
    pub(crate) fn put_frame(&mut self, frame: Frame) {
        self.put_slice(&header(FrameKind::Data, frame.len()));
        for chunk in frame.into_chunks() {
            self.put(chunk);
        }
    }

    /// A whole frame with a copy of `body`.
    pub(crate) fn put_plain(&mut self, kind: FrameKind, body: &[u8]) {
        self.put_slice(&header(kind, body.len()));
        self.put_slice(body);
    }

    /// A numbered message with a body that is not copied if it is long.
    pub(crate) fn put_message(&mut self, kind: FrameKind, id: u64, body: Bytes) {
        self.put_slice(&header(kind, varint_len(id) + body.len()));
        let before = self.open.len();
        put_id(&mut self.open, id);
        self.len += self.open.len() - before;
        self.put(body);
    }

    fn close_open(&mut self) {
        if !self.open.is_empty() {
            self.chunks.push(self.open.split().freeze());
        }
    }

    /// Everything gathered, in order, for one write. The vector is the gather's own and is cleared by
    /// [`Gather::clear`].
    pub(crate) fn finish(&mut self) -> &mut Vec<Bytes> {
        self.close_open();
        &mut self.chunks
    }

    /// Forgets everything but keeps the buffers.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.open.clear();
        self.len = 0;
    }
}

/// A varint as [`pontoon_types::codec::put_varint`] lays it, into a buffer of the network's kind.
fn put_id(out: &mut BytesMut, mut id: u64) {
    while id >= 0x80 {
        out.put_u8((id as u8) | 0x80);
        id >>= 7;
    }
    out.put_u8(id as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_copied_together_and_large_ones_are_not() {
        let mut gather = Gather::default();
        let large = Bytes::from(vec![9u8; SLICE_BYTES]);
        gather.put_slice(b"ab");
        gather.put(Bytes::from_static(b"cd"));
        gather.put(large.clone());
        gather.put(Bytes::from_static(b"ef"));
        assert_eq!(gather.len(), 6 + SLICE_BYTES);
        let chunks = gather.finish();
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[0], b"abcd"[..]);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr());
        assert_eq!(chunks[2], b"ef"[..]);
        gather.clear();
        assert!(gather.is_empty() && gather.finish().is_empty());
    }
}
