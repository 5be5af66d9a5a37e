//! A playback by RTSP: from the question for a stream to the last packet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;

use super::Inner;
use super::datagrams::Datagrams;
use crate::base::id::{MediaSessionId, random_id};
use crate::base::wait::Waker;
use crate::hub::{EndReason, Live, Stream, Subscription, ViewerPlace, Viewing};
use crate::media::unit::MediaUnit;
use crate::proto::rtsp::message::StatusCode;
use crate::proto::rtsp::sdp::{Description, Payload};
use crate::proto::rtsp::sender::MediaSender;
use crate::proto::rtsp::server::{Answer, FirstPacket, Refusal, Server, Way};

/// Units that may wait for a player: some seconds of pictures and sound. A player for which they are too many goes on with
/// the next keyframe.
const LIVE_UNITS_MAX: usize = 512;
/// Bytes waiting for the socket from which on units are left in the queue.
const OUT_BYTES_PAUSE: usize = 256 * 1024;
/// Time in which sound that is promised may come after the first picture before a stream is described without it.
const SOUND_LIMIT: Duration = Duration::from_secs(1);
/// From one look at a stream that has just begun to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of datagrams that leave at once: what a player's socket holds by default (212 992 on Linux) with room for others.
const BURST_BYTES: u64 = 96 * 1024;
/// How fast the allowance for datagrams grows: a player that joins gets seconds of pictures at once, which its socket could
/// not hold.
const BYTES_PER_MS: u64 = 4096;

/// A question for a stream that has no pictures yet.
#[derive(Debug)]
pub(super) struct Finding {
    stream: Arc<Stream>,
    deadline: Instant,
    sound_deadline: Option<Instant>,
    next_look: Instant,
}

impl Finding {
    /// Begins to look for a stream; or the answer, where it is known at once.
    pub(super) fn begin(service: &Inner, name: &str, now: Instant) -> Result<Self, Refusal> {
        let stream = service.registry.find(name).ok_or(StatusCode::NotFound)?;
        let deadline = now + service.settings.describe_limit;
        Ok(Self { stream, deadline, sound_deadline: None, next_look: now })
    }

    /// When to look again.
    pub(super) fn looks_at(&self) -> Instant {
        self.next_look
    }

    /// The answer, once there is one.
    pub(super) fn look(&mut self, now: Instant) -> Option<Answer> {
        self.next_look = now + LOOK_INTERVAL;
        let facts = self.stream.facts();
        if self.stream.ended().is_some() {
            return Some(Answer::Refused(StatusCode::NotFound.into()));
        }
        let is_over = now >= self.deadline;
        if facts.has_video && facts.video.is_none() || facts.video.is_none() && facts.audio.is_none() {
            let reason = Refusal::new(StatusCode::ServiceUnavailable, "The stream has no media yet");
            return is_over.then_some(Answer::Refused(reason));
        }
        let sound_deadline = *self.sound_deadline.get_or_insert(now + SOUND_LIMIT);
        if facts.has_audio && facts.audio.is_none() && now < sound_deadline.min(self.deadline) {
            return None;
        }
        let description = Description::of_stream(facts.video.as_deref(), facts.audio.as_deref());
        Some(Answer::Found(description, self.stream.publication().name.to_string()))
    }
}

/// A stream on its way to a player.
#[derive(Debug)]
pub(super) struct Playing {
    stream: Arc<Stream>,
    live: Live,
    /// The group of pictures at the moment of joining, as far as it has not left yet.
    backlog: VecDeque<MediaUnit>,
    sender: MediaSender,
    missed: u64,
    place: Option<ViewerPlace>,
    allowance: Allowance,
}

/// What may leave by datagram now.
#[derive(Debug)]
struct Allowance {
    bytes: u64,
    at: Instant,
    is_limited: bool,
}

impl Allowance {
    fn refill(&mut self, now: Instant) {
        let grown = now.saturating_duration_since(self.at).as_millis().min(1000) as u64;
        if grown > 0 {
            self.bytes = (self.bytes + grown * BYTES_PER_MS).min(BURST_BYTES);
            self.at = now;
        }
    }
}

/// How a round of sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// There is nothing to send, or no room for it.
    Waits,
    /// Datagrams go on at this moment.
    Until(Instant),
    /// The stream is over.
    Ended,
}

