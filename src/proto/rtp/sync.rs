//! How the clocks of a bundle's sound and pictures stand to each other, by the sender's reports (RFC 3550 section 6.4.1).
//!
//! Each track's RTP time begins anywhere. A report tells one moment on it and on the sender's wall clock; with one of each
//! track both are on one clock. Until then, and where reports cannot be believed, only arrivals tell.

use std::num::NonZeroU32;
use std::time::Instant;

use crate::media::time::Unwrap32;

const NANOS: i128 = 1_000_000_000;
/// Reports that put the tracks further from where their arrivals put them are not believed: senders with two unrelated clocks
/// exist, and none sends its sound a second later than its pictures.
const DOUBT_NANOS: i128 = 1_000_000_000;

/// What is known of one track's clock.
#[derive(Debug)]
pub(super) struct TrackClock {
    clock_rate: NonZeroU32,
    time: Unwrap32,
    /// RTP time of the newest packet, unwrapped as in the units that are made of it.
    newest: Option<i64>,
    /// The packet that came soonest after its time stamp: arrival, and RTP time in nanoseconds.
    quickest: Option<(Instant, i128)>,
    /// The moment of RTP time 0 on the sender's wall clock, in nanoseconds.
    zero_nanos: Option<i128>,
}

impl TrackClock {
    pub(super) fn new(clock_rate: NonZeroU32) -> Self {
        Self { clock_rate, time: Unwrap32::default(), newest: None, quickest: None, zero_nanos: None }
    }

    fn nanos(&self, ticks: i64) -> i128 {
        i128::from(ticks) * NANOS / i128::from(self.clock_rate.get())
    }

    /// Takes the RTP time of the next packet in order.
    pub(super) fn on_packet(&mut self, rtp_time: u32, arrived: Instant) {
        let ticks = self.time.unwrap(rtp_time);
        self.newest = Some(ticks);
        let stamp = self.nanos(ticks);
        let is_quicker =
            |&(at, before): &(Instant, i128)| signed_nanos(arrived, at) < stamp.saturating_sub(before);
        if self.quickest.as_ref().is_none_or(is_quicker) {
            self.quickest = Some((arrived, stamp));
        }
    }

    /// Takes a sender report: one moment on the wall clock (NTP format: 32 bits of seconds, 32 of fraction) and in RTP time.
    pub(super) fn on_report(&mut self, ntp: u64, rtp_time: u32) {
        let Some(newest) = self.newest.filter(|_| ntp != 0) else { return };
        // The RTP time nearest to the newest one.
        let ticks = newest.saturating_add(i64::from(rtp_time.wrapping_sub(newest as u32) as i32));
        let wall = (i128::from(ntp) * NANOS) >> 32;
        self.zero_nanos = Some(wall - self.nanos(ticks));
    }

    /// The source was replaced: its reports are another's.
    pub(super) fn forget_reports(&mut self) {
        self.zero_nanos = None;
    }
}

/// Nanoseconds to add to a time stamp of the sound, so that it is on the clock of the pictures; `None` while it is not known.
pub(super) fn sound_offset_nanos(video: &TrackClock, audio: &TrackClock) -> Option<i64> {
    let by_reports = audio.zero_nanos? - video.zero_nanos?;
    let ((audio_at, audio_stamp), (video_at, video_stamp)) = (audio.quickest?, video.quickest?);
    let by_arrival = signed_nanos(audio_at, video_at) - (audio_stamp - video_stamp);
    let is_credible = (by_reports - by_arrival).abs() <= DOUBT_NANOS;
    i64::try_from(by_reports).ok().filter(|_| is_credible)
}

fn signed_nanos(later: Instant, earlier: Instant) -> i128 {
    let nanos = |a: Instant, b: Instant| a.saturating_duration_since(b).as_nanos() as i128;
    nanos(later, earlier) - nanos(earlier, later)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;

    const VIDEO: NonZeroU32 = NonZeroU32::new(90_000).unwrap();
    const AUDIO: NonZeroU32 = NonZeroU32::new(48_000).unwrap();

    /// NTP time of so many milliseconds.
    fn ntp(ms: u64) -> u64 {
        (ms << 32) / 1000 + (3_900_000_000 << 32)
    }

    /// Tracks whose first packets were captured at one moment, the picture of which takes 70 ms longer to come.
    fn tracks(audio_time: u32) -> (TrackClock, TrackClock) {
        let now = Clock::manual().now();
        let (mut video, mut audio) = (TrackClock::new(VIDEO), TrackClock::new(AUDIO));
        video.on_packet(90_000, now + Duration::from_millis(80));
        audio.on_packet(audio_time, now + Duration::from_millis(10));
        (video, audio)
    }

    #[test]
    fn reports_tell_what_arrivals_cannot() {
        let (mut video, mut audio) = tracks(480_000);
        assert_eq!(sound_offset_nanos(&video, &audio), None);
        video.on_report(ntp(5000), 90_000);
        assert_eq!(sound_offset_nanos(&video, &audio), None);
        audio.on_report(ntp(5000), 480_000);
        // One second and ten seconds on their own clocks are one moment.
        assert_eq!(sound_offset_nanos(&video, &audio), Some(-9_000_000_000));
        video.on_report(ntp(6020), 180_000);
        let moved = sound_offset_nanos(&video, &audio).unwrap() + 9_000_000_000;
        assert!((moved + 20_000_000).abs() < 1000, "{moved}: the pictures turn out to be 20 ms later");
    }

    #[test]
    fn a_report_across_the_wrap_is_of_the_same_moment() {
        let (mut video, mut audio) = tracks(u32::MAX - 479);
        video.on_report(ntp(5000), 90_000);
        audio.on_report(ntp(5020), 480);
        let offset = sound_offset_nanos(&video, &audio).unwrap();
        let expected = 1_000_000_000 - i64::from(u32::MAX - 479) * 1_000_000 / 48;
        assert!((offset - expected).abs() < 1000, "{offset}, {expected}");
    }

    #[test]
    fn unrelated_clocks_and_none_at_all_are_not_believed() {
        let (mut video, mut audio) = tracks(480_000);
        video.on_report(ntp(5000), 90_000);
        audio.on_report(ntp(500_000), 480_000);
        assert_eq!(sound_offset_nanos(&video, &audio), None);
        audio.on_report(ntp(5000), 480_000);
        assert!(sound_offset_nanos(&video, &audio).is_some());
        audio.on_report(0, 0);
        assert!(sound_offset_nanos(&video, &audio).is_some(), "a sender without a wall clock says nothing");
        audio.forget_reports();
        assert_eq!(sound_offset_nanos(&video, &audio), None);
    }
}
