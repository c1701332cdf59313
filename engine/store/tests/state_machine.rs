//! Another state machine than the key-value store has all that replicas need as well.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

#[path = "../examples/queue.rs"]
mod queue;

#[test]
fn replicas_of_a_queue_answer_alike_over_batches_crashes_and_snapshots() {
    queue::main().unwrap();
}
