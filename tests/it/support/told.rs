//! What a pool tells: its events and its log records.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, Once};
use std::thread;

use jackpot::Event;

/// What an event function saw, in order, in a few words each.
#[derive(Clone, Default)]
pub(crate) struct Events {
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Events {
    /// Remembers an event and the thread that tells it.
    pub(crate) fn note(&self, event: &Event) {
        let thread = thread::current().name().unwrap_or("?").to_owned();
        self.seen.lock().unwrap().push((in_words(event), thread));
    }

    /// An event function that only remembers.
    pub(crate) fn listener(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let events = self.clone();
        move |event| events.note(event)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(event, _)| event.clone()).collect()
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.all().iter().filter(|seen| *seen == event).count()
    }

    /// The name of the thread that told this event first.
    pub(crate) fn teller(&self, event: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let found = seen.iter().find(|(what, _)| what == event);
        found.map(|(_, thread)| thread.clone())
    }
}

/// The event without its durations.
pub(crate) fn in_words(event: &Event) -> String {
    match event {
        Event::Connected { id, .. } => format!("{id} connected"),
        Event::ConnectFailed { error, .. } => format!("{error}"),
        Event::Evicted { id, why, .. } => format!("{id} evicted: {why}"),
        Event::Overdue { id, thread, .. } => {
            format!("{id} overdue by {}", thread.as_deref().unwrap_or("?"))
        }
        Event::Freed(freed) => {
            let (kept, closed, doomed) = (freed.kept, freed.closed, freed.doomed);
            format!("freed {kept}, {closed}, {doomed}")
        }
        Event::Ended => "ended".to_owned(),
        other => format!("{other:?}"),
    }
}

type Ear = Arc<dyn Fn(&log::Record<'_>) + Send + Sync>;

thread_local! {
    static EAR: RefCell<Option<Ear>> = const { RefCell::new(None) };
}

/// From now on this thread's log records go to `ear`.
///
/// A pool's own threads run functions of the test's, which can call this there.
pub(crate) fn overhear(ear: impl Fn(&log::Record<'_>) + Send + Sync + 'static) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    EAR.set(Some(Arc::new(ear)));
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let ear = EAR.try_with(|ear| ear.borrow().clone());
        if let Ok(Some(ear)) = ear {
            ear(record);
        }
    }

    fn flush(&self) {}
}
