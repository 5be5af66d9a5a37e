//! The loop of a viewer's thread.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use super::counted::Counted;
use super::drive::{COUNT_INTERVAL, READ_BATCH, reason_of};
use super::ending::{Ending, ViewEnd};
use super::feed::{Feed, Verdict};
use super::play::Command;
use super::run::Run;
use super::ways::Ways;
use crate::base::clock::Clock;
use crate::base::queue::Offer;
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};
use crate::edge::ports::{MediaSocket, RECEIVE_BYTES};
use crate::hub::{EndReason, Live, Notice, Stream, ViewerPlace};
use crate::media::track::AudioCodec;
use crate::media::unit::{AccessUnit, AudioFrame, MediaUnit};
use crate::proto::peer::{Output, Peer, PeerEvent};
use crate::proto::signal::Event;
use crate::proto::signal::message::{Bandwidths, SharedJson};
use crate::services::audio::Transcoders;
use crate::services::transcode::{Form, Rendition, Renditions, TranscodeError};
use crate::services::vod::VodKind;

/// Units that may wait for one viewer: three seconds of pictures and sound. One that falls behind so far goes on with the next
/// keyframe.
const UNITS_MAX: usize = 256;
/// Frames of sound made for one viewer that may wait: a second.
const SOUND_MAX: usize = 64;
/// Units taken before the socket is looked at.
const UNIT_BATCH: usize = 64;
/// Bytes of a group of pictures that are sent to somebody who joins; of a larger one the next keyframe is waited for.
const BACKLOG_BYTES_MAX: usize = 4 << 20;
/// A group so short is sent rather than a keyframe asked for, which would cost the publisher and everybody who watches more.
const SHORT_BACKLOG_UNITS: usize = 15;
/// A viewer that lost the thread of a stream whose publisher makes no keyframes gets the group of pictures again, but not
/// sooner than this after the last time.
const REPLAY_PAUSE: Duration = Duration::from_secs(2);

/// What a viewer's thread owns. It ends when the peer or the stream does, when it is told to, or when the server stops.
pub(super) struct Watch {
    media: MediaSocket,
    ways: Ways,
    waiter: Waiter,
    peer: Peer,
    run: Run,
    live: Option<Live>,
    missed: u64,
    feed: Feed,
    replayed: Option<Instant>,
    forms: Forms,
    sound: Sound,
    making: Making,
    size: Option<(u32, u32)>,
    ending: Ending,
    events: Offer<Event>,
    counted: Counted,
    video_bytes: u64,
}

/// In which form a viewer gets the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forms {
    /// It turns pictures as the stream says.
    pub(super) turns: bool,
    /// The codec of its sound, by the name of status messages; `None` without.
    pub(super) audio: Option<&'static str>,
}

/// What is made anew for viewers, and what of it this one watches.
pub(super) struct Making {
    /// Sound in another codec.
    pub(super) transcoders: Arc<Transcoders>,
    /// Pictures in another form.
    pub(super) renditions: Renditions,
    /// The form in which this viewer gets its pictures; `None`: as they are published.
    pub(super) rendition: Option<Rendition>,
}

/// Where a viewer's sound comes from.
enum Sound {
    /// From the stream, as it is.
    Stream,
    /// Made of the stream's.
    Made(Receiver<Arc<AudioFrame>>),
    /// It cannot be made.
    Silent,
}

/// Whether a player goes on.
enum Next {
    At(Instant),
    Over(ViewEnd),
}

impl Watch {
    pub(super) fn new(
        media: MediaSocket,
        waiter: Waiter,
        peer: Peer,
        forms: Forms,
        ending: Ending,
        events: Offer<Event>,
        making: Making,
    ) -> Self {
        let metrics = ending.metrics.clone();
        let name = ending.place.as_ref().map(|place| place.viewer().viewing().name.to_string());
        Self {
            media,
            ways: Ways::default(),
            waiter,
            peer,
            run: Run::default(),
            live: None,
            missed: 0,
            feed: Feed::default(),
            replayed: None,
            forms,
            sound: Sound::Stream,
            making,
            size: None,
            ending,
            events,
            counted: Counted::new(metrics, name.unwrap_or_default()),
            video_bytes: 0,
        }
    }

    pub(super) fn run(
        mut self,
        commands: &Receiver<Command>,
        notices: &Receiver<Notice>,
        stop: &StopToken,
        clock: &Clock,
    ) {
        let reason = self.drive(commands, notices, stop, clock);
        self.peer.close(clock.now());
        // Its goodbye, as far as one datagram does.
        let _ = self.drain(clock.now());
        self.counted.count(&self.peer);
        let Self { media, mut ending, .. } = self;
        ending.reason = reason;
        // In this order: the port, then the place, then the client's session.
        drop(media);
        drop(ending);
    }

