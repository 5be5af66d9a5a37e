//! In which form pictures are made anew: size and rate, from what a viewer asked for and what the stream is.

use std::collections::VecDeque;

use crate::media::time::Timestamp;
use crate::media::track::{Rotation, VideoParams};
use crate::services::encode::{LONG_SIDE_MAX, SHORT_SIDE_MAX, SIDE_MIN};

/// What a viewer asks for. Viewers of one form share one encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Form {
    /// Pixels in a row at most, as shown; 0: as published.
    pub width: u32,
    /// Rows at most, as shown; 0: as published.
    pub height: u32,
    /// Bit rate in kbit/s; 0: by size and frame rate.
    pub bitrate_kbps: u32,
}

/// Rates outside are not asked of the encoder: below, it makes mush; above, it is not what a viewer can want.
const BITRATE_KBPS: std::ops::RangeInclusive<u32> = 50..=20_000;
/// Bits for a pixel where no rate was asked for, and kbit/s for each stream: small pictures take more bits for a pixel. Together
/// 2.4 Mbit/s at 1280×720 and 30 pictures a second, 0.34 at 320×180.
const BITS_PER_PIXEL: f64 = 0.08;
const KBPS_FOR_EACH: f64 = 200.0;

impl Form {
    /// Whether a stream of these parameters would have to be made anew for it. Pictures are never made larger.
    #[must_use]
    pub fn differs_from(&self, params: &VideoParams) -> bool {
        let (width, height) = params.display_size();
        let exceeds = |side: u32, bound: u32| bound != 0 && side > bound;
        self.bitrate_kbps != 0 || exceeds(width, self.width) || exceeds(height, self.height)
    }

    /// Size of the coded pictures, before rotation, in pixels: within the box, of the stream's proportions, of square pixels,
    /// even, never larger than published.
    pub(super) fn coded_size(&self, params: &VideoParams) -> (u32, u32) {
        let (across, down) = params.display_sample_aspect_ratio();
        let (width, height) = params.display_size();
        // Square pixels are made by taking away from the side that has too many.
        let (mut w, mut h) = (f64::from(width), f64::from(height));
        if across < down {
            w = w * f64::from(across) / f64::from(down.max(1));
        } else {
            h = h * f64::from(down) / f64::from(across.max(1));
        }
        let bound = |asked: u32| if asked == 0 { f64::INFINITY } else { f64::from(asked) };
        let shrink = [
            bound(self.width) / w,
            bound(self.height) / h,
            f64::from(LONG_SIDE_MAX) / w.max(h),
            f64::from(SHORT_SIDE_MAX) / w.min(h),
        ];
        let shrink = shrink.into_iter().fold(1.0, f64::min);
        let even = |side: f64| ((side * shrink / 2.0).round() as u32 * 2).max(SIDE_MIN);
        // Of an odd side the last row or column is left out, rather than one made up.
        let within = |side: u32, published: u32| side.min((published & !1).max(SIDE_MIN));
        let (w, h) = (within(even(w), width), within(even(h), height));
        match params.rotation {
            Rotation::None | Rotation::Cw180 => (w, h),
            Rotation::Cw90 | Rotation::Cw270 => (h, w),
        }
    }

    /// Bits a second for pictures of this size.
    pub(super) fn bitrate_bps(&self, (width, height): (u32, u32), frames_per_second: u32) -> u32 {
        let kbps = match self.bitrate_kbps {
            0 => {
                let pixels = f64::from(width) * f64::from(height) * f64::from(frames_per_second);
                (pixels * BITS_PER_PIXEL / 1000.0 + KBPS_FOR_EACH) as u32
            }
            kbps => kbps,
        };
        kbps.clamp(*BITRATE_KBPS.start(), *BITRATE_KBPS.end()) * 1000
    }
}

/// How many pictures a second a stream has, from the times at which they are shown.
#[derive(Debug, Default)]
pub(super) struct FrameRate {
    /// The newest, in order.
    shown: VecDeque<Timestamp>,
}

/// Pictures that the rate is taken from: a second of most streams.
const RATE_PICTURES: usize = 30;
/// What is assumed before enough pictures were seen.
const ASSUMED: u32 = 30;
/// What an encoder is told at most: above, the times are of no use.
const FRAMES_PER_SECOND_MAX: u32 = 120;

impl FrameRate {
    /// Notes that a picture is shown at `pts`. A time that goes back begins anew.
    pub(super) fn note(&mut self, pts: Timestamp) {
        if self.shown.back().is_some_and(|last| pts.since(*last).is_none()) {
            self.shown.clear();
        }
        if self.shown.len() > RATE_PICTURES {
            self.shown.pop_front();
        }
        self.shown.push_back(pts);
    }

