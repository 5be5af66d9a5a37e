//! From the clocks of a stream's tracks to one clock of the recording.
//!
//! Time stamps tell best how far apart two units of a track are, so they are kept. Two things they do not tell. How the clocks
//! of two tracks stand to each other where each has its own (WebRTC): there the stream tells as soon as it knows, and until then
//! the arrivals do, by the unit of each track that was underway for the shortest time. And what a jump means: a track whose time stamps go back, or ahead of the time in which
//! they could have been made, begins a new count, and goes on where its arrival says.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::mp4_file::rescale;
use super::sample::{AudioSample, VideoSample};
use crate::media::time::{Timestamp, VIDEO_TIMESCALE};
use crate::media::track::AudioCodec;
use crate::media::unit::{AccessUnit, AudioFrame, MediaUnit};

/// Ticks a second of the common clock.
const NANOS: NonZeroU32 = NonZeroU32::new(1_000_000_000).unwrap();
/// Time stamps that run ahead of arrivals by more, in one step, have jumped.
const STEP_AHEAD_MAX_NS: i64 = 1_000_000_000;
/// And stand ahead of the earliest possible moment by as much.
const AHEAD_MAX_NS: i64 = 1_500_000_000;
/// Sound may be out of order by so much, and is no jump.
const STEP_BACK_MAX_NS: i64 = 100_000_000;
/// Frames of sound that follow one another within this are one after the other: time stamps in milliseconds are rounded.
const SOUND_SLACK_MS: i64 = 20;
/// Sound is moved to where the stream says that it belongs from this difference on: less is not seen, and each move is heard.
const OFFSET_SLACK_NS: i64 = 15_000_000;
/// Ticks between two pictures while nothing is known: 30 a second.
const PICTURE_TICKS: u32 = 3000;

/// Places units on one clock.
#[derive(Debug)]
pub(super) struct Timeline {
    /// Added to a time stamp of the sound it is on the clock of the pictures, in ns; `None` while that is not known.
    sound_offset: Option<i64>,
    begun: Option<Instant>,
    video: Lane,
    audio: Lane,
    last_video_dts: Option<i64>,
    picture_ticks: u32,
    next_sound: Option<i64>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Added to a time stamp it is the moment of the recording, in ns.
    offset: Option<i64>,
    /// The last unit: its time stamp and its arrival since the beginning, in ns.
    last: Option<(i64, i64)>,
}

impl Timeline {
    /// A clock that begins with its first unit. `sound_offset` is that of the stream, in ns
    /// ([`crate::hub::StreamFacts::sound_offset_ns`]).
    pub(super) fn new(sound_offset: Option<i64>) -> Self {
        Self {
            sound_offset,
            begun: None,
            video: Lane::default(),
            audio: Lane::default(),
            last_video_dts: None,
            picture_ticks: PICTURE_TICKS,
            next_sound: None,
        }
    }

    /// Takes what the stream has come to know of its clocks: sound that was placed by its arrival goes over to where it belongs.
    pub(super) fn know_sound_offset(&mut self, sound_offset: Option<i64>) {
        self.sound_offset = sound_offset.or(self.sound_offset);
        if let (Some(now), Some(wanted)) = (self.audio.offset, self.audio_beside_video())
            && now.abs_diff(wanted) > OFFSET_SLACK_NS.unsigned_abs()
        {
            self.audio.offset = Some(wanted);
        }
    }

    /// The offset of the sound that belongs to that of the pictures.
    fn audio_beside_video(&self) -> Option<i64> {
        Some(self.video.offset?.saturating_add(self.sound_offset?))
    }

    /// Likewise the other way round.
    fn video_beside_audio(&self) -> Option<i64> {
        Some(self.audio.offset?.saturating_sub(self.sound_offset?))
    }