impl Playing {
    /// Joins the stream of the session.
    pub(super) fn begin(
        service: &Inner,
        server: &Server,
        session_id: String,
        waker: &Waker,
    ) -> Result<(Self, Vec<FirstPacket>), Refusal> {
        let (Some(name), Some(description)) = (server.name(), server.description()) else {
            return Err(StatusCode::SessionNotFound.into());
        };
        let stream = service.registry.find(name).ok_or(StatusCode::NotFound)?;
        let facts = stream.facts();
        let now_is = Description::of_stream(facts.video.as_deref(), facts.audio.as_deref());
        if !fits(description, &now_is) {
            let reason = "The stream has changed, it must be described again";
            return Err(Refusal::new(StatusCode::NotFound, reason));
        }
        let Subscription { backlog, backlog_audio, live } = {
            let mut joined = stream.subscribe(LIVE_UNITS_MAX, Some(waker.clone()));
            if joined.backlog.units.is_empty() {
                joined.backlog_audio.clear();
            }
            joined
        };
        let (now, wall) = (service.clock.now(), service.clock.wall());
        let ways = server.ways();
        let is_set = |track: usize| ways.get(track).is_some_and(Option::is_some);
        let sender = MediaSender::new(description, is_set, &mut rand::rng(), now, wall);
        let first = sender.first_packets(
            backlog.units.first().map(AsRef::as_ref),
            backlog_audio
                .iter()
                .find(|frame| backlog.units.first().is_some_and(|unit| frame.arrived >= unit.arrived))
                .map(AsRef::as_ref),
        );
        let joined = Subscription { backlog, backlog_audio, live };
        let backlog = joined.backlog_units().collect();
        let is_limited = ways.iter().flatten().any(|way| matches!(way, Way::Datagrams(..)));
        let place = enter(service, &stream, description, session_id, is_limited, waker);
        tracing::info!("{name} is played by RTSP");
        let allowance = Allowance { bytes: BURST_BYTES, at: now, is_limited };
        let live = joined.live;
        Ok((Self { stream, live, backlog, sender, missed: 0, place, allowance }, first))
    }

    /// Why somebody wants it to end, if anybody does.
    pub(super) fn asked_to_end(&self) -> Option<EndReason> {
        self.place.as_ref().and_then(|place| place.viewer().asked_to_end())
    }

    /// Sends what there is, as far as there is room.
    pub(super) fn pump(&mut self, now: Instant, server: &mut Server, datagrams: &Datagrams) -> Pumped {
        self.allowance.refill(now);
        while server.out().len() < OUT_BYTES_PAUSE {
            if self.allowance.is_limited && self.allowance.bytes == 0 {
                return Pumped::Until(now + Duration::from_millis(2));
            }
            let unit = match self.backlog.pop_front() {
                Some(unit) => unit,
                None => match self.live.receiver().try_recv() {
                    Ok(unit) => unit,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Pumped::Ended,
                },
            };
            let mut sent = 0;
            let mut emit = |track: usize, is_rtcp: bool, packet: &[u8]| {
                if let Some(Way::Datagrams(..)) = server.way(track) {
                    datagrams.send(track, is_rtcp, packet);
                    sent += packet.len() as u64;
                } else {
                    // Room was made sure of above; the largest unit fits behind it.
                    let _ = server.send(track, is_rtcp, packet);
                }
            };
            self.sender.send(now, &unit, &mut emit);
            self.allowance.bytes = self.allowance.bytes.saturating_sub(sent);
        }
        let missed = self.live.missed();
        if missed > self.missed {
            let name = &self.stream.publication().name;
            tracing::debug!("a player of {name} is slow: {} units left out", missed - self.missed);
            self.missed = missed;
        }
        Pumped::Waits
    }

    /// Whether units wait to be sent.
    pub(super) fn has_more(&self) -> bool {
        !self.backlog.is_empty() || !self.live.receiver().is_empty()
    }

    /// Says goodbye.
    pub(super) fn finish(&mut self, now: Instant, server: &mut Server, datagrams: &Datagrams) {
        self.sender.finish(now, &mut |track, is_rtcp, packet| {
            if !server.send(track, is_rtcp, packet) {
                datagrams.send(track, is_rtcp, packet);
            }
        });
    }
}

/// Whether a player that knows `described` can play what the stream is now.
fn fits(described: &Description, now: &Description) -> bool {
    let kind = |payload: &Payload| match payload {
        // Parameter sets travel with the pictures too.
        Payload::H264 { .. } => Payload::H264 { parameter_sets: Vec::new() },
        other => other.clone(),
    };
    described.tracks.iter().all(|track| {
        now.tracks
            .iter()
            .any(|other| kind(&other.payload) == kind(&track.payload) && other.clock_rate == track.clock_rate)
    })
}

/// A place in the list of who plays what. Its session is ours, so that nobody else has it.
fn enter(
    service: &Inner,
    stream: &Arc<Stream>,
    description: &Description,
    session_id: String,
    by_datagram: bool,
    waker: &Waker,
) -> Option<ViewerPlace> {
    let codec = |is_video: bool| {
        let mut tracks = description.tracks.iter();
        let track = tracks.find(|track| track.is_video() == is_video);
        track.map_or_else(String::new, |track| track.codec_name().to_owned())
    };
    let viewing = Viewing {
        name: stream.publication().name.clone(),
        media_session_id: MediaSessionId::new(&random_id()).ok()?,
        app_key: stream.publication().app_key.clone(),
        session_id,
        created: service.clock.wall(),
        media_provider: "RTSP",
        transport: if by_datagram { "UDP" } else { "TCP" },
        video_codec: codec(true),
        audio_codec: codec(false),
        sdp: String::new(),
        size: [0; 2],
        bitrates_kbps: [0; 3],
        custom: serde_json::Value::Null,
    };
    // What its publisher's page says does not concern a player that is no page: the queue of notices is let go.
    let (place, _notices) =
        service.registry.viewers().enter(viewing, stream.clone(), Some(waker.clone())).ok()?;
    place.viewer().set_playing();
    Some(place)
}
