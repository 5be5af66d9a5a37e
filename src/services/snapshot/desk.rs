//! The desk: who waits for which picture, what is decoded and encoded for whom. Pure: time is an argument, and what is
//! to be done comes out as [`Action`]s.
//!
//! A stream has at most one decoding job at work and, by its waiting requests, one next; and at most one encoding job
//! for each scale. A request is served by any picture that covers the newest unit of the moment when it was made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Scale, Snapshot, SnapshotError};
use crate::hub::Span;
use crate::media::picture::YuvPicture;

/// Requests that wait, over all streams; more are refused. Each costs a few hundred bytes.
pub(super) const WAITING_MAX: usize = 4096;
/// Encoding jobs of one stream at once, each of another scale; further scales wait.
const SCALES_MAX: usize = 4;
/// How long pictures of a stream that nobody asks for are kept.
const KEPT: Duration = Duration::from_secs(10);

/// What the desk needs to know of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeskSettings {
    pub(super) watch: Duration,
    pub(super) watched_max: usize,
    pub(super) keyframe_units: u64,
    /// Time between two looks at a stream that owes a keyframe.
    pub(super) slice: Duration,
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Request<R> {
    pub(super) scale: Option<Scale>,
    pub(super) max_age: Option<Duration>,
    pub(super) asked: Instant,
    pub(super) deadline: Instant,
    pub(super) reply: R,
}

#[derive(Debug)]
struct Waiting<R> {
    request: Request<R>,
    /// The picture must cover this unit.
    need: u64,
}

/// What the service is to do. `S` is a stream, `R` a reply.
#[derive(Debug)]
pub(super) enum Action<S, R> {
    /// Put a decoding job of this stream into the queue.
    Decode { epoch: u64 },
    /// Make a PNG.
    Encode { epoch: u64, stream: S, picture: Arc<YuvPicture>, scale: Option<Scale> },
    /// Ask the publisher for a keyframe.
    Ring { stream: S },
    /// End the watch of this number.
    EndWatch { watch: u64 },
    /// Deadlines or streams that owe a keyframe have changed: look at them soon.
    Look,
    /// Answer a request.
    Answer { reply: R, asked: Instant, result: Result<Arc<Snapshot>, SnapshotError> },
}

/// Why a decoding job gave no picture.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is nothing to decode before the next keyframe.
    NoGroup,
    /// The group that begins with this unit cannot be decoded: another may.
    Unusable { first_seq: u64, error: SnapshotError },
    /// It cannot be done, now or later.
    Refused(SnapshotError),
    /// The stream is over.
    Ended,
}

/// What produces the stream's next picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Nothing.
    Idle,
    /// A job in the queue, which will take the cache as it is then.
    Queued,
    /// A job at work.
    Running,
    /// A keyframe that is to come.
    AwaitsKeyframe { look_again: Instant },
    /// A decoder in step.
    Watched { watch: u64 },
}

/// The newest picture, and the newest unit that it stands for.
#[derive(Debug)]
struct Shown {
    picture: Arc<YuvPicture>,
    covers: u64,
}

#[derive(Debug)]
struct Encoding<R> {
    scale: Option<Scale>,
    covers: u64,
    waiting: Vec<Waiting<R>>,
}

#[derive(Debug)]
struct Entry<S, R> {
    stream: S,
    work: Work,
    waiting: Vec<Waiting<R>>,
    shown: Option<Shown>,
    encoding: Vec<Encoding<R>>,
    /// Of the shown picture, one a scale.
    finished: Vec<(Option<Scale>, Arc<Snapshot>)>,
    /// The group that begins with this unit could not be decoded, and why.
    unusable: Option<(u64, SnapshotError)>,
    asked: Instant,
}

type Actions<S, R> = Vec<Action<S, R>>;

/// All streams that somebody asked for lately.
#[derive(Debug)]
pub(super) struct Desk<S, R> {
    settings: DeskSettings,
    streams: HashMap<u64, Entry<S, R>>,
    waiting: usize,
    next_watch: u64,
    stopping: bool,
    /// The moment up to which the service sleeps; it is woken only for something earlier.
    looks_at: Option<Instant>,
}

