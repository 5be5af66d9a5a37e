//! One published stream: numbers units, keeps the current group of pictures, hands units out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::gop::GopCache;
use super::subscriber::Subscriber;
use super::{Bell, EndReason, Gop, GopLimits, Live, Publication, StreamStatus, Subscription};
use crate::base::lock::{Mutex, rank};
use crate::base::queue::queue;
use crate::base::wait::Waker;
use crate::media::track::{AudioParams, VideoParams};
use crate::media::unit::{AccessUnit, AudioFrame, MediaUnit};

/// A published stream, found through the registry.
#[derive(Debug)]
pub struct Stream {
    publication: Publication,
    epoch: u64,
    bell: Option<Bell>,
    state: Mutex<State, { rank::STREAM }>,
    video_bytes: AtomicU64,
    audio_bytes: AtomicU64,
}

#[derive(Debug)]
struct State {
    status: StreamStatus,
    end: Option<EndReason>,
    asked_to_end: Option<EndReason>,
    expected: (bool, bool),
    next_seq: u64,
    video: Option<Arc<VideoParams>>,
    audio: Option<Arc<AudioParams>>,
    newest_arrival: Option<Instant>,
    gop: GopCache,
    subscribers: Vec<Subscriber>,
    /// When somebody last asked for a picture of it.
    asked: Option<Instant>,
    audio_muted: bool,
    video_muted: bool,
    gaps: u64,
    reception: Option<Reception>,
    sound_offset_ns: Option<i64>,
}

/// What a protocol that can lose packets tells of its reception, since the publication began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// RTP packets that never came.
    pub lost_packets: u64,
    /// RTP packets that were asked for again (NACK).
    pub asked_again: u64,
}

/// What of a stream can be decoded at one moment, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The current group of pictures; `None` when nothing can be decoded before the next IDR.
    pub group: Option<GroupSpan>,
    /// What the next unit will be.
    pub next_seq: u64,
}

/// A group of pictures in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSpan {
    /// Its IDR.
    pub first_seq: u64,
    /// Its newest unit.
    pub newest_seq: u64,
    /// When that one arrived.
    pub newest_arrived: Instant,
}

/// A stream at one moment, for lists and statistics.
#[derive(Clone, Debug)]
pub struct StreamFacts {
    /// Where it stands.
    pub status: StreamStatus,
    /// Video parameters in force; `None` before the first unit.
    pub video: Option<Arc<VideoParams>>,
    /// Audio parameters in force.
    pub audio: Option<Arc<AudioParams>>,
    /// When the newest video unit reached us, whether it can be decoded or not; of a stream without video, the newest
    /// frame of sound.
    pub newest_arrival: Option<Instant>,
    /// Video units so far.
    pub units: u64,
    /// Units and bytes in the cache.
    pub gop_units: usize,
    /// Likewise.
    pub gop_bytes: usize,
    /// Payload bytes so far.
    pub video_bytes: u64,
    /// Likewise.
    pub audio_bytes: u64,
    /// There is a video track, or one is expected.
    pub has_video: bool,
    /// Likewise audio.
    pub has_audio: bool,
    /// Times that something was lost on the way in.
    pub gaps: u64,
    /// Consumers now.
    pub subscribers: usize,
    /// Those of them that somebody wished for: without services that follow every stream ([`Stream::follow`]).
    pub watchers: usize,
    /// When somebody last asked for a picture of it.
    pub asked: Option<Instant>,
    /// The publisher says that its microphone is off.
    pub audio_muted: bool,
    /// Likewise its camera.
    pub video_muted: bool,
    /// What was lost on the way in; `None` where the protocol does not tell.
    pub reception: Option<Reception>,
    /// Nanoseconds to add to time stamps of the sound, so that they are on the clock of the pictures: 0 where both have one, `None`
    /// while it is not known.
    pub sound_offset_ns: Option<i64>,
}

impl StreamFacts {
    /// The codec of the video as it comes ("H264"); empty before the first unit.
    #[must_use]
    pub fn video_codec(&self) -> &'static str {
        self.video.as_ref().map_or("", |params| params.codec.name())
    }

    /// Likewise of the audio ("opus").
    #[must_use]
    pub fn audio_codec(&self) -> &'static str {
        self.audio.as_ref().map_or("", |params| params.codec.name())
    }
}

