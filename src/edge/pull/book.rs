//! The book of pulls: who is pulled, for whom, and what is to be done about it. It decides and does nothing itself: threads, sockets
//! and the hub are [`super::worker`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::source::Source;
use super::{PullError, PullState, Ready};
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::threads::Thread;
use crate::base::wait::Waker;
use crate::hub::{EndReason, Stream};

/// First rest after a source was lost.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
/// Longest rest.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A source that was up for so long is taken for a good one: its next loss begins with the first rest again.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// Share of a rest by which it may be longer or shorter, so that a hundred cameras of one switch do not come back in step.
const JITTER: f64 = 0.2;

/// What belongs to one pull.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) number: u64,
    pub(super) source: Arc<Source>,
    /// The stream's name in the hub.
    pub(super) name: StreamName,
    pub(super) media_session_id: MediaSessionId,
    pub(super) remote_session_id: String,
    /// Started by an operator: nobody's leaving ends it.
    pub(super) kept: bool,
    pub(super) phase: Phase,
    /// Failures and losses one after the other.
    failures: u32,
    /// It was up at least once.
    proven: bool,
    pub(super) watchers: usize,
    waiting: Vec<Waiting>,
    /// Nobody wants it since then; `None` while somebody does.
    idle_since: Option<Instant>,
    pub(super) asked_to_end: Option<EndReason>,
    pub(super) stream: Option<Arc<Stream>>,
    pub(super) waker: Waker,
    pub(super) thread: Option<Thread>,
}

/// Where a pull stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// On the way to the source.
    Connecting,
    /// The stream can be watched since then.
    Up(Instant),
    /// At rest until then.
    Resting(Instant),
}

/// Somebody who waits for the stream.
struct Waiting {
    ready: Ready,
    until: Instant,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("until", &self.until).finish_non_exhaustive()
    }
}

/// Answers to be given once the book is closed again: they must not be called under its lock.
#[derive(Default)]
#[must_use]
pub(super) struct Answers(Vec<(Ready, Result<Arc<Stream>, PullError>)>);

impl Answers {
    pub(super) fn give(self) {
        for (ready, result) in self.0 {
            ready(result);
        }
    }
}

/// How one attempt went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It did not come so far that the stream could be watched.
    Failed(PullError),
    /// It was up, and is lost.
    Lost,
    /// Nobody watches any more.
    Idle,
    /// It was told to end.
    Told,
}

/// What its thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Rest until then, and try again.
    Rest(Instant),
    /// Try again.
    Again,
    /// End. The pull is not in the book any more.
    Over,
}

/// All pulls, by the address that is pulled.
#[derive(Debug)]
pub(super) struct Book {
    pulls: BTreeMap<String, Pull>,
    pulls_max: usize,
    idle: Duration,
    /// How long somebody waits for a stream.
    patience: Duration,
    is_open: bool,
}

/// What a new pull is made of.
#[derive(Debug)]
pub(super) struct NewPull {
    pub(super) number: u64,
    pub(super) source: Arc<Source>,
    pub(super) name: StreamName,
    pub(super) media_session_id: MediaSessionId,
    pub(super) remote_session_id: String,
    pub(super) kept: bool,
    pub(super) waker: Waker,
}

impl Book {
    pub(super) fn new(pulls_max: usize, idle: Duration, patience: Duration) -> Self {
        Self { pulls: BTreeMap::new(), pulls_max, idle, patience, is_open: true }
    }

    /// Whether there is room for another one.
    pub(super) fn admit(&self) -> Result<(), PullError> {
        if !self.is_open {
            return Err(PullError::Stopping);
        }
        if self.pulls.len() >= self.pulls_max { Err(PullError::TooMany) } else { Ok(()) }
    }

    /// Enters a pull whose thread is about to begin.
    pub(super) fn enter(&mut self, new: NewPull, now: Instant) {
        let NewPull { number, source, name, media_session_id, remote_session_id, kept, waker } = new;
        let pull = Pull {
            number,
            name,
            media_session_id,
            remote_session_id,
            kept,
            phase: Phase::Connecting,
            failures: 0,
            proven: false,
            watchers: 0,
            waiting: Vec::new(),
            idle_since: Some(now),
            asked_to_end: None,
            stream: None,
            waker,
            thread: None,
            source,
        };
        self.pulls.insert(pull.source.name().as_str().to_owned(), pull);
    }

