//! What all handles of a pipeline share: the only file that locks the lanes.
//!
//! `state/lanes.rs` decides. The lock is never held across a system call, a wake-up or a function of
//! the user's.

use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::pipeline::lane::{Line, Machine, Message, Seat};
use crate::pool::Pool;
use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;
use crate::runtime::shared::Listener;
use crate::state::lanes::{Lanes, News, Rules};
use crate::sync::atomic::AtomicUsize;
use crate::sync::{Mutex, now};

pub(super) type ReadReply<R> = Box<dyn Fn(&mut dyn BufRead) -> io::Result<R> + Send + Sync>;

/// What all handles of a pipeline share.
pub(super) struct Core<R, C> {
    pub(crate) pool: Pool<C>,
    pub(super) read_reply: ReadReply<R>,
    pub(super) repeatable: bool,
    lanes: Mutex<Machine<R>>,
    /// The connection of each lane.
    pub(super) lines: Vec<Line<R, C>>,
    /// How many of this pipeline's callers are getting a connection.
    pub(super) pulling: AtomicUsize,
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Core<R, C> {
    pub(crate) fn new(
        pool: Pool<C>,
        read_reply: ReadReply<R>,
        repeatable: bool,
        rules: Rules,
    ) -> Self {
        Self {
            pool,
            read_reply,
            repeatable,
            lanes: Mutex::new(Lanes::new(rules, now())),
            lines: (0..rules.lanes).map(|_| Line::new()).collect(),
            pulling: AtomicUsize::new(0),
        }
    }

    pub(crate) fn stats(&self) -> PipelineStats {
        let drifting: Vec<_> = self.with(|lanes| lanes.drifting().collect());
        for lane in drifting {
            self.lines[lane].if_closed(|| self.with(|lanes| lanes.closed(lane)));
        }
        self.with(|lanes| lanes.stats())
    }

    /// Locks, moves the clock, decides, unlocks, and tells who is to be told.
    pub(super) fn with<T>(&self, decide: impl FnOnce(&mut Machine<R>) -> T) -> T {
        self.with_at(now(), decide)
    }

    /// The same, by a caller that has just asked for the time.
    pub(super) fn with_at<T>(&self, time: Instant, decide: impl FnOnce(&mut Machine<R>) -> T) -> T {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.advance(time);
        let decided = decide(&mut lanes);
        let news = lanes.take_news();
        drop(lanes);
        if !news.is_empty() {
            tell_all(news);
        }
        decided
    }
}

/// Apart, because nearly always there is no news.
#[cold]
fn tell_all<R>(news: Vec<(Arc<Seat<R>>, News)>) {
    for (seat, news) in news {
        seat.tell(Message::News(news));
    }
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Listener for Core<R, C> {
    fn pool_ended(&self) {
        let error = Arc::new(Error::Ended);
        self.with(|lanes| lanes.end(error));
    }
}
