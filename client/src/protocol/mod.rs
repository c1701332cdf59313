//! What clients and nodes say to each other, and the bytes in which they say it.
//!
//! One request gets one answer; the transport pairs them up. Numbers are varints unless a width is given,
//! keys and values are length-prefixed, options and flags are one byte of 0 or 1. Whoever decodes
//! allocates no more than the bytes at hand justify, and keys and values are slices of the message
//! (invariant S12).
//!
//! ```text
//! request:   version u8 1, kind u8, then by kind
//!    1 command   an encoded pontoon_types::Command, to the end of the message
//!    2 get       shard, range epoch, membership epoch, key to the end of the message
//!    3 scan      shard, range epoch, membership epoch, from, option of to, max rows, max bytes
//!    4 hints     -
//!    5 status    -
//!    6 members   shard, count, per step: kind u8, node
//!    7 mark      shard
//!    8 digest    shard, index
//!    9 page      shard, index, max bytes, option of the key behind which it begins
//!
//! answer:    version u8 1, kind u8, then by kind
//!    1 written        -
//!    2 swapped        -
//!    3 not swapped    option of the value that was there
//!    4 value          option of the value
//!    5 rows           flag "more", count, per row: key, value
//!    6 hints          cluster u64, node, meta shard descriptor, count, node descriptors
//!    7 status         to the end of the message; JSON, opaque here
//!    8 marked         index
//!    9 digest         state u8: 0 not held, 1 under way, 2 failed, 3 known: replica, rows, bytes, hash (16 bytes)
//!   16 not leader     option of the leader's node
//!   17 stale epoch    count, shard descriptors
//!   18 overloaded     milliseconds to wait
//!   19 not here       -
//!   20 refused        code u8, text to the end of the message
//!   21 unavailable    text to the end of the message
//!   22 unknown outcome -
//! ```
//!
//! Both sets are open: a side that meets a kind or version it does not know says so and harms nothing.
//! The first two bytes of every message, and the whole of *refused*, keep their layout in all versions,
//! so that an old client can be told what is wrong in words.
//!
//! # What an answer promises
//!
//! Kinds below 16 are outcomes. Those from 16 to 21 promise that **nothing was proposed** on behalf of the
//! request, so that anybody may try again. *Unknown outcome* is the truth when a command was proposed and
//! its fate could not be learnt: it may still be applied, once, or never.

mod request;
mod response;

pub use request::{
    MemberStep, Request, ScanRange, encode_command, encode_digest, encode_get, encode_hints,
    encode_mark, encode_members, encode_page, encode_scan, encode_status,
};
pub use response::{Digest, DigestState, Hints, RefusalCode, Response};

use pontoon_shard_router::DescriptorError;
use pontoon_types::codec::{DecodeError, Reader, put_bytes};
use thiserror::Error;

/// The version of requests and answers that this build speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// The most bytes of keys and values that one page of a scan may hold, unless its first row alone is
/// larger; a larger `max_bytes` counts as this.
pub const MAX_SCAN_BYTES: u32 = 4 << 20;

/// The longest text of a refusal in bytes; longer ones are cut when encoded.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Why bytes are not a request or an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A version that this build does not speak.
    #[error("protocol version {version} is unknown to this build, which speaks {PROTOCOL_VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// A kind of message that this build does not know.
    #[error("message kind {kind} is unknown to this build")]
    UnknownKind {
        /// The kind found.
        kind: u8,
    },
    /// The bytes end early, run on, or hold a value outside its range.
    #[error("not a message: {0}")]
    Malformed(#[from] DecodeError),
    /// A descriptor inside is refused.
    #[error("not a message: {0}")]
    Descriptor(#[from] DescriptorError),
}

fn read_kind(reader: &mut Reader<'_>) -> Result<u8, ProtocolError> {
    match reader.u8()? {
        PROTOCOL_VERSION => Ok(reader.u8()?),
        version => Err(ProtocolError::UnknownVersion { version }),
    }
}

fn put_option(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_bytes(out, value);
    }
}

fn read_option<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    match reader.flag()? {
        true => reader.bytes().map(Some),
        false => Ok(None),
    }
}
