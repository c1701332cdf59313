//! Frames: how messages are cut out of a stream of bytes.
//!
//! Eight bytes go before each: the body's length (`u32`), the kind (`u8`), flags (`u8`) and two zero
//! bytes, all little-endian. There is no checksum: QUIC's packets are authenticated. Kind, flags and
//! length are checked before anything is allocated, and a body's buffer grows with the bytes that
//! really came, so that a length alone costs nobody memory (invariant S12).

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// How many bytes go before each frame's body.
pub const FRAME_HEADER_BYTES: usize = 8;

/// How long the number of a request or an answer is at most.
pub(crate) const MAX_VARINT_BYTES: usize = 10;

/// What is allocated at most on the word of a header alone.
const TRUSTED_BYTES: usize = 64 * 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// The first frame of a control stream or of a client's stream.
    Hello = 1,
    /// The first frame of any other stream of a node: which lane it is.
    Lane = 2,
    /// A message that the host handed in.
    Data = 3,
    /// A client's request: varint id and body.
    Request = 4,
    /// The answer to a request: varint id and body.
    Response = 5,
    /// There will be no answer to a request: varint id.
    Abandoned = 6,
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Lane,
            3 => Self::Data,
            4 => Self::Request,
            5 => Self::Response,
            6 => Self::Abandoned,
            _ => return None,
        })
    }
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A frame over the bound.
    #[error("a frame of {len} bytes is over the bound of {max}")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// A kind of frame that this version does not know.
    #[error("a frame of unknown kind {kind}")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// Flags or reserved bytes that this version does not know.
    #[error("a frame with unknown flags {flags:#04x}")]
    UnknownFlags {
        /// The flags.
        flags: u8,
    },
    /// A frame that may not come here.
    #[error("{what}")]
    Unexpected {
        /// What was wrong.
        what: &'static str,
    },
}

pub(crate) fn header(kind: FrameKind, len: usize) -> [u8; FRAME_HEADER_BYTES] {
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [len[0], len[1], len[2], len[3], kind as u8, 0, 0, 0]
}

/// A message as a short list of slices that are sent one after the other without being copied
/// together first: a header of the host's, and payloads as they lie in its log.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    first: Bytes,
    rest: Vec<Bytes>,
    len: usize,
}

impl Frame {
    /// A frame without bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first: Bytes::new(),
            rest: Vec::new(),
            len: 0,
        }
    }

    /// Appends a slice.
    pub fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if self.first.is_empty() {
            self.first = bytes;
        } else if !bytes.is_empty() {
            self.rest.push(bytes);
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its slices in order.
    pub fn into_chunks(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.first).chain(self.rest)
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        let mut frame = Self::new();
        frame.push(bytes);
        frame
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl FromIterator<Bytes> for Frame {
    fn from_iter<I: IntoIterator<Item = Bytes>>(chunks: I) -> Self {
        let mut frame = Self::new();
        for chunk in chunks {
            frame.push(chunk);
        }
        frame
    }
}

/// Whether a decoded body may be a slice of the buffer that the network filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bodies {
    /// Slices where possible: nothing is copied, but a short body keeps a whole receive buffer (up to
    /// 64 KiB) alive. For what is dealt with at once, such as requests.
    Slices,
    /// Always a buffer of its own, of its own length: for what may be kept long, such as entries in
    /// a cache whose bound counts lengths.
    Owned,
}

/// Cuts frames out of chunks as they come from a stream.
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    /// The bound of the frame that comes next, and of all after it. They differ only for the first:
    /// a hello is short, and what follows it may already be in the same read.
    max_len: usize,
    later_max_len: usize,
    bodies: Bodies,
    header: [u8; FRAME_HEADER_BYTES],
    header_len: usize,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    kind: FrameKind,
    len: usize,
    body: BytesMut,
}

impl FrameDecoder {
    pub(crate) const fn new(first_max_len: usize, max_len: usize, bodies: Bodies) -> Self {
        Self {
            max_len: first_max_len,
            later_max_len: max_len,
            bodies,
            header: [0; FRAME_HEADER_BYTES],
            header_len: 0,
            partial: None,
        }
    }

    /// Appends to `frames` those that `chunk` completes. After an error the stream is of no use.
    pub(crate) fn feed(
        &mut self,
        mut chunk: Bytes,
        frames: &mut Vec<(FrameKind, Bytes)>,
    ) -> Result<(), FrameError> {
        loop {
            if let Some(partial) = &mut self.partial {
                let missing = partial.len - partial.body.len();
                let now = missing.min(chunk.len());
                partial.reserve(now);
                partial.body.extend_from_slice(&chunk[..now]);
                chunk.advance(now);
                if now < missing {
                    return Ok(());
                }
                if let Some(Partial { kind, body, .. }) = self.partial.take() {
                    frames.push((kind, body.freeze()));
                }
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let now = (FRAME_HEADER_BYTES - self.header_len).min(chunk.len());
            self.header[self.header_len..self.header_len + now].copy_from_slice(&chunk[..now]);
            self.header_len += now;
            chunk.advance(now);
            if self.header_len < FRAME_HEADER_BYTES {
                return Ok(());
            }
            self.header_len = 0;
            let (kind, len) = self.check_header()?;
            self.max_len = self.later_max_len;
            if chunk.len() >= len {
                let body = chunk.split_to(len);
                frames.push((
                    kind,
                    match self.bodies {
                        Bodies::Slices => body,
                        Bodies::Owned => Bytes::copy_from_slice(&body),
                    },
                ));
            } else {
                self.partial = Some(Partial {
                    kind,
                    len,
                    body: BytesMut::with_capacity(len.min(TRUSTED_BYTES)),
                });
            }
        }
    }

    fn check_header(&self) -> Result<(FrameKind, usize), FrameError> {
        let [a, b, c, d, kind, flags, reserved @ ..] = self.header;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let known = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind { kind })?;
        if flags != 0 || reserved != [0, 0] {
            return Err(FrameError::UnknownFlags {
                flags: flags | reserved[0] | reserved[1],
            });
        }
        if len > self.max_len {
            return Err(FrameError::TooLarge {
                len,
                max: self.max_len,
            });
        }
        Ok((known, len))
    }
}