impl<S: Clone, R> Desk<S, R> {
    pub(super) fn new(settings: DeskSettings) -> Self {
        let streams = HashMap::new();
        Self { settings, streams, waiting: 0, next_watch: 0, stopping: false, looks_at: None }
    }

    /// Somebody asks for the newest picture of the stream of this epoch, which stands at `span`.
    pub(super) fn request(
        &mut self,
        now: Instant,
        (epoch, stream): (u64, &S),
        span: Span,
        request: Request<R>,
    ) -> Actions<S, R> {
        let mut actions = Vec::new();
        let refusal = if self.stopping {
            Some(SnapshotError::Stopping)
        } else if self.waiting >= WAITING_MAX {
            Some(SnapshotError::Busy)
        } else {
            // No work is done for a picture that will be refused.
            let age = span.group.map(|group| now.saturating_duration_since(group.newest_arrived));
            age.filter(|age| request.max_age.is_some_and(|most| *age > most)).map(SnapshotError::TooOld)
        };
        if let Some(error) = refusal {
            actions.push(answer(request, Err(error)));
            return actions;
        }
        let entry = self.streams.entry(epoch).or_insert_with(|| Entry {
            stream: stream.clone(),
            work: Work::Idle,
            waiting: Vec::new(),
            shown: None,
            encoding: Vec::new(),
            finished: Vec::new(),
            unusable: None,
            asked: now,
        });
        entry.asked = now;
        let unusable = entry.unusable.as_ref().map(|(first_seq, _)| *first_seq);
        let need = match span.group.filter(|group| Some(group.first_seq) != unusable) {
            Some(group) => {
                let tail = group.newest_seq + 1 - group.first_seq;
                let in_step = matches!(entry.work, Work::Watched { .. });
                if !in_step && tail > self.settings.keyframe_units {
                    actions.push(Action::Ring { stream: stream.clone() });
                }
                group.newest_seq
            }
            None => {
                if !matches!(entry.work, Work::AwaitsKeyframe { .. }) {
                    actions.push(Action::Ring { stream: stream.clone() });
                }
                if entry.work == Work::Idle {
                    entry.work = Work::AwaitsKeyframe { look_again: now + self.settings.slice };
                    actions.push(Action::Look);
                }
                span.next_seq
            }
        };
        let deadline = request.deadline;
        entry.waiting.push(Waiting { request, need });
        self.waiting += 1;
        self.advance(now, epoch, &mut actions);
        // What is answered at once needs no look; what waits must not wait beyond its deadline.
        if self.waiting > 0 && self.looks_at.is_none_or(|at| deadline < at) {
            self.looks_at = Some(deadline);
            actions.push(Action::Look);
        }
        actions
    }

    /// A job leaves the queue. `None`: nobody waits any more. Otherwise the stream, and the moment after which its
    /// picture would serve nobody.
    pub(super) fn begin(&mut self, epoch: u64) -> Option<(S, Instant)> {
        let entry = self.streams.get_mut(&epoch).filter(|entry| entry.work == Work::Queued)?;
        let latest = entry.waiting.iter().map(|waiting| waiting.request.deadline).max();
        entry.work = if latest.is_some() { Work::Running } else { Work::Idle };
        latest.map(|deadline| (entry.stream.clone(), deadline))
    }

    /// The latest deadline of those who wait for a picture of this stream.
    pub(super) fn deadline(&self, epoch: u64) -> Option<Instant> {
        self.streams.get(&epoch)?.waiting.iter().map(|waiting| waiting.request.deadline).max()
    }

    /// A job gave a picture that stands for unit `covers`. The number is of the watch that is to follow the stream
    /// from here; `None`: none is.
    pub(super) fn decoded(
        &mut self,
        now: Instant,
        epoch: u64,
        picture: Arc<YuvPicture>,
        covers: u64,
    ) -> (Option<u64>, Actions<S, R>) {
        let mut actions = Vec::new();
        let Some(entry) = self.streams.get_mut(&epoch) else { return (None, actions) };
        entry.work = Work::Idle;
        entry.show(picture, covers);
        let watch = self.begin_watch(now, epoch, &mut actions);
        self.advance(now, epoch, &mut actions);
        (watch, actions)
    }

