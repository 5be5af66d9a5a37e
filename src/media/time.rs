//! Media time that does not wrap.

use std::num::NonZeroU32;
use std::time::Duration;

/// Ticks a second of video clocks: RTP's (RFC 6184 section 8.2.1) and ours.
pub const VIDEO_TIMESCALE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();

/// A moment on a stream's own clock: `ticks` of which `timescale` make a second. The origin is the stream's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Ticks since the stream's origin; may be negative.
    pub ticks: i64,
    /// Ticks a second.
    pub timescale: NonZeroU32,
}

impl Timestamp {
    /// A moment on the 90 kHz video clock.
    #[must_use]
    pub fn video(ticks: i64) -> Self {
        Self { ticks, timescale: VIDEO_TIMESCALE }
    }

    /// The same moment counted in another timescale, rounded down; saturates at the ends of `i64`.
    #[must_use]
    pub fn rescale(self, timescale: NonZeroU32) -> Self {
        let wide = i128::from(self.ticks) * i128::from(timescale.get());
        let ticks = wide.div_euclid(i128::from(self.timescale.get()));
        let ticks = i64::try_from(ticks).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX });
        Self { ticks, timescale }
    }

    /// Time since an earlier moment of the same stream; `None` when it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Duration> {
        let nanos = |t: Self| i128::from(t.ticks) * 1_000_000_000 / i128::from(t.timescale.get());
        let difference = nanos(self) - nanos(earlier);
        u64::try_from(difference).ok().map(Duration::from_nanos)
    }
}

/// Makes a 64-bit count of a 32-bit one that wraps: RTP time (RFC 3550 section 5.1), RTMP time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrap32 {
    last: Option<i64>,
}

impl Unwrap32 {
    /// The 64-bit value nearest to the previous one that ends in these 32 bits. The first value is taken as it is.
    pub fn unwrap(&mut self, value: u32) -> i64 {
        let unwrapped = match self.last {
            None => i64::from(value),
            Some(last) => {
                // The difference modulo 2^32, read as signed, is the shortest way from the last value.
                let step = value.wrapping_sub(last as u32) as i32;
                last.saturating_add(i64::from(step))
            }
        };
        self.last = Some(unwrapped);
        unwrapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_across_the_wrap_and_back() {
        let mut unwrap = Unwrap32::default();
        assert_eq!(unwrap.unwrap(u32::MAX - 1), i64::from(u32::MAX) - 1);
        assert_eq!(unwrap.unwrap(3), i64::from(u32::MAX) + 4);
        assert_eq!(unwrap.unwrap(u32::MAX), i64::from(u32::MAX), "a late packet steps back");
    }

    #[test]
    fn rescaling_rounds_down_on_both_sides_of_zero() {
        let scale = NonZeroU32::new(1000).unwrap();
        assert_eq!(Timestamp::video(90_089).rescale(scale).ticks, 1000);
        assert_eq!(Timestamp::video(-1).rescale(scale).ticks, -1);
        assert_eq!(Timestamp { ticks: i64::MAX, timescale: NonZeroU32::MIN }.rescale(scale).ticks, i64::MAX);
        let (a, b) = (Timestamp::video(0), Timestamp::video(45_000));
        assert_eq!(b.since(a), Some(Duration::from_millis(500)));
        assert_eq!(a.since(b), None);
    }
}
