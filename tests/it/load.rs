//! Threads that work through a pool while its server dies and comes back.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};

use jackpot::{Error, Eviction, Pool};

use crate::support::{
    Background, Opened, SOON, assert_at_rest, assert_over, background, eventually,
};

/// More than the limits of the pools here, so that some always wait.
const THREADS: usize = 6;
/// How many replies each thread gets in a calm.
const REPLIES: usize = 25;
/// Every so many requests, one is sent and its reply not waited for.
const ABANDONED: u64 = 10;

/// Requests that carry a number, and the only right reply to each; all replies are equally long.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) request: fn(u64) -> String,
    pub(crate) reply: fn(u64) -> String,
}

/// A line that comes back as it is.
pub(crate) const ECHO: Protocol = Protocol {
    request: |id| format!("request {id:08}\n"),
    reply: |id| format!("request {id:08}\n"),
};

/// Threads at work. Every pull must succeed and every reply be right, at any time; a request may
/// fail only in a storm.
pub(crate) struct Load<C> {
    pool: Pool<C>,
    progress: Arc<Progress>,
    threads: Vec<Background<()>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    next: AtomicU64,
    /// Goes up when a storm begins and when it ends: odd means storm.
    weather: AtomicUsize,
    /// Shared by those at work, and taken from them for a rest.
    rest: RwLock<()>,
    replies: [AtomicUsize; THREADS],
    faults: Mutex<Vec<String>>,
}

impl<C: Read + Write + Send + 'static> Load<C> {
    pub(crate) fn start(pool: &Pool<C>, protocol: Protocol) -> Self {
        let progress = Arc::new(Progress::default());
        let threads = (0..THREADS)
            .map(|me| {
                let (pool, progress) = (pool.clone(), Arc::clone(&progress));
                background(move || progress.work(me, &pool, protocol))
            })
            .collect();
        Self {
            pool: pool.clone(),
            progress,
            threads,
        }
    }

    /// Waits until every thread has had replies for a while.
    pub(crate) fn calm(&self) {
        let replies = &self.progress.replies;
        let goals = replies.each_ref().map(|count| count.load(SeqCst) + REPLIES);
        eventually("every thread gets replies", || {
            self.progress.assert_faultless();
            let mut counts = replies.iter().zip(goals);
            counts.all(|(count, goal)| count.load(SeqCst) >= goal)
        });
    }

    /// Requests may fail while this runs.
    pub(crate) fn storm(&self, blow: impl FnOnce()) {
        self.progress.weather.fetch_add(1, SeqCst);
        blow();
        self.progress.weather.fetch_add(1, SeqCst);
    }

    /// Kills the server behind connections that lie idle. Nobody may notice afterwards.
    pub(crate) fn rest(&self, restart: impl FnOnce()) {
        let dead = || {
            let stats = self.pool.stats();
            stats.evicted(Eviction::PeerClosed) + stats.evicted(Eviction::SocketError)
        };
        let before = {
            let _all_rest = self.progress.rest.write().unwrap();
            drop(self.pool.pull().unwrap());
            let before = dead();
            restart();
            before
        };
        eventually("the dead are found", || dead() > before);
    }

    /// Stops the threads, ends the pool, and checks its books and descriptors.
    pub(crate) fn end(mut self, opened: &Opened) {
        self.progress.stop.store(true, SeqCst);
        for thread in std::mem::take(&mut self.threads) {
            thread.join();
        }
        self.progress.assert_faultless();
        let pool = &self.pool;
        eventually("no connect is under way", || pool.stats().connecting == 0);
        let stats = pool.stats();
        assert_at_rest(&stats);
        assert!(stats.open <= stats.limit, "{stats}");
        assert!(stats.evicted(Eviction::Unanswered) > 0, "{stats}");
        pool.end();
        assert!(pool.drain(SOON));
        assert_over(&pool.stats());
        eventually("every socket is closed", || opened.left() == 0);
    }
}

/// Stops the threads when a test fails, too.
impl<C> Drop for Load<C> {
    fn drop(&mut self) {
        self.progress.stop.store(true, SeqCst);
    }
}

impl Progress {
    #[track_caller]
    fn assert_faultless(&self) {
        let faults = self.faults.lock().unwrap().clone();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    fn work<C: Read + Write + Send + 'static>(
        &self,
        me: usize,
        pool: &Pool<C>,
        protocol: Protocol,
    ) {
        while !self.stop.load(SeqCst) {
            let _at_work = self.rest.read().unwrap();
            let weather = self.weather.load(SeqCst);
            let id = self.next.fetch_add(1, SeqCst);
            match converse(pool, protocol, id) {
                Ok(Said::Reply) => {
                    self.replies[me].fetch_add(1, SeqCst);
                }
                Ok(Said::Nothing) => {}
                Ok(Said::Wrong(text)) => self.report(text),
                Err(Failed::Pull(error)) => self.report(format!("no connection: {error:?}")),
                Err(Failed::Request(error)) => {
                    let calm = weather % 2 == 0 && weather == self.weather.load(SeqCst);
                    if calm {
                        self.report(format!("request {id} failed: {error:?}"));
                    }
                }
            }
        }
    }

    fn report(&self, fault: String) {
        self.stop.store(true, SeqCst);
        self.faults.lock().unwrap().push(fault);
    }
}

enum Said {
    Reply,
    /// It was not waited for.
    Nothing,
    /// It belonged to another request.
    Wrong(String),
}

enum Failed {
    Pull(Error),
    Request(io::Error),
}

/// One lease with one request.
fn converse<C: Read + Write + Send + 'static>(
    pool: &Pool<C>,
    protocol: Protocol,
    id: u64,
) -> Result<Said, Failed> {
    let mut connection = pool.pull().map_err(Failed::Pull)?;
    let request = (protocol.request)(id);
    connection
        .write_all(request.as_bytes())
        .map_err(Failed::Request)?;
    if id % ABANDONED == 0 {
        return Ok(Said::Nothing);
    }
    let expected = (protocol.reply)(id);
    let mut reply = vec![0; expected.len()];
    connection.read_exact(&mut reply).map_err(Failed::Request)?;
    if reply == expected.as_bytes() {
        return Ok(Said::Reply);
    }
    let reply = String::from_utf8_lossy(&reply);
    Ok(Said::Wrong(format!("{request:?} was answered {reply:?}")))
}
