//! Shared calls: many callers on few connections.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::stream::Stream;
use crate::pool::Pool;
use crate::report::call_error::CallError;
use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;
use crate::runtime::lane::{Core, ReadReply};
use crate::state::lanes::Rules;
use crate::sync::now;

/// Many callers on few connections; replies come in the order of the requests.
pub struct Pipeline<R, C = Stream> {
    core: Arc<Core<R, C>>,
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Pipeline<R, C> {
    /// A pipeline with the default settings.
    pub fn new(
        pool: Pool<C>,
        read_reply: impl Fn(&mut dyn BufRead) -> io::Result<R> + Send + Sync + 'static,
    ) -> Self {
        Self::builder(pool, read_reply).finish()
    }

    /// The settings of a pipeline.
    pub fn builder(
        pool: Pool<C>,
        read_reply: impl Fn(&mut dyn BufRead) -> io::Result<R> + Send + Sync + 'static,
    ) -> PipelineBuilder<R, C> {
        PipelineBuilder {
            pool,
            read_reply: Box::new(read_reply),
            lanes: None,
            max_in_flight: 32,
            max_bytes: 16 * 1024,
            repeatable: false,
        }
    }

    /// Sends a request and waits for its reply.
    pub fn call(&self, request: &[u8]) -> Result<R, CallError> {
        self.core.call(request, now(), None)
    }

    /// `call` with a hard upper bound on the whole call.
    pub fn call_timeout(&self, request: &[u8], timeout: Duration) -> Result<R, CallError> {
        let now = now();
        self.core.call(request, now, now.checked_add(timeout))
    }

    /// `call`, by this time at the latest.
    pub fn call_until(&self, request: &[u8], deadline: Instant) -> Result<R, CallError> {
        self.core.call(request, now(), Some(deadline))
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Pool<C> {
        &self.core.pool
    }

    /// The numbers.
    #[must_use]
    pub fn stats(&self) -> PipelineStats {
        self.core.stats()
    }
}

/// The settings.
#[must_use]
pub struct PipelineBuilder<R, C = Stream> {
    pool: Pool<C>,
    read_reply: ReadReply<R>,
    lanes: Option<usize>,
    max_in_flight: usize,
    max_bytes: usize,
    repeatable: bool,
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> PipelineBuilder<R, C> {
    /// lanes
    pub fn lanes(self, connections: usize) -> Self {
        Self {
            lanes: Some(connections),
            ..self
        }
    }

    /// max
    pub fn max_in_flight(self, requests: usize) -> Self {
        Self {
            max_in_flight: requests,
            ..self
        }
    }

    /// bytes
    pub fn max_bytes(self, bytes: usize) -> Self {
        Self {
            max_bytes: bytes,
            ..self
        }
    }

    /// rep
    pub fn repeatable(self, yes: bool) -> Self {
        Self {
            repeatable: yes,
            ..self
        }
    }

    /// build
    pub fn build(self) -> Result<Pipeline<R, C>, Error> {
        let settings = [
            ("lanes", self.lanes.unwrap_or(1)),
            ("max_in_flight", self.max_in_flight),
            ("max_bytes", self.max_bytes),
        ];
        match settings.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Error::InvalidConfig(format!("{name} is 0"))),
            None => Ok(self.finish()),
        }
    }

    fn finish(self) -> Pipeline<R, C> {
        let limit = self.pool.limit().max(1);
        let rules = Rules {
            lanes: self.lanes.map_or(limit, |lanes| lanes.min(limit)),
            max_in_flight: self.max_in_flight,
            max_bytes: self.max_bytes,
        };
        Pipeline {
            core: Arc::new(Core::new(
                self.pool,
                self.read_reply,
                self.repeatable,
                rules,
            )),
        }
    }
}

impl<R, C> Clone for Pipeline<R, C> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
        }
    }
}

/// A panic in the reply function is caught and leaves the pipeline whole.
impl<R, C> UnwindSafe for Pipeline<R, C> {}
impl<R, C> RefUnwindSafe for Pipeline<R, C> {}

/// Shows the numbers.
impl<R, C> fmt::Debug for Pipeline<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").finish_non_exhaustive()
    }
}

impl<R, C> fmt::Debug for PipelineBuilder<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineBuilder")
            .field("lanes", &self.lanes)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_bytes", &self.max_bytes)
            .field("repeatable", &self.repeatable)
            .finish_non_exhaustive()
    }
}
