//! Code that is not ours, run so that its panic ends here: functions, destructors, errors and the
//! logger of the user's.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Logs. What a logger that panics had to say is lost, and nothing else.
macro_rules! log {
    ($level:ident, $($text:tt)+) => {{
        let logs = || log::log!(target: "jackpot", log::Level::$level, $($text)+);
        let _ = $crate::sync::user_code::guarded(logs);
    }};
}
pub(crate) use log;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Hook<C> = Box<dyn Fn(&mut C) -> Result<(), BoxError> + Send + Sync>;

/// Runs a hook on a client; the text of its error, or the message of its panic.
///
/// The error stays inside: its text and its destructor are the user's as well.
pub(crate) fn guarded_call<C>(hook: &Hook<C>, client: &mut C) -> Result<(), String> {
    guarded(|| hook(client).map_err(|error| error.to_string()))
        .unwrap_or_else(|text| Err(format!("panicked: {text}")))
}

/// Runs a function of the user's; the message of its panic, if it does.
pub(crate) fn guarded<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let text = message(&*payload);
        // What was thrown may be anything, and its destructor may throw in its turn.
        if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(thrown);
        }
        text
    })
}

/// Drops what belongs to the user; its destructor's panic ends here.
pub(crate) fn destroy<T>(value: T) {
    if let Err(text) = guarded(|| drop(value)) {
        log!(Error, "a destructor panicked: {text}");
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let literal = payload.downcast_ref::<&str>().copied();
    let text = literal.or_else(|| payload.downcast_ref().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[test]
    fn a_hook_succeeds_fails_or_panics_with_what_it_said() {
        let hooks: [(Hook<u32>, Result<(), &str>); 5] = [
            (
                Box::new(|client| {
                    *client += 1;
                    Ok(())
                }),
                Ok(()),
            ),
            (Box::new(|_| Err("no answer".into())), Err("no answer")),
            (
                Box::new(|_| panic!("as a text")),
                Err("panicked: as a text"),
            ),
            (
                Box::new(|client| panic!("with {client}")),
                Err("panicked: with 2"),
            ),
            (Box::new(|_| panic_any(7)), Err("panicked: no message")),
        ];
        let mut client = 1;
        for (hook, said) in hooks {
            let result = guarded_call(&hook, &mut client);
            assert_eq!(result, said.map_err(str::to_owned));
        }
        assert_eq!(client, 2);
    }

    /// Counts its drops, and throws another one each time.
    struct Bomb<'a>(&'a AtomicUsize);

    impl Drop for Bomb<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
            panic_any(Bomb(Box::leak(Box::default())));
        }
    }

    #[test]
    fn a_destructor_runs_and_its_panic_ends_here_whatever_it_throws() {
        let drops = AtomicUsize::new(0);
        destroy(Bomb(&drops));
        assert_eq!(drops.load(Relaxed), 1);
    }
}