impl Partial {
    /// Makes room for `more` bytes: at least doubled, never beyond the frame's length.
    fn reserve(&mut self, more: usize) {
        let have = self.body.len();
        if self.body.capacity() - have < more {
            let doubled = (have + more).max(have * 2).min(self.len);
            self.body.reserve(doubled - have);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(kind: FrameKind, body: &[u8]) -> Vec<u8> {
        let mut bytes = header(kind, body.len()).to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    proptest! {
        #[test]
        fn frames_read_back_however_the_stream_is_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cuts in prop::collection::vec(1usize..97, 1..8),
            owned: bool,
        ) {
            let stream: Vec<u8> =
                bodies.iter().flat_map(|body| encode(FrameKind::Data, body)).collect();
            let stream = Bytes::from(stream);
            let mode = if owned { Bodies::Owned } else { Bodies::Slices };
            let mut decoder = FrameDecoder::new(300, 300, mode);
            let mut frames = Vec::new();
            let (mut at, mut cut) = (0, cuts.iter().cycle());
            while at < stream.len() {
                let end = stream.len().min(at + cut.next().unwrap());
                decoder.feed(stream.slice(at..end), &mut frames).unwrap();
                at = end;
            }
            let read: Vec<_> = frames.iter().map(|(_, body)| body.to_vec()).collect();
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_allocate_beyond_what_came(
            bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let mut decoder = FrameDecoder::new(usize::MAX, usize::MAX, Bodies::Owned);
            let len = bytes.len();
            let mut frames = Vec::new();
            // The result does not matter: half of all headers are refused.
            let _ = decoder.feed(Bytes::from(bytes), &mut frames);
            if let Some(partial) = &decoder.partial {
                prop_assert!(partial.body.capacity() <= TRUSTED_BYTES.max(4 * len));
            }
        }
    }

    #[test]
    fn a_frame_over_the_bound_is_refused_by_its_header_alone() {
        let mut decoder = FrameDecoder::new(100, 100, Bodies::Owned);
        let head = Bytes::copy_from_slice(&header(FrameKind::Data, 101));
        assert_eq!(
            decoder.feed(head, &mut Vec::new()),
            Err(FrameError::TooLarge { len: 101, max: 100 })
        );
    }

    #[test]
    fn the_first_frames_own_bound_ends_with_it() {
        let mut decoder = FrameDecoder::new(10, 100, Bodies::Owned);
        let mut frames = Vec::new();
        let together = [
            encode(FrameKind::Hello, &[1; 10]),
            encode(FrameKind::Data, &[2; 100]),
        ];
        decoder
            .feed(Bytes::from(together.concat()), &mut frames)
            .unwrap();
        assert_eq!(frames.len(), 2);
        let mut decoder = FrameDecoder::new(10, 100, Bodies::Owned);
        assert_eq!(
            decoder.feed(
                Bytes::from(encode(FrameKind::Hello, &[1; 11])),
                &mut Vec::new()
            ),
            Err(FrameError::TooLarge { len: 11, max: 10 })
        );
    }

    #[test]
    fn unknown_kinds_and_flags_are_refused() {
        let feed = |bytes: [u8; 8]| {
            FrameDecoder::new(100, 100, Bodies::Owned)
                .feed(Bytes::copy_from_slice(&bytes), &mut Vec::new())
        };
        assert_eq!(
            feed([0, 0, 0, 0, 77, 0, 0, 0]),
            Err(FrameError::UnknownKind { kind: 77 })
        );
        assert_eq!(
            feed([0, 0, 0, 0, 3, 1, 0, 0]),
            Err(FrameError::UnknownFlags { flags: 1 })
        );
        assert_eq!(
            feed([0, 0, 0, 0, 3, 0, 0, 2]),
            Err(FrameError::UnknownFlags { flags: 2 })
        );
    }

    #[test]
    fn an_empty_frame_is_a_frame() {
        let mut frames = Vec::new();
        let mut decoder = FrameDecoder::new(100, 100, Bodies::Slices);
        decoder
            .feed(Bytes::from(encode(FrameKind::Data, b"")), &mut frames)
            .unwrap();
        assert_eq!(frames, [(FrameKind::Data, Bytes::new())]);
    }

    #[test]
    fn a_large_frame_grows_to_its_length_and_no_further() {
        let body = vec![7u8; 1_000_000];
        let stream = Bytes::from(encode(FrameKind::Data, &body));
        let mut decoder = FrameDecoder::new(2_000_000, 2_000_000, Bodies::Owned);
        let mut frames = Vec::new();
        for start in (0..stream.len()).step_by(6_500) {
            let end = stream.len().min(start + 6_500);
            decoder.feed(stream.slice(start..end), &mut frames).unwrap();
        }
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].1, body);
    }
}
