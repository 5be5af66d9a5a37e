//! Stills: the picture of a stream's newest keyframe, made small, for lists that show many streams at once.
//!
//! A snapshot shows the newest picture, and decodes a whole group for it. A still costs one unit, once a keyframe and size,
//! however many look; whether it has changed is known without decoding. It is as old as the keyframe, which its capture
//! time tells. One thread makes all stills, so that lists never take more than one core.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};

use super::service::{GRACE, Shared, Snapshots};
use super::{Scale, Snapshot, SnapshotError};
use crate::base::threads;
use crate::hub::Stream;
use crate::media::unit::AccessUnit;

/// Stills that wait for the thread; more are refused as busy.
pub(super) const QUEUE: usize = 64;
/// A publisher that makes keyframes when asked is asked for one when the newest is older than this and somebody looks.
const RENEW: Duration = Duration::from_secs(5);
/// Stills kept, one a stream and size, each some tens of kilobytes.
const KEPT_MAX: usize = 128;
/// How long a still that nobody looks at is kept.
const KEPT: Duration = Duration::from_secs(20);
/// Longest side of a still, in pixels.
pub const STILL_SIDE_MAX: u32 = 640;

type Outcome = Result<Arc<Snapshot>, SnapshotError>;

/// What a still shows: one keyframe of one stream.
#[derive(Clone, Debug)]
pub struct StillSource {
    stream: Arc<Stream>,
    keyframe: Arc<AccessUnit>,
}

impl StillSource {
    /// Which publication it is of ([`Stream::epoch`]).
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.stream.epoch()
    }

    /// Which of its units it is. While epoch and unit stay, the picture does.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.keyframe.seq
    }
}

/// A still that somebody waits for.
pub(super) struct StillJob {
    source: StillSource,
    scale: Scale,
    deadline: Instant,
    reply: Sender<Outcome>,
}

impl Snapshots {
    /// Finds what the still of this stream would show now; nothing is decoded. Publishers that make keyframes when asked are
    /// asked where there is none, or an old one.
    ///
    /// # Errors
    /// When there is no such stream, no video in it, or no keyframe yet.
    pub fn still_source(&self, stream_name: &str) -> Result<StillSource, SnapshotError> {
        let shared = self.shared();
        let stream = shared.registry.find(stream_name).ok_or(SnapshotError::StreamNotFound)?;
        if !stream.facts().has_video {
            return Err(SnapshotError::NoVideo);
        }
        let keyframe = stream.keyframe();
        let age = keyframe.as_ref().map(|unit| shared.clock.now().saturating_duration_since(unit.arrived));
        if age.is_none_or(|age| age > RENEW) {
            stream.request_keyframe();
        }
        let keyframe = keyframe.ok_or(SnapshotError::NoKeyframe)?;
        Ok(StillSource { stream, keyframe })
    }

    /// Makes the still, or hands out the one that is made. Waits for it, at most the configured limit of snapshots.
    ///
    /// # Errors
    /// See [`SnapshotError`]; [`SnapshotError::Scale`] for a box without sides, or longer ones than [`STILL_SIDE_MAX`].
    pub fn still(&self, source: StillSource, scale: Scale) -> Outcome {
        let shared = self.shared();
        let sides = [scale.width, scale.height];
        if sides == [None, None] || sides.into_iter().flatten().any(|side| side > STILL_SIDE_MAX) {
            return Err(SnapshotError::Scale(crate::services::scale::ScaleError::Box));
        }
        scale.check().map_err(SnapshotError::Scale)?;
        let limit = shared.settings.limit;
        let (reply, answer) = bounded(1);
        let job = StillJob { source, scale, deadline: shared.clock.now() + limit, reply };
        if shared.stills.try_send(job).is_err() {
            return Err(if shared.stop.is_set() { SnapshotError::Stopping } else { SnapshotError::Busy });
        }
        let gone = |_| if shared.stop.is_set() { SnapshotError::Stopping } else { SnapshotError::Timeout };
        answer.recv_timeout(limit.saturating_add(GRACE)).map_err(gone)?
    }
}

/// A still that was made, or why it cannot be.
struct Kept {
    seq: u64,
    outcome: Outcome,
    looked_at: Instant,
}

/// What was made, by publication and size.
#[derive(Default)]
struct Stills(HashMap<(u64, Scale), Kept>);

impl Stills {
    /// Forgets what nobody looks at any more, and what was looked at the longest ago where there is too much.
    fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, kept| kept.looked_at + KEPT > now);
        while self.0.len() > KEPT_MAX {
            let oldest = self.0.iter().min_by_key(|(_, kept)| kept.looked_at).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.0.remove(&oldest);
        }
    }
}

impl Shared {
    /// The body of the thread `stills`.
    pub(super) fn make_stills(&self, jobs: &Receiver<StillJob>) {
        let mut stills = Stills::default();
        loop {
            let idle = if stills.0.is_empty() { never() } else { after(KEPT) };
            select! {
                recv(jobs) -> job => match job {
                    Ok(job) => self.make_still(&mut stills, job),
                    Err(_) => return,
                },
                recv(self.stop.channel()) -> _ => return,
                recv(idle) -> _ => {}
            }
            stills.tidy(self.clock.now());
        }
    }