    /// Pictures a second, rounded; 30 while too few are known.
    pub(super) fn per_second(&self) -> u32 {
        let (Some(first), Some(last)) = (self.shown.front(), self.shown.back()) else { return ASSUMED };
        let seconds = last.since(*first).map_or(0.0, |span| span.as_secs_f64());
        let intervals = self.shown.len() - 1;
        if intervals < RATE_PICTURES / 3 || seconds <= 0.0 {
            return ASSUMED;
        }
        ((intervals as f64 / seconds).round() as u32).clamp(1, FRAMES_PER_SECOND_MAX)
    }

    /// Whether an encoder that spreads its rate over `frames_per_second` is off by more than a quarter.
    pub(super) fn is_far_from(&self, frames_per_second: u32) -> bool {
        let (told, seen) = (f64::from(frames_per_second), f64::from(self.per_second()));
        self.shown.len() > RATE_PICTURES && (seen / told - 1.0).abs() > 0.25
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::track::{Colour, VideoCodec};

    fn params(width: u32, height: u32, sample_aspect_ratio: (u16, u16), rotation: Rotation) -> VideoParams {
        let colour = Colour::unsaid(width, height);
        VideoParams { codec: VideoCodec::Vp8, width, height, sample_aspect_ratio, colour, rotation }
    }

    fn boxed(width: u32, height: u32) -> Form {
        Form { width, height, bitrate_kbps: 0 }
    }

    #[test]
    fn pictures_fit_the_box_keep_their_proportions_and_are_never_enlarged() {
        let hd = params(1280, 720, (1, 1), Rotation::None);
        for (asked, size) in [
            ((0, 0), (1280, 720)),
            ((640, 360), (640, 360)),
            ((640, 640), (640, 360)),
            ((0, 240), (426, 240)),
            ((320, 0), (320, 180)),
            ((1920, 1080), (1280, 720)),
            ((1, 1), (16, 16)),
        ] {
            assert_eq!(boxed(asked.0, asked.1).coded_size(&hd), size, "{asked:?}");
        }
        assert_eq!(boxed(0, 0).coded_size(&params(853, 481, (1, 1), Rotation::None)), (852, 480));
        assert_eq!(boxed(0, 0).coded_size(&params(7680, 4320, (1, 1), Rotation::None)), (3840, 2160));
    }

    #[test]
    fn a_box_is_meant_for_what_is_shown() {
        let turned = params(1280, 720, (1, 1), Rotation::Cw90);
        assert_eq!(boxed(360, 640).coded_size(&turned), (640, 360));
        let (wide, narrow) =
            (params(720, 576, (16, 11), Rotation::None), params(1440, 1080, (1, 2), Rotation::None));
        assert_eq!(boxed(0, 0).coded_size(&wide), (720, 396));
        assert_eq!(boxed(0, 0).coded_size(&narrow), (720, 1080));
    }

    #[test]
    fn only_what_is_smaller_or_of_another_rate_is_made_anew() {
        let hd = params(1280, 720, (1, 1), Rotation::None);
        let differs = |form: Form| form.differs_from(&hd);
        assert!(!differs(boxed(0, 0)) && !differs(boxed(1280, 720)) && !differs(boxed(1920, 1080)));
        assert!(differs(boxed(640, 360)) && differs(boxed(0, 360)));
        assert!(differs(Form { bitrate_kbps: 500, ..boxed(0, 0) }));
    }

    #[test]
    fn the_rate_follows_size_and_frame_rate_unless_it_is_asked_for() {
        assert_eq!(boxed(0, 0).bitrate_bps((1280, 720), 30), 2_411_000);
        assert_eq!(boxed(0, 0).bitrate_bps((16, 16), 1), 200_000);
        assert_eq!(Form { bitrate_kbps: 1, ..boxed(0, 0) }.bitrate_bps((16, 16), 1), 50_000);
        assert_eq!(Form { bitrate_kbps: 700, ..boxed(0, 0) }.bitrate_bps((1280, 720), 30), 700_000);
        assert_eq!(Form { bitrate_kbps: u32::MAX, ..boxed(0, 0) }.bitrate_bps((16, 16), 30), 20_000_000);
    }

    #[test]
    fn the_frame_rate_is_seen_by_the_times_of_pictures() {
        let mut rate = FrameRate::default();
        assert_eq!(rate.per_second(), ASSUMED);
        (0..40).for_each(|n| rate.note(Timestamp::video(n * 3600)));
        assert_eq!((rate.per_second(), rate.is_far_from(30), rate.is_far_from(50)), (25, false, true));
        rate.note(Timestamp::video(0));
        assert_eq!((rate.per_second(), rate.is_far_from(1)), (ASSUMED, false), "time began anew");
        (0..40).for_each(|_| rate.note(Timestamp::video(0)));
        assert_eq!(rate.per_second(), ASSUMED, "times that stand still say nothing");
    }
}