    /// A job gave no picture.
    pub(super) fn failed(&mut self, now: Instant, epoch: u64, failure: Failure) -> Actions<S, R> {
        let mut actions = Vec::new();
        let Some(entry) = self.streams.get_mut(&epoch) else { return actions };
        entry.work = Work::Idle;
        match failure {
            Failure::Refused(error) => self.answer_waiting(epoch, &error, &mut actions),
            Failure::Ended => self.end(epoch, &SnapshotError::StreamEnded, &mut actions),
            Failure::NoGroup => self.await_keyframe(now, epoch, &mut actions),
            Failure::Unusable { first_seq, error } => {
                entry.unusable = Some((first_seq, error));
                self.await_keyframe(now, epoch, &mut actions);
            }
        }
        actions
    }

    /// Streams that owe a keyframe, each with the group that will not do.
    pub(super) fn awaiting(&self) -> Vec<(u64, S, Option<u64>)> {
        let awaits = |entry: &Entry<S, R>| matches!(entry.work, Work::AwaitsKeyframe { .. });
        self.streams
            .iter()
            .filter(|(_, entry)| awaits(entry))
            .map(|(epoch, entry)| {
                (*epoch, entry.stream.clone(), entry.unusable.as_ref().map(|(first_seq, _)| *first_seq))
            })
            .collect()
    }

    /// The keyframe that was owed is there.
    pub(super) fn keyframe_came(&mut self, now: Instant, epoch: u64) -> Actions<S, R> {
        let mut actions = Vec::new();
        if let Some(entry) = self.streams.get_mut(&epoch)
            && matches!(entry.work, Work::AwaitsKeyframe { .. })
        {
            entry.work = Work::Idle;
            self.advance(now, epoch, &mut actions);
        }
        actions
    }

    /// The stream is over.
    pub(super) fn ended(&mut self, epoch: u64) -> Actions<S, R> {
        let mut actions = Vec::new();
        self.end(epoch, &SnapshotError::StreamEnded, &mut actions);
        actions
    }

    /// The watch is at unit `covers`; `picture` is the newest one, where that has changed.
    pub(super) fn watched(
        &mut self,
        now: Instant,
        (epoch, watch): (u64, u64),
        picture: Option<Arc<YuvPicture>>,
        covers: u64,
    ) -> Actions<S, R> {
        let mut actions = Vec::new();
        let Some(entry) = self.streams.get_mut(&epoch) else { return actions };
        if entry.work != (Work::Watched { watch }) {
            return actions;
        }
        match (picture, &mut entry.shown) {
            (Some(picture), _) => entry.show(picture, covers),
            // The job before it may have seen further than the watch has come.
            (None, Some(shown)) => shown.covers = shown.covers.max(covers),
            (None, None) => {}
        }
        self.advance(now, epoch, &mut actions);
        actions
    }

    /// Until when this watch goes on if nobody asks; `None`: it is to end now.
    pub(super) fn watch_until(&self, now: Instant, epoch: u64, watch: u64) -> Option<Instant> {
        let entry = self.streams.get(&epoch).filter(|entry| entry.work == Work::Watched { watch })?;
        let until = entry.asked + self.settings.watch;
        (until > now && !self.stopping).then_some(until)
    }

    /// A watch is over, for whatever reason; who still waits gets a job of its own.
    pub(super) fn watch_ended(&mut self, now: Instant, epoch: u64, watch: u64) -> Actions<S, R> {
        let mut actions = Vec::new();
        if let Some(entry) = self.streams.get_mut(&epoch)
            && entry.work == (Work::Watched { watch })
        {
            entry.work = Work::Idle;
            self.advance(now, epoch, &mut actions);
            // From here on the stream can be forgotten, which the service does not wake for yet.
            actions.push(Action::Look);
        }
        actions
    }

    /// An encoding job is over.
    pub(super) fn encoded(
        &mut self,
        now: Instant,
        epoch: u64,
        scale: Option<Scale>,
        result: &Result<Arc<Snapshot>, SnapshotError>,
    ) -> Actions<S, R> {
        let mut actions = Vec::new();
        let Some(entry) = self.streams.get_mut(&epoch) else { return actions };
        let Some(at) = entry.encoding.iter().position(|encoding| encoding.scale == scale) else {
            return actions;
        };
        let encoding = entry.encoding.swap_remove(at);
        self.waiting -= encoding.waiting.len();
        for waiting in encoding.waiting {
            actions.push(answer_aged(now, waiting.request, result));
        }
        if let (Ok(snapshot), Some(shown)) = (result, &entry.shown)
            && snapshot.seq == shown.picture.seq
        {
            if entry.finished.len() >= SCALES_MAX {
                entry.finished.remove(0);
            }
            entry.finished.push((scale, snapshot.clone()));
        }
        self.advance(now, epoch, &mut actions);
        actions
    }

