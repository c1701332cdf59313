//! Writes the rows of a file to a cluster, as fast as it takes them.
//!
//! Rows are parted by shard. Each shard has a lane with at most one batch on its way; what arrives
//! meanwhile is its next batch. So batches grow where the cluster is slow, a shard that has lost its
//! leader holds up only itself, and rows of one key, which are always in one lane, are written in
//! the order of the file: the last one stays.
//!
//! A batch whose outcome is unknown is written again: it holds only puts, and a put may be done
//! twice. A batch that is refused is written row by row, so that one row that is too large is one
//! error with its line, and its neighbours are written.

mod lane;

use crate::error::Error;
use crate::formats::{BadLine, ReadError, Reader, Row};
use lane::{Lane, Line, Written, write};
use pontoon_client::{Client, ClientError};
use pontoon_shard_router::ClusterMap;
use pontoon_types::ShardId;
use std::collections::HashMap;
use std::io::BufRead;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Rows read ahead, waiting or on their way, bounded by their bytes.
const MAX_BUFFERED_BYTES: usize = 32 << 20;
/// Rows that the reading thread hands over at once.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

/// Where rows come from. Read in a thread of its own, so it may block.
pub trait Source: Send + 'static {
    /// The next row; `None` at the end. After a bad line there may be more.
    fn next_row(&mut self) -> Option<Result<Row, ReadError>>;
    /// The number of the line last read, from 1.
    fn line(&self) -> u64;
    /// How far it has been read, in a unit of its own.
    fn position(&self) -> u64;
}

/// A file; its position is in bytes.
impl<R: BufRead + Send + 'static> Source for Reader<R> {
    fn next_row(&mut self) -> Option<Result<Row, ReadError>> {
        self.next()
    }

    fn line(&self) -> u64 {
        Self::line(self)
    }

    fn position(&self) -> u64 {
        self.bytes_read()
    }
}

/// What may be decided about a load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Go on behind a line that is bad or refused; else stop there.
    pub skip_errors: bool,
    /// How long a batch is tried again while its shard cannot be written.
    pub patience: Duration,
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct Summary {
    /// Rows written.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Lines that were bad or refused.
    pub bad_lines: u64,
    /// Batches that were written again because their outcome was unknown.
    pub repeated: u64,
    /// Why it did not come to the end of the file.
    pub stopped: Option<LoadError>,
}

/// Something that a load meets on its way.
#[derive(Debug)]
pub enum Event {
    /// The source was read up to this position.
    Read(u64),
    /// So many more rows were written.
    Written(u64),
    /// A line was bad or refused, and was passed over.
    Skipped(LineProblem),
}

/// What is wrong with one line.
#[derive(Debug, Error)]
#[error("line {line}: {problem}")]
pub struct LineProblem {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong.
    pub problem: Problem,
}

impl Summary {
    /// Refusals arrive in any order, and behind lines that could not be read: what is named is the first line of
    /// the file.
    fn stop_at(&mut self, problem: LineProblem) {
        match &mut self.stopped {
            Some(LoadError::Line(first)) if problem.line < first.line => *first = problem,
            Some(_) => {}
            running => *running = Some(problem.into()),
        }
    }
}

