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
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
