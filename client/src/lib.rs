//! The client of a Pontoon cluster: routes, retries, and tells the truth about what was done.
//!
//! ```no_run
//! # async fn example(identity: pontoon_transport::TlsIdentity) -> Result<(), pontoon_client::ClientError> {
//! use pontoon_client::{Client, ClientConfig};
//!
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:7701"], identity)).await?;
//! client.put(b"colour", b"green").await?;
//! assert_eq!(client.get(b"colour").await?.as_deref(), Some(&b"green"[..]));
//!
//! let mut scan = client.scan_pages(b"a", None);
//! while let Some((key, value)) = scan.next().await? {
//!     println!("{} bytes under {key:?}", value.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Success means a quorum.** A write is reported as done only when a leader said that it was committed
//!   and applied; a read sees every write that was acknowledged before it began.
//! - **An error says whether it happened.** [`ClientError::UnknownOutcome`] is the one error after which a
//!   write may have been done. After every other it was surely not, and the caller may repeat it.
//! - **It repeats by itself only what is safe**: what was refused before it was proposed, and reads.
//!   Never a write that may have been proposed.
//! - **It ends.** Every request has a deadline, which bounds all tries and pauses together.
//!
//! # How it is built
//!
//! [`routing`] decides and is pure: the cached map, the leaders, what an answer means. The shell around it
//! does what it says, over one [`Channel`](pontoon_transport::Channel) per node. The map comes from the
//! meta group's rows, like any other data; a client that knows any one node finds the meta group by that
//! node's [hints](protocol::Hints). [`protocol`] is the language that nodes share with it.

mod client;
mod clock;
mod config;
mod direct;
mod discover;
mod error;
mod link;
pub mod protocol;
mod request;
pub mod routing;
mod scan;
mod shell;

pub use client::{CasOutcome, Client};
pub use config::ClientConfig;
pub use error::{ClientError, EndpointError, EndpointFailure, UnknownCause};
pub use pontoon_types::Mutation;
pub use routing::Setback;
pub use scan::{Row, Scan};
