//! Waiting until so many connections are open.

use std::sync::Arc;
use std::time::Duration;

use crate::report::error::Error;
use crate::runtime::parker::Parker;
use crate::runtime::reaper;
use crate::runtime::shared::Shared;
use crate::state::core::Readiness;
use crate::sync::now;

/// Has connections made until `count` are open, and waits for that.
pub(crate) fn wait_ready<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    count: usize,
    timeout: Duration,
) -> Result<(), Error> {
    let started = now();
    let deadline = started.checked_add(timeout);
    reaper::evict_dead(shared);
    let parker = Arc::<Parker>::default();
    let number = shared.with(|core| core.begin_ready(count, Arc::clone(&parker)));
    loop {
        let (readiness, cause) = shared.with(|core| {
            let readiness = core.poll_ready(number);
            let is_late = deadline.is_some_and(|deadline| deadline <= core.now());
            let goes_on = matches!(readiness, Readiness::Waits(_)) && !is_late;
            if !goes_on {
                core.end_ready(number);
            }
            (readiness, is_late.then(|| core.cause()))
        });
        match (readiness, cause) {
            (Readiness::Ready, _) => return Ok(()),
            (Readiness::Ended, _) => return Err(Error::Ended),
            (Readiness::Permanent(error), _) => return Err(error.another()),
            (Readiness::AboveLimit(limit), _) => {
                return Err(Error::InvalidConfig(format!(
                    "wait_ready must not wait for more than the limit, but {count} is above {limit}"
                )));
            }
            (Readiness::Waits(_), Some(cause)) => {
                return Err(shared.timed_out(started, cause.as_ref()));
            }
            (Readiness::Waits(poll_at), None) => {
                parker.park_until(poll_at.into_iter().chain(deadline).min());
            }
        }
    }
}
