//! One track of a [`Receiver`](super::receiver::Receiver): its source, reordering and payload format.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::depack::{Depacketized, VideoDepacketizer};
use super::header::RtpPacket;
use super::jitter::{Inserted, JitterBuffer, JitterCounts};
use super::receiver::{ReceiverOutput, TrackKind, TrackSettings};
use super::source::SourceStats;
use super::sync::TrackClock;
use super::{opus, orientation};
use crate::media::time::{Unwrap32, VIDEO_TIMESCALE};
use crate::media::track::AudioParams;

/// Most sources that one track may have had: even an authenticated sender cannot make more state than this.
const SOURCES_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Track {
    pub(super) settings: TrackSettings,
    pub(super) media: Media,
    pub(super) source: Option<Source>,
    pub(super) last_rtp: Option<Instant>,
    pub(super) packets: u64,
    /// Every source that the track had.
    known: Vec<u32>,
    /// Counts of sources that were replaced.
    past: JitterCounts,
    /// Added to RTP times, so that time goes on where a source replaced another.
    time_offset: u32,
    last_time: u32,
    dropped_seen: u64,
    /// How its time stands to the sender's wall clock.
    pub(super) clock: TrackClock,
}

#[derive(Debug)]
pub(super) enum Media {
    Video(Box<dyn VideoDepacketizer>),
    Audio { params: Arc<AudioParams>, time: Unwrap32 },
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) ssrc: u32,
    pub(super) jitter: JitterBuffer,
    pub(super) stats: SourceStats,
}

/// Where a track puts what it made.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) video: VecDeque<Depacketized>,
    pub(super) outputs: VecDeque<ReceiverOutput>,
}

impl Track {
    pub(super) fn new(settings: TrackSettings, pixels_max: u64) -> Self {
        let media = match &settings.kind {
            TrackKind::Video { codec } => Media::Video(codec.depacketizer(pixels_max)),
            TrackKind::Audio { codec, clock_rate, channels } => {
                let (codec, sample_rate) = (codec.clone(), *clock_rate);
                let params = Arc::new(AudioParams { codec, sample_rate, channels: *channels });
                Media::Audio { params, time: Unwrap32::default() }
            }
        };
        let clock = TrackClock::new(clock_rate(&media));
        Self {
            settings,
            media,
            source: None,
            last_rtp: None,
            packets: 0,
            known: Vec::new(),
            past: JitterCounts::default(),
            time_offset: 0,
            last_time: 0,
            dropped_seen: 0,
            clock,
        }
    }

    /// Takes a report of its current source.
    pub(super) fn on_sender_report(&mut self, now: Instant, ntp: u64, rtp_time: u32) {
        let Some(source) = &mut self.source else { return };
        source.stats.on_sender_report(now, ntp);
        self.clock.on_report(ntp, rtp_time.wrapping_add(self.time_offset));
    }

    pub(super) fn is_current(&self, ssrc: u32) -> bool {
        self.source.as_ref().is_some_and(|source| source.ssrc == ssrc)
    }

    /// A source that was replaced does not come back, or two would replace each other for ever.
    pub(super) fn may_bind(&self, ssrc: u32) -> bool {
        self.known.len() < SOURCES_MAX && !self.known.contains(&ssrc)
    }

    pub(super) fn counts(&self) -> JitterCounts {
        match &self.source {
            Some(source) => self.past + source.jitter.counts(),
            None => self.past,
        }
    }

    /// Whether a picture was dropped since the last call and only a keyframe helps.
    pub(super) fn needs_keyframe(&mut self) -> bool {
        let Media::Video(depacketizer) = &self.media else { return false };
        let chain = depacketizer.chain();
        let dropped = chain.counts().dropped;
        let is_new = dropped > std::mem::replace(&mut self.dropped_seen, dropped);
        is_new && chain.waits_for_keyframe()
    }

    pub(super) fn take(
        &mut self,
        now: Instant,
        packet: &[u8],
        header: &RtpPacket<'_>,
        hold_back: Duration,
        made: &mut Made,
    ) {
        if !self.is_current(header.ssrc) {
            self.bind(now, header, hold_back, made);
        }
        self.packets += 1;
        self.last_rtp = Some(now);
        let Some(source) = &mut self.source else { return };
        source.stats.on_packet(now, header.sequence, header.timestamp);
        if source.jitter.insert(now, header.sequence, packet) == Inserted::Next {
            self.deliver(header, now, 0, made);
        }
        self.release(now, made);
    }

    /// Begins with a source, or lets one replace another.
    fn bind(&mut self, now: Instant, header: &RtpPacket<'_>, hold_back: Duration, made: &mut Made) {
        let clock_rate = clock_rate(&self.media);
        if let Some(old) = self.source.take() {
            self.past = self.past + old.jitter.counts();
            self.clock.forget_reports();
            if let Media::Video(depacketizer) = &mut self.media {
                depacketizer.restart(&mut made.video);
            }
            let passed = self.last_rtp.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            let ticks = passed.as_micros() * u128::from(clock_rate.get()) / 1_000_000;
            let continued = self.last_time.wrapping_add(ticks as u32);
            self.time_offset = continued.wrapping_sub(header.timestamp);
        }
        self.known.push(header.ssrc);
        self.source = Some(Source {
            ssrc: header.ssrc,
            jitter: JitterBuffer::new(hold_back),
            stats: SourceStats::new(header.ssrc, clock_rate, now, header.sequence, header.timestamp),
        });
    }

    /// Hands out what the reorder buffer lets go.
    pub(super) fn release(&mut self, now: Instant, made: &mut Made) {
        while let Some(popped) = self.source.as_mut().and_then(|source| source.jitter.pop(now)) {
            if let Ok(header) = RtpPacket::parse(&popped.packet) {
                self.deliver(&header, popped.arrived, popped.lost, made);
            }
        }
    }

    fn deliver(&mut self, header: &RtpPacket<'_>, arrived: Instant, lost: u64, made: &mut Made) {
        let mut packet = *header;
        packet.timestamp = header.timestamp.wrapping_add(self.time_offset);
        self.last_time = packet.timestamp;
        self.clock.on_packet(packet.timestamp, arrived);
        match &mut self.media {
            Media::Video(depacketizer) => {
                if lost > 0 {
                    depacketizer.mark_lost(&mut made.video);
                }
                let value = self.settings.cvo_extension.and_then(|id| packet.extension(id));
                let rotation = value.and_then(orientation::rotation);
                depacketizer.push(&packet, arrived, rotation, &mut made.video);
            }
            Media::Audio { params, time } => {
                let ticks = time.unwrap(packet.timestamp);
                let frame = opus::frame(packet.payload, arrived, ticks, params);
                made.outputs.extend(frame.map(ReceiverOutput::Audio));
            }
        }
    }
}

/// Ticks a second of a track's RTP time.
fn clock_rate(media: &Media) -> NonZeroU32 {
    match media {
        Media::Video(_) => VIDEO_TIMESCALE,
        Media::Audio { params, .. } => params.sample_rate,
    }
}