impl Stream {
    pub(super) fn new(publication: Publication, epoch: u64, limits: GopLimits, bell: Option<Bell>) -> Self {
        let state = State {
            status: StreamStatus::Pending,
            end: None,
            asked_to_end: None,
            expected: (publication.has_video, publication.has_audio),
            next_seq: 0,
            video: None,
            audio: None,
            newest_arrival: None,
            gop: GopCache::new(limits),
            subscribers: Vec::new(),
            asked: None,
            audio_muted: false,
            video_muted: false,
            gaps: 0,
            reception: None,
            sound_offset_ns: publication.protocol.has_one_clock().then_some(0),
        };
        Self {
            publication,
            epoch,
            bell,
            state: Mutex::new(state),
            video_bytes: AtomicU64::new(0),
            audio_bytes: AtomicU64::new(0),
        }
    }

    /// What does not change.
    #[must_use]
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Which publication of its name this is: milliseconds since 1970 at its beginning, made unique. It rises with
    /// each publication, so two pictures with one epoch belong to one publication.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The stream as it stands.
    #[must_use]
    pub fn facts(&self) -> StreamFacts {
        let state = self.state.lock();
        StreamFacts {
            status: state.status,
            video: state.video.clone(),
            audio: state.audio.clone(),
            newest_arrival: state.newest_arrival,
            units: state.next_seq,
            gop_units: state.gop.len(),
            gop_bytes: state.gop.bytes(),
            video_bytes: self.video_bytes.load(Ordering::Relaxed),
            audio_bytes: self.audio_bytes.load(Ordering::Relaxed),
            has_video: state.expected.0 || state.video.is_some(),
            has_audio: state.expected.1 || state.audio.is_some(),
            gaps: state.gaps,
            subscribers: state.subscribers.len(),
            watchers: state.subscribers.iter().filter(|subscriber| subscriber.is_watcher()).count(),
            asked: state.asked,
            audio_muted: state.audio_muted,
            video_muted: state.video_muted,
            reception: state.reception,
            sound_offset_ns: state.sound_offset_ns,
        }
    }

