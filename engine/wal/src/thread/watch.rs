//! How long the log's threads have been waiting for the disk.
//!
//! A disk that hangs says nothing: the call does not return. So another thread looks at when it began.

use super::DurabilityListener;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What a thread of the log may wait for.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    Write,
    Sync,
    Preparation,
}

impl Wait {
    const ALL: [Self; 3] = [Self::Write, Self::Sync, Self::Preparation];

    const fn name(self) -> &'static str {
        match self {
            Self::Write => "a write",
            Self::Sync => "a sync",
            Self::Preparation => "the making of a segment",
        }
    }
}

/// When each wait began, and how many were long.
pub(super) struct Watch {
    base: Instant,
    after: Duration,
    /// In microseconds since `base`, plus one; 0: nobody waits.
    began: [AtomicU64; Wait::ALL.len()],
    hangs: AtomicU64,
}

impl Watch {
    pub(super) fn new(after: Duration) -> Self {
        Self {
            base: Instant::now(),
            after,
            began: Default::default(),
            hangs: AtomicU64::new(0),
        }
    }

    /// Does what may hang.
    pub(super) fn over<T>(&self, wait: Wait, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let since_base = began.duration_since(self.base).as_micros() as u64;
        self.began[wait as usize].store(since_base + 1, Relaxed);
        let done = work();
        self.began[wait as usize].store(0, Relaxed);
        let took = began.elapsed();
        if took >= self.after {
            self.hangs.fetch_add(1, Relaxed);
            tracing::warn!(?took, "{} has returned after all", wait.name());
        }
        done
    }

    /// How many were too long; one that still is counts.
    pub(super) fn hangs(&self) -> u64 {
        self.hangs.load(Relaxed) + u64::from(self.hanging().is_some())
    }

    /// For how long something has not returned, if that is too long.
    pub(super) fn hanging(&self) -> Option<Duration> {
        let waits = Wait::ALL.into_iter();
        waits.filter_map(|wait| self.hanging_at(wait)).max()
    }

    fn hanging_at(&self, wait: Wait) -> Option<Duration> {
        let began = self.began[wait as usize].load(Relaxed).checked_sub(1)?;
        let waited = self
            .base
            .elapsed()
            .checked_sub(Duration::from_micros(began))?;
        (waited >= self.after).then_some(waited)
    }

    /// Looks again and again, and reports each hang once, until the other end of `stop` is gone.
    pub(super) fn run(&self, listener: &Arc<dyn DurabilityListener>, stop: &Receiver<()>) {
        let mut reported = [false; Wait::ALL.len()];
        let pause = (self.after / 4).max(Duration::from_millis(1));
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(pause) {
            for wait in Wait::ALL {
                let hanging = self.hanging_at(wait);
                if let Some(waited) = hanging
                    && !reported[wait as usize]
                {
                    tracing::error!(?waited, "{} does not return", wait.name());
                    listener.hung(wait.name(), waited);
                }
                reported[wait as usize] = hanging.is_some();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WalError;
    use crate::thread::Ticket;
    use crossbeam_channel::{Sender, bounded, unbounded};

    struct Ear(Sender<&'static str>);

    impl DurabilityListener for Ear {
        fn durable(&self, _: &[Ticket]) {}

        fn failed(&self, _: &WalError) {}

        fn hung(&self, what: &'static str, _: Duration) {
            self.0.send(what).unwrap();
        }
    }

    #[test]
    fn what_hangs_is_reported_once_and_seen_until_it_returns() {
        let (told, heard) = unbounded();
        let listener: Arc<dyn DurabilityListener> = Arc::new(Ear(told));
        let watch = Watch::new(Duration::from_millis(4));
        let (stop, stopped) = bounded(0);
        let (release, hanging) = bounded::<()>(0);
        std::thread::scope(|scope| {
            scope.spawn(|| watch.run(&listener, &stopped));
            let waiting = scope.spawn(|| watch.over(Wait::Preparation, || hanging.recv()));
            assert_eq!(heard.recv(), Ok("the making of a segment"));
            assert!(watch.hanging().is_some() && watch.hangs() == 1);
            // Many looks later it has not been said again.
            assert!(heard.recv_timeout(Duration::from_millis(40)).is_err());
            release.send(()).unwrap();
            waiting.join().unwrap().unwrap();
            assert!(watch.hanging().is_none() && watch.hangs() == 1);
            drop(stop);
        });
    }
}
