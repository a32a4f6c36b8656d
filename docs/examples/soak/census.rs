//! What this process holds: descriptors, threads, bytes.

use std::alloc::System;
use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use cap::Cap;

/// The system's allocator, with a count of the bytes that are out.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// How much more heap may be in use than before: what is allocated once, on its first use, and a
/// vector of the server's that has grown. A leak of one byte in a hundred requests is far more.
pub(crate) const TOLERANCE: usize = 16 * 1024;

/// How long threads that are about to end may take to.
const SOON: Duration = Duration::from_secs(20);

/// A count of everything; what the system does not tell is `None`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Census {
    descriptors: Option<usize>,
    threads: Option<usize>,
    heap: usize,
    resident_kib: Option<usize>,
}

impl Census {
    pub(crate) fn now() -> Self {
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            heap: HEAP.allocated(),
            resident_kib: resident_kib(),
        }
    }

    /// A count once there is no more than `before` and so much beside it, or when waiting for
    /// that is in vain.
    pub(crate) fn settled(before: &Self, descriptors: usize, threads: usize) -> Self {
        let deadline = Instant::now() + SOON;
        loop {
            let now = Self::now();
            let is_over = Instant::now() > deadline;
            if is_over || now.more_than(before, descriptors, threads).is_none() {
                return now;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What there is more of than `before` and so much beside it, in words.
    pub(crate) fn more_than(
        &self,
        before: &Self,
        descriptors: usize,
        threads: usize,
    ) -> Option<String> {
        let more = |now: Option<usize>, before: Option<usize>, beside: usize| {
            let more = now?.checked_sub(before? + beside)?;
            (more > 0).then_some(more)
        };
        let mut found = Vec::new();
        if let Some(more) = more(self.descriptors, before.descriptors, descriptors) {
            found.push(format!("{more} descriptors"));
        }
        if let Some(more) = more(self.threads, before.threads, threads) {
            found.push(format!("{more} threads"));
        }
        (!found.is_empty()).then(|| found.join(", "))
    }

    /// How many more bytes of the heap are in use than before and so many beside, if too many.
    pub(crate) fn growth(&self, before: &Self, beside: usize) -> Option<String> {
        let more = self.heap.saturating_sub(before.heap);
        (more > TOLERANCE + beside).then(|| format!("{more} bytes"))
    }
}

fn entries(folder: &str) -> Option<usize> {
    Some(fs::read_dir(folder).ok()?.count())
}

fn resident_kib() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |count: Option<usize>| count.map_or("?".to_owned(), |n| n.to_string());
        write!(
            f,
            "{} descriptors, {} threads, {} bytes of heap, {} KiB resident",
            shown(self.descriptors),
            shown(self.threads),
            self.heap,
            shown(self.resident_kib)
        )
    }
}