    fn drive(
        &mut self,
        commands: &Receiver<Command>,
        notices: &Receiver<Notice>,
        stop: &StopToken,
        clock: &Clock,
    ) -> ViewEnd {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut count_at = clock.now() + COUNT_INTERVAL;
        loop {
            let deadline = match self.drain(clock.now()) {
                Next::At(deadline) => deadline.min(count_at),
                Next::Over(reason) => return reason,
            };
            let now = clock.now();
            // Units that did not fit into a round are taken in the next one, after the socket.
            let is_behind = self.live.as_ref().is_some_and(|live| !live.receiver().is_empty());
            let deadline = if is_behind { now } else { deadline };
            let socket = (self.media.socket().as_fd(), Interest::Read);
            let ready = match self.waiter.wait_until(&[socket], now, Some(deadline)) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!("cannot wait for media: {error}");
                    return EndReason::Internal.into();
                }
            };
            if ready.readable != 0
                && let Some(reason) = self.read(clock, &mut buffer)
            {
                return reason;
            }
            if ready.woken
                && let Some(reason) = self.hear(commands, notices, stop)
            {
                return reason;
            }
            let now = clock.now();
            if let Some(reason) = self.feed(now) {
                return reason;
            }
            if now >= count_at {
                count_at = now + COUNT_INTERVAL;
                if let Some(reason) = self.count() {
                    return reason;
                }
            }
            self.peer.handle_timeout(now);
        }
    }

    fn place(&self) -> Option<&ViewerPlace> {
        self.ending.place.as_ref()
    }

    /// Takes what has come; returns a reason when it is over.
    fn read(&mut self, clock: &Clock, buffer: &mut [u8]) -> Option<ViewEnd> {
        for _ in 0..READ_BATCH {
            match self.media.receive(buffer) {
                Ok(received) => {
                    self.ways.note(received.from, received.to);
                    for datagram in received.datagrams {
                        self.peer.handle_datagram(clock.now(), received.from, datagram);
                    }
                    if let Next::Over(reason) = self.drain(clock.now()) {
                        return Some(reason);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What the network says about something that we sent; reading it takes it away.
                Err(error) => tracing::debug!("media socket: {error}"),
            }
        }
        None
    }

    /// Takes what others say; returns a reason when it is over.
    fn hear(
        &mut self,
        commands: &Receiver<Command>,
        notices: &Receiver<Notice>,
        stop: &StopToken,
    ) -> Option<ViewEnd> {
        match commands.try_recv() {
            Ok(Command::Stop(reason)) => return Some(reason),
            // The owner is gone without a word: its thread has panicked.
            Err(TryRecvError::Disconnected) => return Some(EndReason::SessionDisconnect.into()),
            Err(TryRecvError::Empty) => {}
        }
        if stop.is_set() {
            return Some(EndReason::Shutdown.into());
        }
        let place = self.ending.place.as_ref()?;
        if let Some(reason) = place.viewer().asked_to_end() {
            return Some(reason.into());
        }
        let media_session_id = &place.viewer().viewing().media_session_id;
        for notice in notices.try_iter() {
            let media_session_id = media_session_id.clone();
            match notice {
                Notice::Muted { audio, video } => {
                    // Full: the connection sees it by the count of refused events, and closes.
                    let _ = self.events.offer(Event::Muted { media_session_id, audio, video });
                }
                Notice::Data(payload) => {
                    let payload = SharedJson(payload);
                    tell_if_room(&self.events, Event::Data { media_session_id, payload });
                }
            }
        }
        None
    }

    /// Joins the stream: media transport is up. Returns a reason when it is over.
    fn join(&mut self, now: Instant) -> Option<ViewEnd> {
        let place = self.place()?;
        place.viewer().set_playing();
        let viewing = place.viewer().viewing();
        let media_session_id = viewing.media_session_id.clone();
        if let Some(remote) = self.peer.stats().remote {
            tracing::info!("{} is sent to {remote}", viewing.name);
        }
        let _ = self.events.offer(Event::Up { media_session_id });
        let stream = place.viewer().stream().clone();
        self.peer.set_sound_offset_ns(stream.facts().sound_offset_ns);
        self.join_pictures(now)
    }

    /// Where its pictures come from: the stream, or what is made of it.
    fn source(&self) -> Option<Arc<Stream>> {
        let made = self.making.rendition.as_ref().map(|rendition| rendition.stream().clone());
        made.or_else(|| self.place().map(|place| place.viewer().stream().clone()))
    }

    /// Takes units from its source from now on, beginning with a keyframe. Returns a reason when it is over.
    fn join_pictures(&mut self, now: Instant) -> Option<ViewEnd> {
        let stream = self.source()?;
        let waker = self.waiter.waker();
        let subscription = stream.subscribe(UNITS_MAX, Some(waker));
        self.live = Some(subscription.live);
        let group = subscription.backlog.units;
        let bytes: usize = group.iter().map(|unit| unit.data.len()).sum();
        let is_short = group.len() <= SHORT_BACKLOG_UNITS && bytes <= BACKLOG_BYTES_MAX / 16;
        let is_wanted = is_short || !stream.makes_keyframes();
        if !group.is_empty() && is_wanted && bytes <= BACKLOG_BYTES_MAX {
            return self.send_group(now, &group);
        }
        stream.request_keyframe();
        None
    }

    /// Sends a group of pictures that leads to the present; returns a reason when it is over.
    fn send_group(&mut self, now: Instant, group: &[Arc<AccessUnit>]) -> Option<ViewEnd> {
        match self.feed.begin(group) {
            Some(units) => {
                self.send_backlog(now, &units);
                None
            }
            None => self.watch_anew(now),
        }
    }

    fn send_backlog(&mut self, now: Instant, units: &[&AccessUnit]) {
        // The last one is of now, and those behind it keep its time.
        self.peer.send_backlog(now, units.iter().copied());
        if let Some(last) = units.last() {
            self.note_size(last);
        }
    }

    /// The size of the pictures as the viewer sees them, when it is a new one.
    fn note_size(&mut self, unit: &AccessUnit) {
        let params = &unit.params;
        let size = if self.forms.turns { params.display_size() } else { (params.width, params.height) };
        if self.size == Some(size) {
            return;
        }
        self.size = Some(size);
        if let Some(place) = self.place() {
            let media_session_id = place.viewer().viewing().media_session_id.clone();
            let _ = self.events.offer(Event::Resized { media_session_id, size });
        }
    }

    /// Sends what the stream has; returns a reason when it is over.
    fn feed(&mut self, now: Instant) -> Option<ViewEnd> {
        for _ in 0..UNIT_BATCH {
            let live = self.live.as_ref()?;
            match live.receiver().try_recv() {
                Ok(MediaUnit::Video(unit)) => match self.feed.judge(&unit) {
                    Verdict::Send => {
                        self.peer.send_video(now, &unit);
                        self.note_size(&unit);
                    }
                    Verdict::Skip => {}
                    Verdict::Missing => {
                        if let Some(reason) = self.want_keyframe(now) {
                            return Some(reason);
                        }
                    }
                    Verdict::Reordered => {
                        if let Some(reason) = self.watch_anew(now) {
                            return Some(reason);
                        }
                    }
                },
                Ok(MediaUnit::Audio(frame)) => self.feed_audio(now, &frame),
                Err(TryRecvError::Empty) => {
                    let missed = live.missed();
                    // The queue ran over, or the publisher lost something: only a keyframe helps.
                    if missed > std::mem::replace(&mut self.missed, missed)
                        && let Some(reason) = self.want_keyframe(now)
                    {
                        return Some(reason);
                    }
                    break;
                }
                Err(TryRecvError::Disconnected) => return Some(self.stream_ended()),
            }
        }
        if let Sound::Made(made) = &self.sound {
            for frame in made.try_iter().take(UNIT_BATCH) {
                self.peer.send_audio(now, &frame);
            }
        }
        match self.drain(now) {
            Next::At(_) => None,
            Next::Over(reason) => Some(reason),
        }
    }

    /// Goes over to pictures that are made anew, when those of the stream can no longer be sent; returns a reason when there are
    /// none.
    fn watch_anew(&mut self, now: Instant) -> Option<ViewEnd> {
        let stream = self.place()?.viewer().stream().clone();
        match self.making.renditions.watch(&stream, Form::default()) {
            Ok(rendition) => {
                tracing::info!("{} is made anew for a viewer", stream.publication().name);
                self.making.rendition = Some(rendition);
                self.feed = Feed::default();
                self.missed = 0;
                self.join_pictures(now)
            }
            Err(TranscodeError::Disabled) => Some(ViewEnd::Transcoding),
            Err(TranscodeError::Busy | TranscodeError::System(_)) => Some(ViewEnd::NoTranscoder),
        }
    }

    /// Sound in the viewer's codec is sent as it is. At the first frame in another one the viewer joins those who get it made.
    fn feed_audio(&mut self, now: Instant, frame: &AudioFrame) {
        let Some(wanted) = self.forms.audio else { return };
        if frame.params.codec.name() == wanted {
            self.peer.send_audio(now, frame);
        } else if matches!(self.sound, Sound::Stream)
            && let Some(place) = self.ending.place.as_ref()
        {
            let (stream, waker) = (place.viewer().stream(), self.waiter.waker());
            self.sound = match self.making.transcoders.listen(stream, SOUND_MAX, Some(waker)) {
                Ok(made) if wanted == AudioCodec::Opus.name() => Sound::Made(made),
                Ok(_) => Sound::Silent,
                Err(error) => {
                    tracing::warn!("no sound of {} for a viewer: {error}", stream.publication().name);
                    Sound::Silent
                }
            };
        }
    }

    /// Gets the viewer a keyframe: a new one of a publisher that makes them, else the last one with all that followed. Returns a
    /// reason when it is over.
    fn want_keyframe(&mut self, now: Instant) -> Option<ViewEnd> {
        let stream = self.source()?;
        if stream.makes_keyframes() {
            stream.request_keyframe();
            return None;
        }
        let is_recent = |at: Instant| now.saturating_duration_since(at) < REPLAY_PAUSE;
        if self.replayed.is_some_and(is_recent) || self.peer.stats().sender.is_short {
            return None;
        }
        let group = stream.gop().units;
        let bytes: usize = group.iter().map(|unit| unit.data.len()).sum();
        if !group.is_empty() && bytes <= BACKLOG_BYTES_MAX {
            self.replayed = Some(now);
            return self.send_group(now, &group);
        }
        None
    }

    /// Once a second: counts, the rate for the client, and whether the stream is still there.
    fn count(&mut self) -> Option<ViewEnd> {
        self.counted.count(&self.peer);
        let place = self.ending.place.as_ref()?;
        if self.live.is_some() {
            let bytes = self.peer.stats().sender.video_bytes;
            let bps =
                (bytes - std::mem::replace(&mut self.video_bytes, bytes)) * 8 / COUNT_INTERVAL.as_secs();
            let media_session_id = place.viewer().viewing().media_session_id.clone();
            tell_if_room(&self.events, Event::VideoRate { media_session_id, bps });
        }
        let place = self.ending.place.as_ref()?;
        self.peer.set_sound_offset_ns(place.viewer().stream().facts().sound_offset_ns);
        // A stream may end before the viewer has come up and joined it.
        place.viewer().stream().ended().map(|_| self.stream_ended())
    }

    /// Why a player ends whose stream is over. A file of its own ends as the viewer's own doing does, or with what is wrong
    /// with it (protocol document, section 6); everything else is a publisher that stopped.
    fn stream_ended(&self) -> ViewEnd {
        let stream = self.ending.place.as_ref().map(|place| place.viewer().stream());
        if self.making.rendition.is_some() && stream.is_some_and(|stream| stream.ended().is_none()) {
            return ViewEnd::NoTranscoder;
        }
        match stream.filter(|stream| VodKind::is_personal(stream)).and_then(|stream| stream.ended()) {
            Some(reason @ (EndReason::EndOfFile | EndReason::FileFailed)) => reason.into(),
            _ => ViewEnd::PublisherStopped,
        }
    }

    /// Does what the peer says until it has nothing more to say.
    fn drain(&mut self, now: Instant) -> Next {
        loop {
            let mut wishes = Wishes::default();
            let next = self.empty(&mut wishes);
            let over = if wishes.joins {
                self.join(now)
            } else if wishes.keyframe {
                self.want_keyframe(now)
            } else {
                return next;
            };
            if let Some(reason) = over {
                return Next::Over(reason);
            }
        }
    }

    /// Empties the peer: datagrams out, events to the client's session.
    fn empty(&mut self, wishes: &mut Wishes) -> Next {
        let next = loop {
            match self.peer.poll_output() {
                Output::Transmit { to, bytes } => {
                    let from = self.ways.to(to);
                    self.run.add(&self.media, &bytes, to, from);
                }
                Output::KeyframeWanted => wishes.keyframe = true,
                Output::NotEnoughBandwidth { stream_bps, available_bps } => {
                    if let Some(place) = self.place() {
                        let media_session_id = place.viewer().viewing().media_session_id.clone();
                        let rates = Bandwidths { stream_bps, available_bps };
                        tell_if_room(&self.events, Event::NotEnoughBandwidth { media_session_id, rates });
                    }
                }
                Output::Event(PeerEvent::Connected) => wishes.joins = true,
                Output::Event(PeerEvent::Closed(cause)) => break Next::Over(reason_of(cause).into()),
                // A viewer's peer receives nothing.
                Output::Video(_) | Output::Audio(_) | Output::Gap => {}
                Output::Timeout(at) => break Next::At(at),
            }
        };
        self.run.send(&self.media);
        next
    }
}

/// What the peer asked for while it was emptied.
#[derive(Debug, Default)]
struct Wishes {
    joins: bool,
    keyframe: bool,
}

/// Tells the client's session something that it can do without. What it cannot do without must find room.
pub(super) fn tell_if_room(events: &Offer<Event>, event: Event) {
    if !events.is_half_full() {
        let _ = events.offer(event);
    }
}
