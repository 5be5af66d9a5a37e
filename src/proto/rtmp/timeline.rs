//! Times of messages on one line that never runs backwards, whatever an encoder's clock does.

use crate::media::time::Unwrap32;

/// A step back of no more than this is disorder, not another clock: the time stands still until it is caught up.
const DISORDER_MS: i64 = 1000;
/// After a jump back the line goes on so much later: one frame of 25 in a second.
const STEP_MS: i64 = 40;
/// A track joins the other one's new clock when that leads it no further on than this.
const JOIN_MS: i64 = 10_000;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Track {
    Video,
    Audio,
}

/// Places the timestamps of both tracks, which come from one clock.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    unwrap: Unwrap32,
    video: TrackTime,
    audio: TrackTime,
}

#[derive(Clone, Copy, Debug, Default)]
struct TrackTime {
    /// What is added to the encoder's time.
    offset_ms: i64,
    last_ms: Option<i64>,
}

impl Timeline {
    /// Milliseconds on the line: never less than the last of the same track. An encoder that starts its clock anew goes
    /// on where it was, with both tracks in step.
    pub(super) fn place(&mut self, track: Track, timestamp: u32) -> i64 {
        let raw_ms = self.unwrap.unwrap(timestamp);
        let (this, other) = match track {
            Track::Video => (&mut self.video, self.audio),
            Track::Audio => (&mut self.audio, self.video),
        };
        let mut at_ms = raw_ms.saturating_add(this.offset_ms);
        match this.last_ms {
            // The first of its track after the other's clock jumped.
            None => {
                this.offset_ms = other.offset_ms;
                at_ms = raw_ms.saturating_add(this.offset_ms);
            }
            Some(last_ms) if at_ms >= last_ms => {}
            Some(last_ms) if last_ms.saturating_sub(at_ms) <= DISORDER_MS => at_ms = last_ms,
            Some(last_ms) => {
                at_ms = raw_ms.saturating_add(other.offset_ms);
                this.offset_ms = other.offset_ms;
                if at_ms < last_ms || at_ms > last_ms.saturating_add(JOIN_MS) {
                    at_ms = last_ms.saturating_add(STEP_MS);
                    this.offset_ms = at_ms.saturating_sub(raw_ms);
                }
            }
        }
        this.last_ms = Some(at_ms);
        at_ms
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Track::{Audio, Video};
    use super::*;

    fn places(steps: &[(Track, u32)]) -> Vec<i64> {
        let mut timeline = Timeline::default();
        steps.iter().map(|&(track, timestamp)| timeline.place(track, timestamp)).collect()
    }

    #[test]
    fn tracks_share_a_clock_across_its_wrap() {
        let (before, after) = (u32::MAX - 5, 14);
        assert_eq!(
            places(&[(Video, before), (Audio, after), (Video, after), (Audio, before)]),
            [i64::from(before), i64::from(before) + 20, i64::from(before) + 20, i64::from(before) + 20],
            "a step back of 20 ms is disorder"
        );
    }

    #[test]
    fn a_clock_that_starts_anew_goes_on_with_both_tracks_in_step() {
        let steps = [(Video, 60_000), (Audio, 60_010), (Video, 0), (Audio, 60_030), (Audio, 10), (Video, 40)];
        let [_, _, video_0, audio_late, audio_10, video_40] = places(&steps)[..] else { panic!() };
        assert_eq!((video_0, audio_late), (60_040, 60_030));
        assert_eq!((audio_10, video_40), (60_050, 60_080), "10 ms and 40 ms after the new beginning");
    }

    proptest! {
        #[test]
        fn time_never_runs_backwards(steps in prop::collection::vec((any::<bool>(), any::<u32>()), 0..60)) {
            let mut timeline = Timeline::default();
            let mut last = [i64::MIN; 2];
            for (is_video, timestamp) in steps {
                let at = timeline.place(if is_video { Video } else { Audio }, timestamp);
                prop_assert!(at >= last[usize::from(is_video)]);
                last[usize::from(is_video)] = at;
            }
        }
    }
}