    /// Deadlines: who waited too long is answered, who owes a keyframe is asked again, and what nobody asks for is
    /// forgotten.
    pub(super) fn look(&mut self, now: Instant) -> Actions<S, R> {
        let mut actions = Vec::new();
        let mut late = 0;
        for entry in self.streams.values_mut() {
            let error = match (&entry.work, &entry.unusable) {
                (Work::AwaitsKeyframe { .. }, Some((_, error))) => error.clone(),
                _ => SnapshotError::Timeout,
            };
            let lists = entry.encoding.iter_mut().map(|encoding| &mut encoding.waiting);
            for list in lists.chain([&mut entry.waiting]) {
                for waiting in list.extract_if(.., |waiting| waiting.request.deadline <= now) {
                    late += 1;
                    actions.push(answer(waiting.request, Err(error.clone())));
                }
            }
            if let Work::AwaitsKeyframe { look_again } = &mut entry.work {
                if entry.waiting.is_empty() {
                    entry.work = Work::Idle;
                } else if *look_again <= now {
                    *look_again = now + self.settings.slice;
                    actions.push(Action::Ring { stream: entry.stream.clone() });
                }
            }
        }
        self.waiting -= late;
        self.streams.retain(|_, entry| !entry.is_stale(now));
        self.looks_at = self.next_look();
        actions
    }

