//! Requests that may be repeated: again, on another connection, where one broke unanswered.

use std::sync::Arc;
use std::time::Instant;

use crate::net::options::Owner;
use crate::report::error::Error;
use crate::runtime::checkout::{Effort, pull_within};
use crate::runtime::connection::Connection;
use crate::runtime::shared::Shared;
use crate::state::slots::CallSite;
use crate::sync::now;

/// Runs a request, and runs it again while its connections break before a byte of a reply came.
pub(crate) fn retry<C: Send + 'static, T, E: From<Error>>(
    shared: &Arc<Shared<C>>,
    deadline: Option<Instant>,
    at: CallSite,
    mut request: impl FnMut(&mut Connection<C>) -> Result<T, E>,
) -> Result<T, E> {
    let mut delays = None;
    let mut may_go_on_at_once = true;
    let mut last: Option<E> = None;
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(now()));
        let pulled = pull_within(shared, Effort::Retries(left), at, &mut delays);
        let mut connection = match (pulled, last) {
            (Ok(connection), _) => connection,
            (Err(error), Some(last)) if error.is_timeout() => return Err(last),
            (Err(error), _) => return Err(error.into()),
        };
        let socket = Connection::stream(&connection).socket();
        if deadline.is_some() {
            let set = socket.set_deadline(Owner::Pool, deadline);
            set.map_err(Error::Connect)?;
        }
        let error = match request(&mut connection) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if !Connection::stream(&connection).socket().broke_unanswered() {
            return Err(error);
        }
        let is_reused = Connection::is_reused(&connection);
        drop(connection);
        // A server closes idle connections as a matter of course, and nothing is wrong with it. But
        // one that hangs up on new ones is given time.
        if !(is_reused && std::mem::take(&mut may_go_on_at_once)) {
            let delays = delays.get_or_insert_with(|| shared.read(|core| core.backoff().delays()));
            let Some(delay) = delays.next() else {
                return Err(error);
            };
            let until = now().checked_add(delay);
            if until.is_none_or(|until| deadline.is_some_and(|deadline| deadline <= until)) {
                return Err(error);
            }
            if !shared.sleep_until(until) {
                return Err(Error::Ended.into());
            }
        }
        last = Some(error);
    }
}
