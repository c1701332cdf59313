//! What a client asks of a shard: encoded once by the client, carried as it is in the entry.
//!
//! ```text
//! version      u8      1
//! shard        varint
//! range epoch  varint
//! member epoch varint
//! session      varint  0: no session
//! sequence     varint
//! operation    u8      1 write, 2 compare-and-swap
//! write:             count, then per mutation: 0 put (key, value) or 1 delete (key)
//! compare-and-swap:  key, expected (0 absent | 1 value), new (0 absent | 1 value)
//! ```
//!
//! Counts and lengths are varints, keys and values are length-prefixed. Operations are an open,
//! versioned set: each is deterministic, and reads and writes only keys of its own shard.

use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::{Sequence, ShardId};
use alloc::vec::Vec;
use core::fmt;
use thiserror::Error;

const VERSION: u8 = 1;
const WRITE: u8 = 1;
const COMPARE_AND_SWAP: u8 = 2;

/// A client's session; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A shard's version: its range changes with splits and merges, its membership with replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Counts changes of the key range.
    pub range: u64,
    /// Counts changes of the members.
    pub membership: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.range, self.membership)
    }
}

/// The identity that every request carries: where it was routed, and which command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The shard it was routed to.
    pub shard: ShardId,
    /// The epoch of the shard by which it was routed.
    pub epoch: Epoch,
    /// The client's session.
    pub session: SessionId,
    /// The command's number in the session.
    pub sequence: Sequence,
}

/// One change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation<'a> {
    /// Set a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Remove a key, which need not be there.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Mutation<'a> {
    /// The key it changes.
    #[must_use]
    pub const fn key(&self) -> &'a [u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// All mutations, in order, at once.
    Write(Vec<Mutation<'a>>),
    /// Set `key` to `set` if its value is `expect`; `None` stands for "no value".
    CompareAndSwap {
        /// The key.
        key: &'a [u8],
        /// What must be there.
        expect: Option<&'a [u8]>,
        /// What will be there.
        set: Option<&'a [u8]>,
    },
}

impl<'a> Operation<'a> {
    /// Every key it touches.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        let (mutations, single) = match self {
            Self::Write(mutations) => (mutations.as_slice(), None),
            Self::CompareAndSwap { key, .. } => (&[][..], Some(*key)),
        };
        mutations.iter().map(Mutation::key).chain(single)
    }
}

/// A command, borrowing its keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Where it goes and which one it is.
    pub request: Request,
    /// What it does.
    pub operation: Operation<'a>,
}

impl<'a> Command<'a> {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Request {
            shard,
            epoch,
            session,
            sequence,
        } = self.request;
        out.push(VERSION);
        for number in [
            shard.0,
            epoch.range,
            epoch.membership,
            session.0,
            sequence.0,
        ] {
            put_varint(out, number);
        }
        match &self.operation {
            Operation::Write(mutations) => {
                out.push(WRITE);
                put_varint(out, mutations.len() as u64);
                for mutation in mutations {
                    match mutation {
                        Mutation::Put { key, value } => {
                            out.push(0);
                            put_bytes(out, key);
                            put_bytes(out, value);
                        }
                        Mutation::Delete { key } => {
                            out.push(1);
                            put_bytes(out, key);
                        }
                    }
                }
            }
            Operation::CompareAndSwap { key, expect, set } => {
                out.push(COMPARE_AND_SWAP);
                put_bytes(out, key);
                for side in [expect, set] {
                    out.push(u8::from(side.is_some()));
                    if let Some(value) = side {
                        put_bytes(out, value);
                    }
                }
            }
        }
    }

    /// Reads a whole command.
    ///
    /// # Errors
    /// If `bytes` is not exactly one command of a known version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let request = Request::decode(&mut reader)?;
        let operation = match reader.u8()? {
            WRITE => {
                let count = reader.count(2)?;
                let mut mutations = Vec::with_capacity(count);
                for _ in 0..count {
                    mutations.push(match reader.u8()? {
                        0 => Mutation::Put {
                            key: reader.bytes()?,
                            value: reader.bytes()?,
                        },
                        1 => Mutation::Delete {
                            key: reader.bytes()?,
                        },
                        _ => {
                            return Err(DecodeError::Invalid {
                                what: "unknown mutation",
                            });
                        }
                    });
                }
                Operation::Write(mutations)
            }
            COMPARE_AND_SWAP => {
                let key = reader.bytes()?;
                let mut side = || {
                    Ok(if reader.flag()? {
                        Some(reader.bytes()?)
                    } else {
                        None
                    })
                };
                Operation::CompareAndSwap {
                    key,
                    expect: side()?,
                    set: side()?,
                }
            }
            _ => {
                return Err(DecodeError::Invalid {
                    what: "unknown operation",
                });
            }
        };
        reader.finish()?;
        Ok(Self { request, operation })
    }
}