    /// When [`Desk::look`] is due.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let of_entry = |entry: &Entry<S, R>| {
            let waiting = entry.waiting.iter().chain(entry.encoding.iter().flat_map(|e| &e.waiting));
            let deadline = waiting.map(|waiting| waiting.request.deadline).min();
            let again = match entry.work {
                Work::AwaitsKeyframe { look_again } => Some(look_again),
                _ => None,
            };
            let stale = (entry.work == Work::Idle && deadline.is_none()).then_some(entry.asked + KEPT);
            [deadline, again, stale].into_iter().flatten().min()
        };
        self.streams.values().filter_map(of_entry).min()
    }

    /// Everybody is answered, nobody is taken any more.
    pub(super) fn stop(&mut self) -> Actions<S, R> {
        self.stopping = true;
        let mut actions = Vec::new();
        for epoch in self.streams.keys().copied().collect::<Vec<_>>() {
            self.end(epoch, &SnapshotError::Stopping, &mut actions);
        }
        actions
    }

    /// Serves whom the shown picture serves, and gets a picture for the others under way.
    fn advance(&mut self, now: Instant, epoch: u64, actions: &mut Actions<S, R>) {
        let Some(entry) = self.streams.get_mut(&epoch) else { return };
        if let Some(shown) = &entry.shown {
            for waiting in std::mem::take(&mut entry.waiting) {
                let scale = waiting.request.scale;
                if waiting.need > shown.covers {
                    entry.waiting.push(waiting);
                } else if let Some((_, snapshot)) = entry.finished.iter().find(|(of, _)| *of == scale) {
                    self.waiting -= 1;
                    actions.push(answer_aged(now, waiting.request, &Ok(snapshot.clone())));
                } else if let Some(encoding) = entry.encoding.iter_mut().find(|e| e.scale == scale) {
                    // The picture at work may be older than what this one needs.
                    if waiting.need <= encoding.covers {
                        encoding.waiting.push(waiting);
                    } else {
                        entry.waiting.push(waiting);
                    }
                } else if entry.encoding.len() < SCALES_MAX {
                    let (picture, covers) = (shown.picture.clone(), shown.covers);
                    entry.encoding.push(Encoding { scale, covers, waiting: vec![waiting] });
                    actions.push(Action::Encode { epoch, stream: entry.stream.clone(), picture, scale });
                } else {
                    entry.waiting.push(waiting);
                }
            }
        }
        let covers = entry.shown.as_ref().map(|shown| shown.covers);
        let uncovered = entry.waiting.iter().any(|waiting| covers.is_none_or(|covers| waiting.need > covers));
        if uncovered && entry.work == Work::Idle {
            entry.work = Work::Queued;
            actions.push(Action::Decode { epoch });
        }
    }

    /// Makes room for one more watch, and begins it.
    fn begin_watch(&mut self, now: Instant, epoch: u64, actions: &mut Actions<S, R>) -> Option<u64> {
        if self.stopping || self.settings.watch.is_zero() || self.settings.watched_max == 0 {
            return None;
        }
        let watched = |entry: &Entry<S, R>| match entry.work {
            Work::Watched { watch } => Some(watch),
            _ => None,
        };
        let number = self.streams.values().filter(|entry| watched(entry).is_some()).count();
        if number >= self.settings.watched_max {
            let asked_at = |(_, entry): &(&u64, &Entry<S, R>)| entry.asked;
            let coldest =
                self.streams.iter().filter(|(_, entry)| watched(entry).is_some()).min_by_key(asked_at);
            let (coldest, watch) = coldest.map(|(epoch, entry)| (*epoch, watched(entry)))?;
            actions.push(Action::EndWatch { watch: watch? });
            if let Some(entry) = self.streams.get_mut(&coldest) {
                entry.work = Work::Idle;
            }
            self.advance(now, coldest, actions);
        }
        let watch = self.next_watch;
        self.next_watch += 1;
        self.streams.get_mut(&epoch)?.work = Work::Watched { watch };
        Some(watch)
    }

    fn await_keyframe(&mut self, now: Instant, epoch: u64, actions: &mut Actions<S, R>) {
        let Some(entry) = self.streams.get_mut(&epoch).filter(|entry| !entry.waiting.is_empty()) else {
            return;
        };
        entry.work = Work::AwaitsKeyframe { look_again: now + self.settings.slice };
        actions.push(Action::Ring { stream: entry.stream.clone() });
        actions.push(Action::Look);
    }

    fn answer_waiting(&mut self, epoch: u64, error: &SnapshotError, actions: &mut Actions<S, R>) {
        let Some(entry) = self.streams.get_mut(&epoch) else { return };
        self.waiting -= entry.waiting.len();
        actions.extend(entry.waiting.drain(..).map(|waiting| answer(waiting.request, Err(error.clone()))));
    }

    fn end(&mut self, epoch: u64, error: &SnapshotError, actions: &mut Actions<S, R>) {
        self.answer_waiting(epoch, error, actions);
        let Some(entry) = self.streams.remove(&epoch) else { return };
        for waiting in entry.encoding.into_iter().flat_map(|encoding| encoding.waiting) {
            self.waiting -= 1;
            actions.push(answer(waiting.request, Err(error.clone())));
        }
        if let Work::Watched { watch } = entry.work {
            actions.push(Action::EndWatch { watch });
        }
    }
}

impl<S, R> Entry<S, R> {
    fn show(&mut self, picture: Arc<YuvPicture>, covers: u64) {
        self.finished.clear();
        self.unusable = None;
        self.shown = Some(Shown { picture, covers });
    }

    fn is_stale(&self, now: Instant) -> bool {
        let nobody = self.waiting.is_empty() && self.encoding.is_empty();
        nobody && self.work == Work::Idle && self.asked + KEPT <= now
    }
}

fn answer<S, R>(request: Request<R>, result: Result<Arc<Snapshot>, SnapshotError>) -> Action<S, R> {
    Action::Answer { reply: request.reply, asked: request.asked, result }
}

/// An answer whose age is looked at now, when it is given.
fn answer_aged<S, R>(
    now: Instant,
    request: Request<R>,
    result: &Result<Arc<Snapshot>, SnapshotError>,
) -> Action<S, R> {
    let too_old = |snapshot: &Arc<Snapshot>| {
        let age = snapshot.age(now);
        request.max_age.filter(|most| age > *most).map(|_| SnapshotError::TooOld(age))
    };
    let result = match result {
        Ok(snapshot) => too_old(snapshot).map_or_else(|| Ok(snapshot.clone()), Err),
        Err(error) => Err(error.clone()),
    };
    answer(request, result)
}

#[cfg(test)]
mod tests;