    pub(super) fn find(&mut self, number: u64) -> Option<&mut Pull> {
        self.pulls.values_mut().find(|pull| pull.number == number)
    }

    pub(super) fn by_uri(&mut self, uri: &str) -> Option<&mut Pull> {
        self.pulls.get_mut(uri)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Pull> {
        self.pulls.values()
    }

    /// Somebody wants to watch: counted until [`Book::leave`]. `ready` is answered at once when the stream is up.
    pub(super) fn join(&mut self, number: u64, now: Instant, ready: Ready) -> Answers {
        let until = now + self.patience;
        let Some(pull) = self.find(number) else { return Answers(vec![(ready, Err(PullError::Gone))]) };
        pull.watchers += 1;
        pull.idle_since = None;
        match (&pull.stream, pull.phase) {
            (Some(stream), Phase::Up(_)) => return Answers(vec![(ready, Ok(stream.clone()))]),
            // It rests for longer than anybody waits.
            (_, Phase::Resting(next)) if next > until => {
                return Answers(vec![(ready, Err(pull.source.unreachable()))]);
            }
            _ => pull.waiting.push(Waiting { ready, until }),
        }
        Answers::default()
    }

    /// Somebody waits without watching, such as a REST call.
    pub(super) fn wait(&mut self, number: u64, now: Instant, ready: Ready) {
        let until = now + self.patience;
        if let Some(pull) = self.find(number) {
            pull.waiting.push(Waiting { ready, until });
        }
    }

    /// Somebody who watched has left.
    pub(super) fn leave(&mut self, number: u64, now: Instant) {
        if let Some(pull) = self.find(number) {
            pull.watchers = pull.watchers.saturating_sub(1);
            if pull.watchers == 0 {
                pull.idle_since = Some(now);
            }
        }
    }

    /// The stream can be watched from now on.
    pub(super) fn up(&mut self, number: u64, stream: &Arc<Stream>, now: Instant) -> Answers {
        let Some(pull) = self.find(number) else { return Answers::default() };
        pull.phase = Phase::Up(now);
        pull.proven = true;
        pull.stream = Some(stream.clone());
        Answers(pull.waiting.drain(..).map(|waiting| (waiting.ready, Ok(stream.clone()))).collect())
    }

    /// Answers those who have waited long enough for a stream that does not come up.
    pub(super) fn expire(&mut self, number: u64, now: Instant) -> Answers {
        self.find(number).map_or_else(Answers::default, |pull| pull.give_up(now, &PullError::NotReady))
    }

    /// Whether nobody has wanted the pull for long enough. `watched` tells whether the stream has watchers that are not known here,
    /// `asked` when somebody last asked for a picture of it.
    pub(super) fn is_idle(
        &mut self,
        number: u64,
        now: Instant,
        watched: bool,
        asked: Option<Instant>,
    ) -> bool {
        let idle = self.idle;
        let Some(pull) = self.find(number) else { return true };
        if pull.kept {
            return false;
        }
        if watched || pull.watchers > 0 || !pull.waiting.is_empty() {
            pull.idle_since = (!watched && pull.watchers == 0).then_some(now);
            return false;
        }
        let since = *pull.idle_since.get_or_insert(now);
        let since = asked.map_or(since, |asked| asked.max(since));
        let is_idle = now.saturating_duration_since(since) >= idle;
        if is_idle {
            // Whoever comes from now on waits for the next stream: this one is let go.
            pull.stream = None;
        }
        is_idle
    }

    /// Decides what follows an attempt. `random` is from 0 to 1.
    pub(super) fn after(
        &mut self,
        number: u64,
        outcome: Outcome,
        now: Instant,
        random: f64,
    ) -> (Next, Answers) {
        let is_open = self.is_open;
        let Some(pull) = self.find(number) else { return (Next::Over, Answers::default()) };
        let was_good = match pull.phase {
            Phase::Up(since) => now.saturating_duration_since(since) >= GOOD_AFTER,
            Phase::Connecting | Phase::Resting(_) => false,
        };
        pull.stream = None;
        pull.phase = Phase::Connecting;
        let told = !is_open || pull.asked_to_end.is_some();
        let error = match outcome {
            Outcome::Idle if !told && (pull.watchers > 0 || !pull.waiting.is_empty()) => {
                // They came while it was let go.
                return (Next::Again, Answers::default());
            }
            Outcome::Idle | Outcome::Told => PullError::Gone,
            Outcome::Lost if !told => {
                pull.failures = if was_good { 1 } else { pull.failures.saturating_add(1) };
                return (rest(pull, now, random), Answers::default());
            }
            Outcome::Failed(error) if !told && pull.proven => {
                pull.failures = pull.failures.saturating_add(1);
                let next = rest(pull, now, random);
                let answers = match next {
                    Next::Rest(at) => pull.give_up(at, &error),
                    _ => Answers::default(),
                };
                return (next, answers);
            }
            Outcome::Lost => PullError::Gone,
            // One that never came is not tried again: its address is wrong, or whoever asked asks again.
            Outcome::Failed(error) => error,
        };
        (Next::Over, self.remove(number, &if is_open { error } else { PullError::Stopping }))
    }

    /// What is due of a pull at rest: whether it goes on resting, and who has waited long enough.
    pub(super) fn resting(&mut self, number: u64, now: Instant) -> (Next, Answers) {
        let told = !self.is_open;
        let Some(pull) = self.find(number) else { return (Next::Over, Answers::default()) };
        if told || pull.asked_to_end.is_some() {
            let error = if told { PullError::Stopping } else { PullError::Gone };
            return (Next::Over, self.remove(number, &error));
        }
        if self.is_idle(number, now, false, None) {
            return (Next::Over, self.remove(number, &PullError::Gone));
        }
        let idle = self.idle;
        let Some(pull) = self.find(number) else { return (Next::Over, Answers::default()) };
        match pull.phase {
            Phase::Resting(until) if now < until => {
                let idle_at = pull.idle_since.filter(|_| !pull.kept).map(|since| since + idle);
                let at = idle_at.map_or(until, |at| at.min(until)).max(now);
                (Next::Rest(at), Answers::default())
            }
            _ => {
                pull.phase = Phase::Connecting;
                (Next::Again, Answers::default())
            }
        }
    }

    /// Takes a pull out, also when its thread has panicked; whoever waits for it hears why.
    pub(super) fn remove(&mut self, number: u64, error: &PullError) -> Answers {
        let Some(uri) = self.pulls.iter().find(|(_, pull)| pull.number == number).map(|(uri, _)| uri.clone())
        else {
            return Answers::default();
        };
        let pull = self.pulls.remove(&uri);
        Answers(
            pull.into_iter()
                .flat_map(|pull| pull.waiting)
                .map(|waiting| (waiting.ready, Err(*error)))
                .collect(),
        )
    }

    /// Takes no new ones; gives the threads of those that there are.
    pub(super) fn close(&mut self) -> Vec<Thread> {
        self.is_open = false;
        self.pulls.values_mut().filter_map(|pull| pull.thread.take()).collect()
    }
}

impl Pull {
    /// Answers those who would wait past the next attempt for nothing.
    fn give_up(&mut self, next: Instant, error: &PullError) -> Answers {
        let (over, waiting) = self.waiting.drain(..).partition(|waiting: &Waiting| waiting.until <= next);
        self.waiting = waiting;
        Answers(over.into_iter().map(|waiting: Waiting| (waiting.ready, Err(*error))).collect())
    }

    pub(super) fn state(&self) -> PullState {
        match self.phase {
            Phase::Up(_) => PullState::Up,
            Phase::Connecting | Phase::Resting(_) => PullState::Waiting,
        }
    }
}

/// Puts a pull to rest; twice as long each time.
fn rest(pull: &mut Pull, now: Instant, random: f64) -> Next {
    let doublings = pull.failures.saturating_sub(1).min(10);
    let rest = BACK_OFF_FIRST.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
    let until = now + rest.mul_f64(1.0 + JITTER * (random.clamp(0.0, 1.0) * 2.0 - 1.0));
    pull.phase = Phase::Resting(until);
    Next::Rest(until)
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