    /// Why it ended; `None` while it lives.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.state.lock().end.clone()
    }

    /// The current group of pictures; empty when nothing can be decoded before the next IDR.
    #[must_use]
    pub fn gop(&self) -> Gop {
        self.state.lock().gop.copy()
    }

    /// The newest unit that can be decoded.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<AccessUnit>> {
        self.state.lock().gop.newest().cloned()
    }

    /// The unit from which on the stream can be decoded: the beginning of the current group of pictures.
    #[must_use]
    pub fn keyframe(&self) -> Option<Arc<AccessUnit>> {
        self.state.lock().gop.keyframe().cloned()
    }

    /// What can be decoded now, in numbers: cheap to ask.
    #[must_use]
    pub fn span(&self) -> Span {
        let state = self.state.lock();
        Span { group: state.gop.span(), next_seq: state.next_seq }
    }

    /// Number of units in the cache: how much there is to decode for the newest picture.
    #[must_use]
    pub fn gop_len(&self) -> usize {
        self.state.lock().gop.len()
    }

    /// Asks the publisher for a keyframe, if it can make one. Publishers limit how often they pass this on.
    pub fn request_keyframe(&self) {
        if let Some(bell) = self.bell.as_ref().filter(|bell| bell.makes_keyframes()) {
            bell.ring();
        }
    }

    /// Whether the publisher makes keyframes when asked; the others send them when they please.
    #[must_use]
    pub fn makes_keyframes(&self) -> bool {
        self.bell.as_ref().is_some_and(Bell::makes_keyframes)
    }

    /// Asks the publisher to end its publication, for instance because an operator wishes so. The first reason counts. It ends
    /// a moment later, on the publisher's own thread; one without a bell cannot be asked.
    pub fn ask_to_end(&self, reason: EndReason) {
        self.state.lock().asked_to_end.get_or_insert(reason);
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    pub(super) fn asked_to_end(&self) -> Option<EndReason> {
        self.state.lock().asked_to_end.clone()
    }

    pub(super) fn tell_reception(&self, reception: Reception) {
        self.state.lock().reception = Some(reception);
    }

    pub(super) fn tell_sound_offset(&self, nanos: i64) {
        self.state.lock().sound_offset_ns = Some(nanos);
    }

    pub(super) fn expect_tracks(&self, video: bool, audio: bool) {
        self.state.lock().expected = (video, audio);
    }

    /// Joins: the group of pictures so far, and a queue of `capacity` for everything after it. A consumer that lets its queue
    /// run full loses units up to the next keyframe. `waker` is used after each unit. On an ended stream the queue is closed.
    #[must_use]
    pub fn subscribe(&self, capacity: usize, waker: Option<Waker>) -> Subscription {
        self.join(capacity, waker, true)
    }

    /// As [`Stream::subscribe`], for a service that follows every stream: a source that is pulled for those who watch it is
    /// not held by such a consumer.
    #[must_use]
    pub fn follow(&self, capacity: usize, waker: Option<Waker>) -> Subscription {
        self.join(capacity, waker, false)
    }

    /// Notes that somebody asked for a picture of the stream: they may want another one soon.
    pub fn note_asked(&self, now: Instant) {
        self.state.lock().asked = Some(now);
    }

    fn join(&self, capacity: usize, waker: Option<Waker>, watches: bool) -> Subscription {
        let (offer, receiver) = queue(capacity, waker);
        let mut state = self.state.lock();
        let (backlog, backlog_audio) = (state.gop.copy(), state.gop.copy_audio());
        // Of a stream without video there is nothing to wait for.
        let waits = backlog.units.is_empty() && (state.expected.0 || state.video.is_some());
        let (subscriber, live) = Subscriber::pair(offer, receiver, waits, watches);
        if state.end.is_none() {
            state.subscribers.push(subscriber);
        }
        Subscription { backlog, backlog_audio, live }
    }

    /// Joins the sound alone, from now on. A consumer that lets its queue run full loses single frames.
    #[must_use]
    pub fn subscribe_audio(&self, capacity: usize, waker: Option<Waker>) -> Live {
        let (offer, receiver) = queue(capacity, waker);
        let (subscriber, live) = Subscriber::of_audio(offer, receiver);
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.subscribers.push(subscriber);
        }
        live
    }

    /// What the publisher says of its microphone and camera; `None` leaves as it is.
    pub fn set_muted(&self, audio: Option<bool>, video: Option<bool>) {
        let mut state = self.state.lock();
        state.audio_muted = audio.unwrap_or(state.audio_muted);
        state.video_muted = video.unwrap_or(state.video_muted);
    }

    pub(super) fn set_publishing(&self) {
        let mut state = self.state.lock();
        if state.status == StreamStatus::Pending {
            state.status = StreamStatus::Publishing;
        }
    }

    pub(super) fn set_audio_params(&self, params: Arc<AudioParams>) {
        self.state.lock().audio = Some(params);
    }

    pub(super) fn push_video(&self, mut unit: AccessUnit) {
        self.video_bytes.fetch_add(unit.data.len() as u64, Ordering::Relaxed);
        let mut state = self.state.lock();
        unit.seq = state.next_seq;
        state.next_seq += 1;
        state.newest_arrival = Some(unit.arrived);
        state.video = Some(unit.params.clone());
        let unit = Arc::new(unit);
        let decodable = state.gop.push(unit.clone());
        if decodable {
            let unit = MediaUnit::Video(unit);
            state.subscribers.retain_mut(|subscriber| subscriber.hand(&unit));
        } else {
            state.subscribers.iter_mut().for_each(Subscriber::wait_for_keyframe);
        }
        let ring = !decodable || state.gop.is_nearly_full();
        drop(state);
        if ring {
            self.request_keyframe();
        }
    }

    pub(super) fn push_audio(&self, frame: AudioFrame) {
        self.audio_bytes.fetch_add(frame.data.len() as u64, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.audio = Some(frame.params.clone());
        if state.video.is_none() {
            state.newest_arrival = Some(frame.arrived);
        }
        let frame = Arc::new(frame);
        state.gop.push_audio(frame.clone());
        // Without video there is no keyframe to wait for: a slow consumer then loses single frames.
        let waits = state.expected.0 || state.video.is_some();
        let frame = MediaUnit::Audio(frame);
        state
            .subscribers
            .retain_mut(|subscriber| subscriber.hand(&frame) && (waits || subscriber.catch_up()));
    }

    pub(super) fn mark_gap(&self) {
        let mut state = self.state.lock();
        state.gaps += 1;
        state.gop.mark_broken();
        state.subscribers.iter_mut().for_each(Subscriber::wait_for_keyframe);
    }

    pub(super) fn end(&self, reason: EndReason) {
        let mut state = self.state.lock();
        state.status = StreamStatus::Ended;
        state.end = Some(reason);
        state.gop.mark_broken();
        state.subscribers.clear();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::num::NonZeroU32;

    use bytes::Bytes;

    use super::*;
    use crate::base::clock::Clock;
    use crate::base::id::{MediaSessionId, StreamName};
    use crate::hub::Live;
    use crate::hub::{Registry, SourceProtocol};
    use crate::media::time::Timestamp;
    use crate::media::track::{AudioCodec, Colour, Rotation, VideoCodec};

    /// A publication for tests.
    pub(crate) fn publication(name: &str, session: &str) -> Publication {
        Publication {
            session_id: "c1".into(),
            has_audio: true,
            audio_codec: "opus".into(),
            ..Publication::new(
                StreamName::new(name).unwrap(),
                MediaSessionId::new(session).unwrap(),
                SourceProtocol::WebRtc,
                Clock::manual().wall(),
            )
        }
    }

    /// A registry for tests.
    pub(crate) fn registry() -> Registry {
        Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 100)
    }

    fn access_unit(key: bool, size_bytes: usize) -> AccessUnit {
        let params = VideoParams {
            codec: VideoCodec::H264 { sps: vec![], pps: vec![] },
            width: 16,
            height: 16,
            sample_aspect_ratio: (1, 1),
            colour: Colour::unsaid(16, 16),
            rotation: Rotation::None,
        };
        AccessUnit {
            seq: 0,
            arrived: Clock::manual().now(),
            pts: Timestamp::video(0),
            dts: Timestamp::video(0),
            key,
            disposable: false,
            bidirectional: false,
            hidden: false,
            params: Arc::new(params),
            data: Bytes::from(vec![0; size_bytes]),
        }
    }

    /// A unit of no content for tests of bookkeeping.
    pub(crate) fn unit(key: bool, size_bytes: usize) -> Arc<AccessUnit> {
        Arc::new(access_unit(key, size_bytes))
    }

    fn seqs(live: &Live) -> Vec<u64> {
        live.receiver()
            .try_iter()
            .map(|unit| match unit {
                MediaUnit::Video(unit) => unit.seq,
                MediaUnit::Audio(_) => u64::MAX,
            })
            .collect()
    }

    #[test]
    fn backlog_and_live_join_without_gap_or_repeat() {
        let registry = registry();
        let publisher = registry.publish(publication("a", "m"), None).unwrap();
        for key in [true, false, true, false] {
            publisher.push_video(access_unit(key, 1));
        }
        let subscription = publisher.stream().subscribe(8, None);
        publisher.push_video(access_unit(false, 1));
        let backlog: Vec<_> = subscription.backlog.units.iter().map(|unit| unit.seq).collect();
        assert_eq!((backlog, seqs(&subscription.live)), (vec![2, 3], vec![4]));
    }

    #[test]
    fn a_slow_subscriber_rejoins_at_a_keyframe_and_learns_what_it_missed() {
        let registry = registry();
        let publisher = registry.publish(publication("a", "m"), None).unwrap();
        publisher.push_video(access_unit(true, 1));
        let subscription = publisher.stream().subscribe(2, None);
        for _ in 0..4 {
            publisher.push_video(access_unit(false, 1));
        }
        assert_eq!(seqs(&subscription.live), [1, 2]);
        publisher.push_video(access_unit(false, 1));
        publisher.push_video(access_unit(true, 1));
        publisher.push_video(access_unit(false, 1));
        assert_eq!(seqs(&subscription.live), [6, 7]);
        assert_eq!(subscription.live.missed(), 3);
    }

    #[test]
    fn a_gap_empties_the_cache_and_rings_the_bell_until_an_idr_comes() {
        let registry = registry();
        let (bell, rung) = Bell::new(None);
        let publisher = registry.publish(publication("a", "m"), Some(bell)).unwrap();
        publisher.push_video(access_unit(true, 1));
        assert!(rung.try_recv().is_err());
        publisher.mark_gap();
        assert!(publisher.stream().newest().is_none());
        publisher.push_video(access_unit(false, 1));
        assert!(rung.try_recv().is_ok() && publisher.stream().gop().units.is_empty());
        publisher.push_video(access_unit(true, 1));
        assert_eq!(publisher.stream().newest().unwrap().seq, 2);
        assert!(rung.try_recv().is_err());
    }

    fn audio_frame() -> AudioFrame {
        let params = AudioParams {
            codec: AudioCodec::Opus,
            sample_rate: NonZeroU32::new(48_000).unwrap(),
            channels: 2,
        };
        AudioFrame {
            arrived: Clock::manual().now(),
            pts: Timestamp::video(0),
            params: Arc::new(params),
            data: Bytes::from_static(&[0]),
        }
    }

    #[test]
    fn whoever_joins_late_gets_the_sound_of_the_group_as_well() {
        let registry = registry();
        let publisher = registry.publish(publication("a", "m"), None).unwrap();
        publisher.push_audio(audio_frame());
        publisher.push_video(access_unit(true, 1));
        publisher.push_audio(audio_frame());
        let subscription = publisher.stream().subscribe(8, None);
        assert_eq!(subscription.backlog_audio.len(), 1, "what came before the keyframe is old");
        let kinds: Vec<_> =
            subscription.backlog_units().map(|unit| matches!(unit, MediaUnit::Video(_))).collect();
        assert_eq!(kinds, [true, false]);
    }

    #[test]
    fn a_stream_of_sound_alone_is_heard_at_once_and_after_an_overrun() {
        let registry = registry();
        let publisher = registry.publish(publication("a", "m"), None).unwrap();
        publisher.expect_tracks(false, true);
        let subscription = publisher.stream().subscribe(2, None);
        for _ in 0..3 {
            publisher.push_audio(audio_frame());
        }
        assert_eq!(seqs(&subscription.live).len(), 2);
        publisher.push_audio(audio_frame());
        assert_eq!((seqs(&subscription.live).len(), subscription.live.missed()), (1, 1));
        assert!(!publisher.stream().facts().has_video);
    }

    #[test]
    fn a_publisher_hears_that_it_shall_end_and_only_some_are_asked_for_keyframes() {
        let registry = registry();
        let (bell, rung) = Bell::without_keyframes(None);
        let publisher = registry.publish(publication("a", "m"), Some(bell)).unwrap();
        publisher.stream().request_keyframe();
        assert!(rung.try_recv().is_err() && publisher.asked_to_end().is_none());
        publisher.stream().ask_to_end(EndReason::Terminated);
        publisher.stream().ask_to_end(EndReason::Shutdown);
        assert!(rung.try_recv().is_ok());
        assert_eq!(publisher.asked_to_end(), Some(EndReason::Terminated));
    }

    #[test]
    fn the_end_closes_live_queues_and_keeps_its_reason() {
        let registry = registry();
        let publisher = registry.publish(publication("a", "m"), None).unwrap();
        let stream = publisher.stream().clone();
        let subscription = stream.subscribe(8, None);
        publisher.end(EndReason::RtpActivity);
        assert!(subscription.live.receiver().recv().is_err());
        assert_eq!(stream.ended().unwrap().to_string(), "Failed by RTP activity");
        assert!(stream.subscribe(8, None).live.receiver().recv().is_err(), "nobody joins an ended stream");
    }

    #[test]
    fn a_service_that_follows_every_stream_is_no_watcher() {
        let registry = registry();
        let publisher = registry.publish(publication("a", "m"), None).unwrap();
        let stream = publisher.stream();
        let _following = stream.follow(8, None);
        let watching = stream.subscribe(8, None);
        assert_eq!((stream.facts().subscribers, stream.facts().watchers), (2, 1));
        drop(watching);
        publisher.push_video(access_unit(true, 10));
        assert_eq!(
            (stream.facts().subscribers, stream.facts().watchers),
            (1, 0),
            "gone when a unit finds it gone"
        );
    }
}
