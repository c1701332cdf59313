//! What work takes: on the wall, and of this process's time on the cores.

use crate::Failure;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// What a window of work took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Took {
    pub(crate) wall: Duration,
    /// Of all threads of the process, in the kernel too.
    pub(crate) cpu: Duration,
}

/// Does the work and says what it took.
pub(crate) fn timed(work: impl FnOnce() -> Result<(), Failure>) -> Result<Took, Failure> {
    let (began, cpu_before) = (Instant::now(), process_cpu());
    work()?;
    Ok(Took {
        cpu: process_cpu().saturating_sub(cpu_before),
        wall: began.elapsed(),
    })
}

fn process_cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_takes_time_and_working_takes_a_core() {
        let sleep = Duration::from_millis(20);
        let slept = timed(|| {
            std::thread::sleep(sleep);
            Ok(())
        });
        assert!(slept.unwrap().wall >= sleep);
        let worked = timed(|| {
            (0..10_000_000u64).for_each(|number| {
                std::hint::black_box(number);
            });
            Ok(())
        });
        assert!(worked.unwrap().cpu > Duration::from_micros(100));
    }
}