impl Request {
    /// Reads the front of an encoded command and leaves the operation.
    ///
    /// # Errors
    /// If the bytes are not the front of a command of a known version.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.u8()? != VERSION {
            return Err(DecodeError::Invalid {
                what: "unknown command version",
            });
        }
        Ok(Self {
            shard: ShardId(reader.varint()?),
            epoch: Epoch {
                range: reader.varint()?,
                membership: reader.varint()?,
            },
            session: SessionId(reader.varint()?),
            sequence: Sequence(reader.varint()?),
        })
    }
}

/// The largest key, value and command that a cluster takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest key in bytes.
    pub max_key_bytes: usize,
    /// Largest value in bytes.
    pub max_value_bytes: usize,
    /// Largest encoded command in bytes.
    pub max_command_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_key_bytes: 4 << 10,
            max_value_bytes: 1 << 20,
            max_command_bytes: 4 << 20,
        }
    }
}

/// Which limit was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitsError {
    /// A key is empty.
    #[error("a key is empty")]
    EmptyKey,
    /// A key is too long.
    #[error("a key of {bytes} bytes is over the limit of {limit} (setting: max-key-bytes)")]
    Key {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A value is too long.
    #[error("a value of {bytes} bytes is over the limit of {limit} (setting: max-value-bytes)")]
    Value {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The whole command is too long.
    #[error("a command of {bytes} bytes is over the limit of {limit} (setting: max-command-bytes)")]
    Command {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl Limits {
    /// Checks a key.
    ///
    /// # Errors
    /// If it is empty or too long.
    pub const fn check_key(&self, key: &[u8]) -> Result<(), LimitsError> {
        if key.is_empty() {
            Err(LimitsError::EmptyKey)
        } else if key.len() > self.max_key_bytes {
            Err(LimitsError::Key {
                bytes: key.len(),
                limit: self.max_key_bytes,
            })
        } else {
            Ok(())
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// If it is too long.
    pub const fn check_value(&self, value: &[u8]) -> Result<(), LimitsError> {
        if value.len() > self.max_value_bytes {
            Err(LimitsError::Value {
                bytes: value.len(),
                limit: self.max_value_bytes,
            })
        } else {
            Ok(())
        }
    }

    /// Checks the encoded length of a command. Decoding takes several times that in memory, so bytes from elsewhere are checked
    /// before.
    ///
    /// # Errors
    /// If it is too long.
    pub const fn check_length(&self, encoded_len: usize) -> Result<(), LimitsError> {
        if encoded_len > self.max_command_bytes {
            return Err(LimitsError::Command {
                bytes: encoded_len,
                limit: self.max_command_bytes,
            });
        }
        Ok(())
    }

    /// Checks every key and value of a command.
    ///
    /// # Errors
    /// If one is over its limit.
    pub fn check(&self, command: &Command<'_>) -> Result<(), LimitsError> {
        match &command.operation {
            Operation::Write(mutations) => {
                for mutation in mutations {
                    self.check_key(mutation.key())?;
                    if let Mutation::Put { value, .. } = mutation {
                        self.check_value(value)?;
                    }
                }
            }
            Operation::CompareAndSwap { key, expect, set } => {
                self.check_key(key)?;
                for value in [expect, set].into_iter().flatten() {
                    self.check_value(value)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Request {
        Request {
            shard: ShardId(3),
            epoch: Epoch {
                range: 4,
                membership: 500,
            },
            session: SessionId(u64::MAX),
            sequence: Sequence(6),
        }
    }

    proptest! {
        #[test]
        fn a_write_reads_back(pairs: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
            let mutations = pairs.iter().map(|(key, value)| match value {
                Some(value) => Mutation::Put { key, value },
                None => Mutation::Delete { key },
            });
            let command = Command { request: request(), operation: Operation::Write(mutations.collect()) };
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            prop_assert_eq!(Command::decode(&bytes), Ok(command));
        }

        #[test]
        fn a_swap_reads_back(key: Vec<u8>, expect: Option<Vec<u8>>, set: Option<Vec<u8>>) {
            let operation = Operation::CompareAndSwap {
                key: &key,
                expect: expect.as_deref(),
                set: set.as_deref(),
            };
            let command = Command { request: request(), operation };
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            prop_assert_eq!(Command::decode(&bytes), Ok(command));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Command::decode(&bytes);
        }
    }

    #[test]
    fn limits_name_the_setting_to_change() {
        use alloc::string::ToString;
        let limits = Limits {
            max_key_bytes: 3,
            ..Limits::default()
        };
        let error = limits.check_key(b"four").unwrap_err();
        assert!(error.to_string().contains("max-key-bytes"), "{error}");
        assert_eq!(limits.check_key(b""), Err(LimitsError::EmptyKey));
    }
}
