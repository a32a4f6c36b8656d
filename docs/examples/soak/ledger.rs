//! Which shared calls the server has seen, and which were said not to have been sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::tally::Tally;

/// Of so many calls the last ones are remembered: longer than any of them is under way.
const REMEMBERED: u64 = 1 << 18;

/// In an entry, below the number of its call.
const UNSENT: u64 = 1;
const BEGUN: u64 = 2;
const SEEN: u64 = 4;
const SEEN_MOST: u64 = 3 * SEEN;
const NUMBER_AT: u32 = 4;

/// What a request may do that was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Once,
    Twice,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Twice => "many",
        }
    }

    fn most(self) -> u64 {
        match self {
            Self::Once => 1,
            Self::Twice => 2,
        }
    }
}

/// The fate of each call, as both sides tell it; whichever comes second sees what cannot be.
pub(crate) struct Ledger {
    next: AtomicU64,
    entries: Box<[AtomicU64]>,
    tally: Arc<Tally>,
}

impl Ledger {
    pub(crate) fn new(tally: &Arc<Tally>) -> Self {
        Self {
            next: AtomicU64::new(1),
            entries: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            tally: Arc::clone(tally),
        }
    }

    /// Writes a request of its own number and so many bytes, or a few more.
    pub(crate) fn begin(&self, kind: Kind, len: usize, request: &mut Vec<u8>) -> u64 {
        let number = self.next.fetch_add(1, SeqCst);
        self.entry(number).store(number << NUMBER_AT, SeqCst);
        request.clear();
        request.extend_from_slice(kind.word().as_bytes());
        request.extend_from_slice(format!(" {number:012} ").as_bytes());
        request.resize(request.len().max(len), b'.');
        request.push(b'\n');
        number
    }

    /// The server has seen this request, or the beginning of it.
    pub(crate) fn saw(&self, line: &[u8]) {
        let is_of = |kind: &Kind| line.starts_with(kind.word().as_bytes());
        let Some(kind) = [Kind::Once, Kind::Twice].into_iter().find(is_of) else {
            return;
        };
        let number = line
            .get(5..17)
            .and_then(|text| std::str::from_utf8(text).ok());
        let Some(number) = number.and_then(|text| text.parse().ok()) else {
            return;
        };
        let is_whole = line.ends_with(b"\n");
        let add = |entry: u64| {
            let counts = is_whole && entry & SEEN_MOST < SEEN_MOST;
            (entry | BEGUN) + if counts { SEEN } else { 0 }
        };
        let Some(entry) = self.change(number, add) else {
            return;
        };
        if (entry & SEEN_MOST) / SEEN > kind.most() {
            let text = format!("call {number} ({}) was executed too often", kind.word());
            self.tally.find(text);
        }
        self.check(number, entry);
    }

    /// The caller has heard that it was not sent.
    pub(crate) fn unsent(&self, number: u64) {
        if let Some(entry) = self.change(number, |entry| entry | UNSENT) {
            self.check(number, entry);
        }
    }

    fn check(&self, number: u64, entry: u64) {
        if entry & UNSENT > 0 && entry & BEGUN > 0 {
            let text = format!("call {number} was called unsent, and the server saw it");
            self.tally.find(text);
        }
    }

    fn entry(&self, number: u64) -> &AtomicU64 {
        let at = usize::try_from(number % REMEMBERED).unwrap_or(0);
        &self.entries[at]
    }

    /// The new entry of a call, if it is still remembered.
    fn change(&self, number: u64, change: impl Fn(u64) -> u64) -> Option<u64> {
        let is_of_it = |entry: u64| entry >> NUMBER_AT == number;
        let entry = self.entry(number);
        let old = entry.fetch_update(SeqCst, SeqCst, |entry| {
            is_of_it(entry).then(|| change(entry))
        });
        old.ok().map(change)
    }
}
