//! What one turn took: time, and the processor time of this process.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// One turn of one way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Took {
    pub(super) elapsed: Duration,
    /// Of all threads of this process; a broker is another one.
    pub(super) cpu: Duration,
    pub(super) records: u64,
    /// Of the values.
    pub(super) bytes: u64,
    /// Reported as acknowledged, without the offset that would prove it.
    pub(super) without_offset: u64,
    /// Calls that failed and were made again.
    pub(super) repeated: u64,
}

impl Took {
    pub(super) fn records_per_second(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64()
    }

    pub(super) fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64() / 1e6
    }

    pub(super) fn cpu_us_per_record(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.records.max(1) as f64
    }
}

#[derive(Debug)]
pub(super) struct Stopwatch {
    begun: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { begun: Instant::now(), cpu: cpu() }
    }

    pub(super) fn stop(&self, records: u64, bytes: u64) -> Took {
        // Never zero: it is divided by.
        let elapsed = self.begun.elapsed().max(Duration::from_nanos(1));
        Took { elapsed, cpu: cpu().saturating_sub(self.cpu), records, bytes, ..Took::default() }
    }
}

fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}
