//! A node's status for all who ask at the same time.
//!
//! Every worker lists its groups for a status, and nothing else meanwhile. So one is made at a time, and who asked
//! before it was begun shares it: however many ask, the workers are kept from their groups no more often than by one.

use bytes::Bytes;
use std::time::Instant;
use tokio::sync::Mutex;

/// The last status that was made.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    last: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    begun: Instant,
    status: Bytes,
}

impl Statuses {
    /// A status that was begun after this was called, by `make`, which may block. `None` if that panics.
    pub(super) async fn get(&self, make: impl FnOnce() -> Bytes + Send + 'static) -> Option<Bytes> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(made) = &*last
            && made.begun >= asked
        {
            return Some(made.status.clone());
        }
        let begun = Instant::now();
        let status = tokio::task::spawn_blocking(make).await.ok()?;
        *last = Some(Made {
            begun,
            status: status.clone(),
        });
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn one_is_made_at_a_time_and_shared_by_all_who_asked_before() {
        let statuses = Arc::new(Statuses::default());
        let (at_work, most, made) =
            <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(parking_lot::Mutex::new(gate));
        let mut asked = JoinSet::new();
        for _ in 0..200 {
            let statuses = statuses.clone();
            let (at_work, most, made) = (at_work.clone(), most.clone(), made.clone());
            let gate = gate.clone();
            let make = move || {
                most.fetch_max(1 + at_work.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                // Until all have asked.
                let _ = gate.lock().recv();
                at_work.fetch_sub(1, Ordering::SeqCst);
                Bytes::from(vec![made.fetch_add(1, Ordering::SeqCst) as u8])
            };
            asked.spawn(async move { statuses.get(make).await });
        }
        tokio::task::yield_now().await;
        drop(go);
        let answers = asked.join_all().await;
        let of = |number| {
            answers
                .iter()
                .flatten()
                .filter(move |one| one[..] == [number])
        };
        // The first asked alone; when its status was done, all others had asked.
        assert_eq!((of(0).count(), of(1).count()), (1, 199));
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn nobody_is_given_one_from_before_he_asked() {
        let statuses = Statuses::default();
        for round in 0..3 {
            let status = statuses.get(move || Bytes::from(vec![round])).await;
            assert_eq!(status.as_deref(), Some(&[round][..]));
        }
    }
}
