//! The rows of one shard: those that wait, and the batch on its way.

use super::{LineProblem, LoadError, Options, Problem};
use crate::formats::Row;
use pontoon_client::{Client, ClientError};
use pontoon_types::Mutation;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most rows of a batch.
const MAX_BATCH_ROWS: usize = 256;
/// The most bytes of a batch, unless its first row alone has more.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// A row and the line it stands in.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) row: Row,
}

impl Line {
    pub(super) fn bytes(&self) -> usize {
        self.row.key.len() + self.row.value.len()
    }
}

/// The rows of one shard, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: VecDeque<Line>,
    /// Whether a batch is on its way.
    pub(super) is_busy: bool,
}

impl Lane {
    pub(super) fn push(&mut self, line: Line) {
        self.waiting.push_back(line);
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Takes the next batch, unless one is on its way or nothing waits.
    pub(super) fn next_batch(&mut self) -> Option<Vec<Line>> {
        if self.is_busy || self.waiting.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = self.waiting.iter().take(MAX_BATCH_ROWS).take_while(|line| {
            bytes += line.bytes();
            bytes <= MAX_BATCH_BYTES
        });
        let rows = fits.count().max(1);
        self.is_busy = true;
        Some(self.waiting.drain(..rows).collect())
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Rows that were written, and their bytes.
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Bytes of all rows, written or not.
    pub(super) bytes_taken: usize,
    pub(super) repeated: u64,
    /// The rows were of two shards: a split came in between.
    pub(super) spanned: bool,
    pub(super) refused: Vec<LineProblem>,
    pub(super) failed: Option<LoadError>,
}

/// Writes a batch, again and again while there is hope.
pub(super) async fn write(client: &Client, batch: Vec<Line>, options: Options) -> Written {
    let mut written = Written {
        bytes_taken: batch.iter().map(Line::bytes).sum(),
        ..Written::default()
    };
    match write_together(client, &batch, options, &mut written).await {
        Ok(()) => {}
        Err(error) if error.is_transient() => {
            written.failed = Some(LoadError::Cluster {
                line: batch[0].number,
                source: Box::new(error),
            });
        }
        // Refused as a whole, or the shard was split meanwhile: which row is it?
        Err(error) if batch.len() > 1 => {
            written.spanned = matches!(error, ClientError::BatchSpansShards { .. });
            for line in batch.chunks(1) {
                match write_together(client, line, options, &mut written).await {
                    Ok(()) => {}
                    Err(error) if error.is_transient() => {
                        written.failed = Some(LoadError::Cluster {
                            line: line[0].number,
                            source: Box::new(error),
                        });
                        break;
                    }
                    Err(error) => written.refused.push(refusal(&line[0], error)),
                }
            }
        }
        Err(error) => written.refused.push(refusal(&batch[0], error)),
    }
    written
}

fn refusal(line: &Line, error: ClientError) -> LineProblem {
    LineProblem {
        line: line.number,
        problem: Problem::Refused(Box::new(error)),
    }
}

/// Writes lines as one batch. What is only unavailable, or of unknown outcome, is tried again: these
/// are puts, and doing one twice is doing it once.
async fn write_together(
    client: &Client,
    lines: &[Line],
    options: Options,
    written: &mut Written,
) -> Result<(), ClientError> {
    let mutations: Vec<Mutation<'_>> = lines
        .iter()
        .map(|line| Mutation::Put {
            key: &line.row.key,
            value: &line.row.value,
        })
        .collect();
    let began = Instant::now();
    loop {
        match client.write_batch(&mutations).await {
            Ok(()) => {
                written.rows += lines.len() as u64;
                written.bytes += lines.iter().map(Line::bytes).sum::<usize>() as u64;
                return Ok(());
            }
            Err(error) if error.is_transient() && began.elapsed() < options.patience => {
                written.repeated += u64::from(error.is_unknown_outcome());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn line(number: u64, bytes: usize) -> Line {
        Line {
            number,
            row: Row {
                key: Bytes::from_static(b"k"),
                value: Bytes::from(vec![0; bytes - 1]),
            },
        }
    }

    fn numbers(batch: Option<Vec<Line>>) -> Vec<u64> {
        let batch = batch.unwrap_or_default();
        batch.iter().map(|line| line.number).collect()
    }

    #[test]
    fn a_lane_has_one_batch_on_its_way_and_keeps_the_order() {
        let mut lane = Lane::default();
        assert!(lane.next_batch().is_none());
        lane.push(line(1, 10));
        assert_eq!(numbers(lane.next_batch()), [1]);
        lane.push(line(2, 10));
        lane.push(line(3, 10));
        assert!(lane.next_batch().is_none());
        lane.is_busy = false;
        assert_eq!(numbers(lane.next_batch()), [2, 3]);
    }

    #[test]
    fn a_batch_is_bounded_but_never_empty() {
        let mut lane = Lane::default();
        lane.push(line(1, 2 * MAX_BATCH_BYTES));
        lane.push(line(2, MAX_BATCH_BYTES));
        lane.push(line(3, 1));
        for expected in [vec![1], vec![2], vec![3]] {
            assert_eq!(numbers(lane.next_batch()), expected);
            lane.is_busy = false;
        }
        for number in 0..2 * MAX_BATCH_ROWS as u64 {
            lane.push(line(number, 1));
        }
        assert_eq!(lane.next_batch().unwrap().len(), MAX_BATCH_ROWS);
    }
}