/// What is wrong with a line.
#[derive(Debug, Error)]
pub enum Problem {
    /// It cannot be read.
    #[error(transparent)]
    Bad(#[from] BadLine),
    /// The cluster refuses the row.
    #[error(transparent)]
    Refused(Box<ClientError>),
}

/// Why a load stopped.
#[derive(Debug, Error)]
pub enum LoadError {
    /// At a bad line.
    #[error(transparent)]
    Line(#[from] LineProblem),
    /// The file could not be read.
    #[error("{0}")]
    Read(std::io::Error),
    /// The cluster could not be written to for longer than is bearable.
    #[error("line {line}: {source}")]
    Cluster {
        /// The first line of the batch.
        line: u64,
        /// The last error.
        source: Box<ClientError>,
    },
}

impl LoadError {
    /// As an error of the command line, about the file at `path`.
    #[must_use]
    pub fn about(self, path: &std::path::Path) -> Error {
        match self {
            Self::Line(LineProblem {
                line,
                problem: Problem::Bad(problem),
            }) => Error::BadLine {
                path: path.to_owned(),
                line,
                problem,
                hint: " (--on-error skip goes on behind bad lines)",
            },
            Self::Line(LineProblem {
                line,
                problem: Problem::Refused(source),
            })
            | Self::Cluster { line, source } => Error::Row {
                path: path.to_owned(),
                line,
                source,
            },
            Self::Read(source) => Error::file("read", path)(source),
        }
    }
}

/// What the reading thread hands over.
enum Chunk {
    Rows { rows: Vec<Line>, position: u64 },
    Bad { line: u64, problem: BadLine },
    Failed(std::io::Error),
}

/// Writes all rows, and tells of everything that happens. When it stops early, all lines before the
/// bad one have been written, and some behind it may have been.
pub async fn load(
    client: &Client,
    source: impl Source,
    options: Options,
    mut tell: impl FnMut(Event),
) -> Summary {
    let (sender, chunks) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || read(source, &sender));
    let mut load = Load {
        client: client.clone(),
        map: None,
        options,
        lanes: HashMap::new(),
        on_their_way: JoinSet::new(),
        buffered_bytes: 0,
        summary: Summary::default(),
    };
    load.run(chunks, &mut tell).await;
    load.summary
}

/// A load on its way.
struct Load {
    client: Client,
    /// The map by which rows are parted; `None` if it was seen to be out of date.
    map: Option<ClusterMap>,
    options: Options,
    lanes: HashMap<ShardId, Lane>,
    on_their_way: JoinSet<(ShardId, Written)>,
    buffered_bytes: usize,
    summary: Summary,
}

impl Load {
    async fn run(&mut self, mut chunks: mpsc::Receiver<Chunk>, tell: &mut impl FnMut(Event)) {
        let mut at_end = false;
        loop {
            let may_read = !at_end
                && self.summary.stopped.is_none()
                && self.buffered_bytes < MAX_BUFFERED_BYTES;
            tokio::select! {
                chunk = chunks.recv(), if may_read => match chunk {
                    Some(chunk) => self.handle_chunk(chunk, tell).await,
                    None => at_end = true,
                },
                Some(written) = self.on_their_way.join_next() => {
                    let (shard, written) = written.expect("writing a batch does not panic");
                    self.handle_written(shard, written, tell);
                }
                else => return,
            }
        }
    }

    async fn handle_chunk(&mut self, chunk: Chunk, tell: &mut impl FnMut(Event)) {
        let (rows, position) = match chunk {
            Chunk::Rows { rows, position } => (rows, position),
            Chunk::Bad { line, problem } => {
                let problem = problem.into();
                return self.handle_problem(LineProblem { line, problem }, tell);
            }
            Chunk::Failed(error) => {
                self.summary.stopped = Some(LoadError::Read(error));
                return;
            }
        };
        tell(Event::Read(position));
        if self.map.is_none() {
            match self.client.map().await {
                Ok(map) => self.map = Some(map),
                Err(source) => {
                    self.summary.stopped = Some(LoadError::Cluster {
                        line: rows.first().map_or(0, |line| line.number),
                        source: Box::new(source),
                    });
                    return;
                }
            }
        }
        for line in rows {
            self.buffered_bytes += line.bytes();
            // Every key has a shard. If this map is out of date, the client will find out.
            let map = self.map.as_ref();
            let shard = map.and_then(|map| map.route(&line.row.key));
            let shard = shard.map_or(ShardId::META, |shard| shard.shard);
            self.lanes.entry(shard).or_default().push(line);
        }
        for (shard, lane) in &mut self.lanes {
            start(
                *shard,
                lane,
                &self.client,
                self.options,
                &mut self.on_their_way,
            );
        }
    }