    /// Looks at the first units of a stream, so that the clocks of its tracks are known well when the first is placed.
    pub(super) fn align(&mut self, units: &[MediaUnit]) {
        let Some(begun) = units.iter().map(arrived).min() else { return };
        self.begun = Some(begun);
        let earliest = |is_video: bool| {
            let of_track = units.iter().filter(|unit| matches!(unit, MediaUnit::Video(_)) == is_video);
            let times = of_track.map(|unit| (nanos(stamp(unit)), since(begun, arrived(unit))));
            let mut last = None;
            // Behind a jump another count begins, which says nothing about the first unit.
            let counted = times.take_while(|(stamp, arrival)| {
                let before = last.replace((*stamp, *arrival));
                before.is_none_or(|(last_stamp, last_arrival)| {
                    let (step, passed) = (stamp - last_stamp, (arrival - last_arrival).max(0));
                    step >= -STEP_BACK_MAX_NS && step - passed <= STEP_AHEAD_MAX_NS
                })
            });
            counted.map(|(stamp, arrival)| arrival - stamp).min()
        };
        (self.video.offset, self.audio.offset) = (earliest(true), earliest(false));
        // One of them stands for both where that can be.
        self.audio.offset = self.audio_beside_video().or(self.audio.offset);
        self.video.offset = self.video_beside_audio().or(self.video.offset);
    }

    /// Places a picture.
    pub(super) fn video(&mut self, unit: &AccessUnit) -> VideoSample {
        let other = self.video_beside_audio();
        let at = self.place(true, unit.dts, unit.arrived, other);
        let mut dts = rescale(at, NANOS, VIDEO_TIMESCALE);
        if let Some(last) = self.last_video_dts {
            dts = dts.max(last + 1);
            let step = u32::try_from(dts - last).unwrap_or(u32::MAX);
            // A gap says nothing about the pace.
            if step < 90_000 {
                self.picture_ticks = step;
            }
        }
        self.last_video_dts = Some(dts);
        let composition = unit.pts.rescale(VIDEO_TIMESCALE).ticks - unit.dts.rescale(VIDEO_TIMESCALE).ticks;
        VideoSample {
            dts,
            composition: composition.clamp(0, 90_000 * 10),
            duration: self.picture_ticks,
            key: unit.key,
            hidden: unit.hidden,
            params: unit.params.clone(),
            data: unit.data.clone(),
        }
    }

    /// Places a frame of sound; `None` for one that says again what was said already.
    pub(super) fn audio(&mut self, frame: &AudioFrame) -> Option<AudioSample> {
        let other = self.audio_beside_video();
        let at = self.place(false, frame.pts, frame.arrived, other);
        let rate = frame.params.sample_rate;
        let duration = frame_samples(frame);
        let mut dts = rescale(at, NANOS, rate);
        if let Some(next) = self.next_sound {
            let slack = i64::from(rate.get()) * SOUND_SLACK_MS / 1000;
            if dts < next - slack && dts + i64::from(duration) <= next {
                return None;
            }
            if dts < next + slack {
                dts = next;
            }
        }
        self.next_sound = Some(dts + i64::from(duration));
        Some(AudioSample { dts, duration, params: frame.params.clone(), data: frame.data.clone() })
    }

    /// The moment of a unit, in ns of the recording's clock; `other` is the offset that belongs to that of the other track, where it
    /// is known.
    fn place(&mut self, is_video: bool, stamp: Timestamp, arrived: Instant, other: Option<i64>) -> i64 {
        let begun = *self.begun.get_or_insert(arrived);
        let (stamp, arrival) = (nanos(stamp), since(begun, arrived));
        let lane = if is_video { &mut self.video } else { &mut self.audio };
        let offset = *lane.offset.get_or_insert(other.unwrap_or(arrival - stamp));
        let mut at = stamp.saturating_add(offset);
        if let Some((last_stamp, last_arrival)) = lane.last {
            let step = stamp.saturating_sub(last_stamp);
            let passed = (arrival - last_arrival).max(0);
            let ahead = step - passed > STEP_AHEAD_MAX_NS && at - arrival > AHEAD_MAX_NS;
            if step < -STEP_BACK_MAX_NS || (is_video && step < 0) || ahead {
                let due = last_stamp.saturating_add(offset).saturating_add(passed.max(1_000_000));
                // The other track may have jumped before: then both jumped alike.
                let alike = other.map(|other| stamp.saturating_add(other));
                at = alike.filter(|alike| (alike - due).abs() < AHEAD_MAX_NS).unwrap_or(due);
                lane.offset = Some(at.saturating_sub(stamp));
            }
        }
        lane.last = Some((stamp, arrival));
        at
    }
}

fn arrived(unit: &MediaUnit) -> Instant {
    match unit {
        MediaUnit::Video(unit) => unit.arrived,
        MediaUnit::Audio(frame) => frame.arrived,
    }
}

fn stamp(unit: &MediaUnit) -> Timestamp {
    match unit {
        MediaUnit::Video(unit) => unit.dts,
        MediaUnit::Audio(frame) => frame.pts,
    }
}