    fn make_still(&self, stills: &mut Stills, job: StillJob) {
        let StillJob { source, scale, deadline, reply } = job;
        let now = self.clock.now();
        if now >= deadline {
            let _ = reply.try_send(Err(SnapshotError::Timeout));
            return;
        }
        let key = (source.epoch(), scale);
        if let Some(kept) = stills.0.get_mut(&key).filter(|kept| kept.seq >= source.seq()) {
            kept.looked_at = now;
            let _ = reply.try_send(kept.outcome.clone());
            return;
        }
        let seq = source.seq();
        let outcome = threads::caught("still", || self.picture_of(&source, scale))
            .unwrap_or(Err(SnapshotError::Internal));
        if let Err(error) = &outcome {
            tracing::debug!("no still of stream {}: {error}", source.stream.publication().name);
        }
        let _ = reply.try_send(outcome.clone());
        stills.0.insert(key, Kept { seq, outcome, looked_at: now });
    }

    fn picture_of(&self, source: &StillSource, scale: Scale) -> Outcome {
        self.metrics.decode_runs_total.inc();
        let picture = self.decoder().step(&source.keyframe, true)?;
        let picture = picture.ok_or(SnapshotError::NoKeyframe)?;
        self.make(&source.stream, &picture, Some(scale)).map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Scene, UNWATCHED, number};
    use super::*;

    const SMALL: Scale = Scale { width: Some(160), height: None, fit: super::super::Fit::Contain };

    fn still(snapshots: &Snapshots) -> Arc<Snapshot> {
        snapshots.still(snapshots.still_source("cards").unwrap(), SMALL).unwrap()
    }

    #[test]
    fn a_still_is_the_newest_keyframe_and_is_made_once_for_all_who_look() {
        let mut scene = Scene::new();
        let service = scene.service(UNWATCHED);
        let snapshots = service.handle();
        scene.push(0..8);
        let first = still(&snapshots);
        assert_eq!((first.seq, first.width, first.height), (0, 160, 90));
        scene.push(8..12);
        for _ in 0..10 {
            assert!(Arc::ptr_eq(&first, &still(&snapshots)), "nothing has changed");
        }
        assert_eq!((scene.runs(), scene.metrics.units_decoded_total.get()), ((1, 1), 1));
        scene.push_keyframe(12);
        scene.push(13..14);
        let second = still(&snapshots);
        assert_eq!((second.seq, number(&second)), (12, 12));
        assert_eq!(scene.metrics.units_decoded_total.get(), 2);
    }

    #[test]
    fn a_publisher_is_asked_for_a_keyframe_where_there_is_none_or_an_old_one() {
        let mut scene = Scene::new();
        let service = scene.service(UNWATCHED);
        let snapshots = service.handle();
        let asked = |scene: &Scene| scene.bell.try_recv().is_ok();
        assert!(matches!(snapshots.still_source("cards"), Err(SnapshotError::NoKeyframe)));
        assert!(asked(&scene));
        scene.push(0..2);
        let source = snapshots.still_source("cards").unwrap();
        assert!(!asked(&scene), "it is new");
        scene.clock.advance(RENEW + Duration::from_millis(1));
        assert_eq!(snapshots.still_source("cards").unwrap().seq(), source.seq());
        assert!(asked(&scene));
    }

    #[test]
    fn what_cannot_be_had_says_so_at_once() {
        let scene = Scene::new();
        let service = scene.service(UNWATCHED);
        let snapshots = service.handle();
        assert!(matches!(snapshots.still_source("nobody"), Err(SnapshotError::StreamNotFound)));
        scene.publisher.expect_tracks(false, true);
        assert!(matches!(snapshots.still_source("cards"), Err(SnapshotError::NoVideo)));
    }

    #[test]
    fn only_small_pictures_are_made() {
        let mut scene = Scene::new();
        let service = scene.service(UNWATCHED);
        let snapshots = service.handle();
        scene.push(0..1);
        for side in [None, Some(0), Some(STILL_SIDE_MAX + 1)] {
            let scale = Scale { width: side, ..Scale::default() };
            let refused = snapshots.still(snapshots.still_source("cards").unwrap(), scale);
            assert!(matches!(refused, Err(SnapshotError::Scale(_))), "{side:?}");
        }
        assert_eq!(scene.runs(), (0, 0));
    }

    #[test]
    fn stills_that_nobody_looks_at_are_forgotten_and_there_are_never_too_many() {
        let mut stills = Stills::default();
        let clock = crate::base::clock::Clock::manual();
        let outcome = || Err(SnapshotError::NoVideo);
        for epoch in 0..KEPT_MAX as u64 + 5 {
            clock.advance(Duration::from_millis(1));
            stills.0.insert((epoch, SMALL), Kept { seq: 0, outcome: outcome(), looked_at: clock.now() });
        }
        stills.tidy(clock.now());
        assert_eq!(stills.0.len(), KEPT_MAX);
        assert!(!stills.0.contains_key(&(4, SMALL)) && stills.0.contains_key(&(5, SMALL)));
        stills.tidy(clock.now() + KEPT);
        assert!(stills.0.is_empty());
    }
}
