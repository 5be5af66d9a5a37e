//! The thread of one pull: attempts, rests, and what they are told apart by.

use std::sync::Arc;

use super::book::{Next, Outcome};
use super::connect::{ConnectError, Patience};
use super::drive::{Link, Turn};
use super::source::Source;
use super::{PullError, Pulls};
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::stop::StopToken;
use crate::base::wait::Waiter;

/// Redirections that are followed in one attempt.
const REDIRECTIONS_MAX: u32 = 5;

/// What the thread of a pull owns. However it ends, by a panic too, the pull is out of the book and who waits is answered.
pub(super) struct Worker {
    pulls: Pulls,
    number: u64,
    source: Arc<Source>,
    name: StreamName,
    media_session_id: MediaSessionId,
    waiter: Waiter,
    stop: StopToken,
    /// Media inside the connection. What the source turned out to want is kept for the next attempt.
    interleaved: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.pulls.0.metrics.pulls.dec();
        let answers = self.pulls.0.book.lock().remove(self.number, &PullError::Gone);
        answers.give();
    }
}

impl Worker {
    pub(super) fn new(
        pulls: Pulls,
        number: u64,
        source: Arc<Source>,
        name: StreamName,
        media_session_id: MediaSessionId,
        waiter: Waiter,
        stop: StopToken,
    ) -> Self {
        let interleaved = pulls.0.settings.interleaved;
        Self { pulls, number, source, name, media_session_id, waiter, stop, interleaved }
    }

    /// Pulls until nobody wants it any more.
    pub(super) fn run(mut self) {
        tracing::info!("{} is pulled by pull-{}", self.source.name(), self.number);
        loop {
            let outcome = self.attempt();
            if let Outcome::Failed(error) = outcome {
                self.pulls.0.metrics.pulls_failed_total.with_label_values(&[error.label()]).inc();
            }
            let now = self.pulls.0.clock.now();
            let (next, answers) =
                self.pulls.0.book.lock().after(self.number, outcome, now, rand::random::<f64>());
            answers.give();
            let goes_on = match next {
                Next::Again => true,
                Next::Over => false,
                Next::Rest(until) => {
                    let rest = until.saturating_duration_since(now);
                    tracing::info!("{} is tried again in {:.1} s", self.source.name(), rest.as_secs_f64());
                    self.rest()
                }
            };
            if !goes_on {
                tracing::info!("{} is pulled no more", self.source.name());
                return;
            }
        }
    }

    /// Rests; returns whether to try again.
    fn rest(&mut self) -> bool {
        loop {
            let now = self.pulls.0.clock.now();
            let (next, answers) = self.pulls.0.book.lock().resting(self.number, now);
            answers.give();
            match next {
                Next::Over => return false,
                Next::Again => return true,
                Next::Rest(at) => {
                    if let Err(error) = self.waiter.wait_until(&[], now, Some(at)) {
                        tracing::error!("cannot wait: {error}");
                        return false;
                    }
                }
            }
        }
    }

    /// One attempt, from the first connection to the end of the stream.
    fn attempt(&mut self) -> Outcome {
        let mut target = (*self.source).clone();
        let mut redirections = 0;
        let mut turned = false;
        loop {
            let transport = match self.connect(&target) {
                Ok(transport) => transport,
                Err(outcome) => return outcome,
            };
            let link = Link {
                pulls: &self.pulls,
                number: self.number,
                name: &self.name,
                media_session_id: &self.media_session_id,
                waiter: &mut self.waiter,
                stop: &self.stop,
            };
            match link.drive(transport, &target, self.interleaved) {
                Turn::Over(outcome) => return outcome,
                Turn::OtherTransport if !turned => {
                    turned = true;
                    self.interleaved = !self.interleaved;
                    let way = if self.interleaved { "inside the connection" } else { "by UDP" };
                    tracing::info!("{}: asking for media {way}", self.source.name());
                }
                Turn::OtherTransport => return Outcome::Failed(self.source.unreachable()),
                Turn::Redirected(location) => {
                    redirections += 1;
                    let next = target.redirected(&location);
                    match next {
                        Ok(next) if redirections <= REDIRECTIONS_MAX => {
                            tracing::info!("{} is at {}", self.source.name(), next.url());
                            target = next;
                        }
                        _ => {
                            tracing::warn!("{}: redirected to nowhere or too often", self.source.name());
                            return Outcome::Failed(self.source.unreachable());
                        }
                    }
                }
            }
        }
    }

    fn connect(&mut self, target: &Source) -> Result<crate::edge::tls::Transport, Outcome> {
        let inner = &self.pulls.0;
        let called_off = || {
            let mut book = inner.book.lock();
            book.find(self.number).is_none_or(|pull| pull.asked_to_end.is_some())
        };
        let mut patience = Patience {
            waiter: &mut self.waiter,
            deadline: inner.clock.now() + inner.settings.answer,
            stop: &self.stop,
            called_off: &called_off,
        };
        inner.connector.connect(target, &mut patience).map_err(|error| {
            match &error {
                ConnectError::CalledOff => return Outcome::Told,
                ConnectError::Refused(_) => {
                    inner.metrics.bad_input("pull_refused");
                    tracing::warn!("{} is not pulled: {error}", target.url());
                    return Outcome::Failed(PullError::Restricted);
                }
                ConnectError::Lookup(_) | ConnectError::Unreachable(_) => {
                    tracing::info!("{} cannot be pulled: {error}", target.url());
                }
            }
            Outcome::Failed(self.source.unreachable())
        })
    }
}