fn nanos(stamp: Timestamp) -> i64 {
    rescale(stamp.ticks, stamp.timescale, NANOS)
}

fn since(begun: Instant, at: Instant) -> i64 {
    let signed = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match at.checked_duration_since(begun) {
        Some(later) => signed(later),
        None => -signed(begun.saturating_duration_since(at)),
    }
}

/// Samples of a frame of sound.
fn frame_samples(frame: &AudioFrame) -> u32 {
    match &frame.params.codec {
        AudioCodec::Opus => opus_samples(&frame.data),
        // One frame of AAC; where it is another length, the next frame tells.
        AudioCodec::Aac { .. } => 1024,
        AudioCodec::Pcma | AudioCodec::Pcmu => {
            u32::try_from(frame.data.len()).unwrap_or(0) / u32::from(frame.params.channels.max(1))
        }
    }
}

/// Samples at 48 kHz of an Opus packet (RFC 6716 section 3.1); 20 ms for one that cannot be read.
fn opus_samples(packet: &[u8]) -> u32 {
    const USUAL: u32 = 960;
    let Some(&toc) = packet.first() else { return USUAL };
    let of_one = match toc >> 3 {
        config @ 0..12 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..16 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => packet.get(1).map_or(1, |count| u32::from(count & 0x3F)),
    };
    // A packet holds 120 ms at most.
    match of_one * frames {
        samples @ 1..=5760 => samples,
        _ => USUAL,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::base::clock::Clock;
    use crate::media::track::{AudioParams, Colour, Rotation, VideoCodec, VideoParams};

    fn sound(arrived: Instant, ticks: i64, rate: u32) -> AudioFrame {
        let params =
            AudioParams { codec: AudioCodec::Opus, sample_rate: NonZeroU32::new(rate).unwrap(), channels: 2 };
        let pts = Timestamp { ticks, timescale: params.sample_rate };
        // 20 ms of CELT.
        AudioFrame { arrived, pts, params: Arc::new(params), data: vec![31 << 3, 1, 2].into() }
    }

    fn picture(arrived: Instant, ticks: i64) -> AccessUnit {
        let stamp = Timestamp::video(ticks);
        let params = VideoParams {
            codec: VideoCodec::Vp8,
            width: 16,
            height: 16,
            sample_aspect_ratio: (1, 1),
            colour: Colour::unsaid(16, 16),
            rotation: Rotation::None,
        };
        AccessUnit {
            seq: 0,
            arrived,
            pts: stamp,
            dts: stamp,
            key: true,
            disposable: false,
            bidirectional: false,
            hidden: false,
            params: Arc::new(params),
            data: Bytes::from_static(b"x"),
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn tracks_with_clocks_of_their_own_meet_by_the_quickest_arrivals() {
        let now = Clock::manual().now();
        let mut units = Vec::new();
        // Video counts from 1 000 000, sound from 5; each unit is underway for a while, some of each for no time.
        for n in 0..10_u64 {
            let (late_video, late_sound) = ((n % 3) * 40, ((n + 1) % 4) * 25);
            units.push(MediaUnit::Video(Arc::new(picture(
                now + ms(n * 50 + late_video),
                1_000_000 + n as i64 * 4500,
            ))));
            units.push(MediaUnit::Audio(Arc::new(sound(
                now + ms(n * 20 + late_sound),
                5 + n as i64 * 960,
                48_000,
            ))));
        }
        let mut timeline = Timeline::new(None);
        timeline.align(&units);
        let video = timeline.video(&picture(now, 1_000_000)).dts;
        let audio = timeline.audio(&sound(now, 5, 48_000)).unwrap().dts;
        assert_eq!(
            rescale(video, VIDEO_TIMESCALE, NANOS),
            rescale(audio, NonZeroU32::new(48_000).unwrap(), NANOS)
        );
    }

    #[test]
    fn sound_goes_where_the_stream_says_as_soon_as_it_knows() {
        let now = Clock::manual().now();
        let rate = NonZeroU32::new(48_000).unwrap();
        // Each picture takes 60 ms longer than its sound, always: arrivals do not show it. The clock of the sound is a second ahead.
        let units = [
            MediaUnit::Video(Arc::new(picture(now + ms(60), 0))),
            MediaUnit::Audio(Arc::new(sound(now, 48_000, 48_000))),
        ];
        let apart = |timeline: &mut Timeline, n: u64| {
            let video = timeline.video(&picture(now + ms(n * 20 + 60), n as i64 * 1800)).dts;
            let audio = timeline.audio(&sound(now + ms(n * 20), 48_000 + n as i64 * 960, 48_000));
            let video = rescale(video, VIDEO_TIMESCALE, NANOS) / 1_000_000;
            audio.map(|audio| rescale(audio.dts, rate, NANOS) / 1_000_000 - video)
        };
        let mut known = Timeline::new(Some(-1_000_000_000));
        known.align(&units);
        assert_eq!(apart(&mut known, 0), Some(0));
        let mut learns = Timeline::new(None);
        learns.align(&units);
        assert_eq!(apart(&mut learns, 0), Some(-60));
        learns.know_sound_offset(None);
        assert_eq!(apart(&mut learns, 1), Some(-60));
        learns.know_sound_offset(Some(-1_000_000_000));
        assert_eq!(apart(&mut learns, 2), Some(0));
        // Less than anybody sees is left alone.
        learns.know_sound_offset(Some(-1_010_000_000));
        assert_eq!(apart(&mut learns, 3), Some(0));
        // Back by 40 ms: what was said is not said twice.
        learns.know_sound_offset(Some(-1_040_000_000));
        let later: Vec<_> = (4..12).map(|n| apart(&mut learns, n)).collect();
        assert_eq!(later[0], None);
        assert!(later.last().unwrap().unwrap() <= -20, "{later:?}");
    }

    #[test]
    fn a_jump_of_both_clocks_keeps_them_together_and_a_stall_is_no_jump() {
        let now = Clock::manual().now();
        let mut timeline = Timeline::new(Some(0));
        timeline.align(&[MediaUnit::Video(Arc::new(picture(now, 0)))]);
        let rate = NonZeroU32::new(48_000).unwrap();
        let mut at = |n: u64, stamp_ms: i64, delay: u64| {
            let arrived = now + ms(n * 20 + delay);
            let video = timeline.video(&picture(arrived, stamp_ms * 90)).dts;
            let audio = timeline.audio(&sound(arrived, stamp_ms * 48, 48_000)).unwrap().dts;
            (rescale(video, VIDEO_TIMESCALE, NANOS) / 1000, rescale(audio, rate, NANOS) / 1000)
        };
        assert_eq!(at(0, 0, 0), (0, 0));
        assert_eq!(at(1, 20, 0), (20_000, 20_000));
        // Everything is five seconds late, then comes at once.
        assert_eq!(at(2, 40, 5000), (40_000, 40_000));
        assert_eq!(at(3, 60, 4980), (60_000, 60_000));
        // An hour ahead, then back to the beginning.
        let (video, audio) = at(4, 3_600_000, 4960);
        assert!((61_000..100_000).contains(&video) && (video - audio).abs() < 21_000, "{video} {audio}");
        let (next, _) = at(5, 3_600_020, 4960);
        assert_eq!(next - video, 20_000);
        let (back, sound_back) = at(6, 0, 4960);
        assert!(back > next && back < next + 100_000 && (back - sound_back).abs() < 21_000, "{next} {back}");
    }

    #[test]
    fn time_stamps_in_milliseconds_make_even_sound_and_gaps_stay() {
        let now = Clock::manual().now();
        let mut timeline = Timeline::new(Some(0));
        let mut at = 0;
        for n in 0..100_i64 {
            // 20 ms frames whose stamps are rounded, one after the other.
            let sample = timeline.audio(&sound(now, n * 960 + (n % 3) * 40 - 40, 48_000)).unwrap();
            if n > 0 {
                assert_eq!(sample.dts - at, 960, "{n}");
            }
            at = sample.dts;
        }
        let later = timeline.audio(&sound(now + ms(500), 100 * 960 + 24_000, 48_000)).unwrap();
        assert!((24_900..=25_100).contains(&(later.dts - at)), "{}", later.dts - at);
    }

    #[test]
    fn lengths_of_opus_packets_are_read() {
        for (packet, want) in
            [(&[0x78, 1][..], 960), (&[0xf8], 960), (&[0x08 | 1], 1920), (&[0x1b, 2], 5760), (&[], 960)]
        {
            assert_eq!(opus_samples(packet), want, "{packet:?}");
        }
    }
}
