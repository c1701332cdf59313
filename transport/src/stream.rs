//! Reading frames from a QUIC stream, many chunks per call.

use bytes::Bytes;
use quinn::{ReadError, RecvStream, WriteError};

use crate::error::LinkError;
use crate::frame::{Bodies, FrameDecoder, FrameError, FrameKind};

/// Chunks taken from a stream at once; each is at most a packet long.
const CHUNKS_PER_READ: usize = 32;

/// The receiving half of a stream of frames.
pub(crate) struct FrameReader {
    stream: RecvStream,
    decoder: FrameDecoder,
    chunks: [Bytes; CHUNKS_PER_READ],
    /// Frames that have been decoded and not yet been taken.
    pub(crate) frames: Vec<(FrameKind, Bytes)>,
    alpn: &'static [u8],
}

impl FrameReader {
    pub(crate) fn new(
        stream: RecvStream,
        first_max_len: usize,
        max_len: usize,
        bodies: Bodies,
        alpn: &'static [u8],
    ) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(first_max_len, max_len, bodies),
            chunks: Default::default(),
            frames: Vec::new(),
            alpn,
        }
    }

    /// Waits for bytes and decodes all that are there; `false` at the end of the stream.
    pub(crate) async fn fill(&mut self) -> Result<bool, LinkError> {
        let read = self.stream.read_chunks(&mut self.chunks).await;
        let Some(count) = read.map_err(|error| read_error(error, self.alpn))? else {
            return Ok(false);
        };
        for chunk in &mut self.chunks[..count] {
            self.decoder.feed(std::mem::take(chunk), &mut self.frames)?;
        }
        Ok(true)
    }

    /// The first frame of the stream, which must be of `kind`.
    pub(crate) async fn first(&mut self, kind: FrameKind) -> Result<Bytes, LinkError> {
        while self.frames.is_empty() {
            if !self.fill().await? {
                return Err(FrameError::Unexpected {
                    what: "the stream ended before its first frame",
                }
                .into());
            }
        }
        let (found, body) = self.frames.remove(0);
        if found == kind {
            Ok(body)
        } else {
            Err(FrameError::Unexpected {
                what: "the first frame of a stream is not the one that must come first",
            }
            .into())
        }
    }
}

pub(crate) fn read_error(error: ReadError, alpn: &'static [u8]) -> LinkError {
    match error {
        ReadError::ConnectionLost(error) => LinkError::from_connection(error, alpn),
        ReadError::Reset(_) => FrameError::Unexpected {
            what: "a long-lived stream was reset",
        }
        .into(),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            LinkError::ClosedHere
        }
    }
}

pub(crate) fn write_error(error: WriteError, alpn: &'static [u8]) -> LinkError {
    match error {
        WriteError::ConnectionLost(error) => LinkError::from_connection(error, alpn),
        WriteError::Stopped(_) => FrameError::Unexpected {
            what: "a long-lived stream was stopped",
        }
        .into(),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => LinkError::ClosedHere,
    }
}