    fn handle_written(&mut self, shard: ShardId, written: Written, tell: &mut impl FnMut(Event)) {
        self.buffered_bytes -= written.bytes_taken;
        self.summary.rows += written.rows;
        self.summary.bytes += written.bytes;
        self.summary.repeated += written.repeated;
        tell(Event::Written(written.rows));
        if written.spanned {
            self.map = None;
        }
        for problem in written.refused {
            self.handle_problem(problem, tell);
        }
        let lane = self
            .lanes
            .get_mut(&shard)
            .expect("a batch came from its lane");
        lane.is_busy = false;
        if let Some(error) = written.failed {
            self.summary.stopped.get_or_insert(error);
            self.lanes.values_mut().for_each(Lane::clear);
            return;
        }
        start(
            shard,
            lane,
            &self.client,
            self.options,
            &mut self.on_their_way,
        );
    }

    fn handle_problem(&mut self, problem: LineProblem, tell: &mut impl FnMut(Event)) {
        self.summary.bad_lines += 1;
        if self.options.skip_errors {
            tell(Event::Skipped(problem));
        } else {
            self.summary.stop_at(problem);
        }
    }
}

/// Sends the lane's next batch, if it has one and none is on its way.
fn start(
    shard: ShardId,
    lane: &mut Lane,
    client: &Client,
    options: Options,
    on_their_way: &mut JoinSet<(ShardId, Written)>,
) {
    if let Some(batch) = lane.next_batch() {
        let client = client.clone();
        on_their_way.spawn(async move { (shard, write(&client, batch, options).await) });
    }
}

/// Reads the file, in a thread of its own, until its end or until nobody listens.
fn read(mut source: impl Source, chunks: &mpsc::Sender<Chunk>) {
    loop {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut ended_by = None;
        while rows.len() < CHUNK_ROWS && bytes < CHUNK_BYTES && ended_by.is_none() {
            match source.next_row() {
                Some(Ok(row)) => {
                    let number = source.line();
                    let line = Line { number, row };
                    bytes += line.bytes();
                    rows.push(line);
                }
                other => ended_by = Some(other),
            }
        }
        let position = source.position();
        if chunks
            .blocking_send(Chunk::Rows { rows, position })
            .is_err()
        {
            return;
        }
        let chunk = match ended_by {
            None => continue,
            Some(Some(Err(ReadError::BadLine { line, problem }))) => Chunk::Bad { line, problem },
            Some(Some(Err(ReadError::Io(error)))) => Chunk::Failed(error),
            Some(_) => return,
        };
        if chunks.blocking_send(chunk).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Format;

    #[test]
    fn of_several_bad_lines_the_first_of_the_file_is_named() {
        let mut summary = Summary::default();
        for line in [4, 2, 3] {
            let problem = Problem::Refused(Box::new(ClientError::NoEndpoints));
            summary.stop_at(LineProblem { line, problem });
        }
        let named = summary.stopped.unwrap().to_string();
        assert!(named.contains('2'), "{named}");
    }

    #[test]
    fn a_file_is_handed_over_in_chunks_with_its_bad_lines_in_place() {
        let text: Vec<u8> = (0..600)
            .flat_map(|row| match row {
                300 => b"bad\n".to_vec(),
                _ => format!("k{row}\tv\n").into_bytes(),
            })
            .collect();
        let length = text.len() as u64;
        let (sender, mut chunks) = mpsc::channel(16);
        let reader = Reader::new(std::io::Cursor::new(text), Format::Tsv);
        std::thread::spawn(move || read(reader, &sender))
            .join()
            .unwrap();
        let mut lines = Vec::new();
        let mut read_to = 0;
        while let Some(chunk) = chunks.blocking_recv() {
            match chunk {
                Chunk::Rows { rows, position } => {
                    assert!(rows.len() <= CHUNK_ROWS);
                    lines.extend(rows.iter().map(|line| line.number));
                    read_to = position;
                }
                Chunk::Bad { line, .. } => {
                    assert_eq!(line, 301);
                    assert_eq!(lines.last(), Some(&300));
                }
                Chunk::Failed(error) => panic!("{error}"),
            }
        }
        assert_eq!(lines.len(), 599);
        assert_eq!(lines.last(), Some(&600));
        assert_eq!(read_to, length);
    }
}
