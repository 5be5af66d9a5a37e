use super::*;
use crate::base::clock::Clock;

const VIDEO: NonZeroU32 = NonZeroU32::new(90_000).unwrap();
const AUDIO: NonZeroU32 = NonZeroU32::new(44_100).unwrap();

fn timeline() -> (Timeline, Instant) {
    (Timeline::new([VIDEO, AUDIO].into_iter()), Clock::manual().now())
}

/// NTP time of so many milliseconds.
fn ntp(ms: u64) -> u64 {
    (ms << 32) / 1000 + (3_900_000_000 << 32)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How far the sound is ahead of the pictures that belong to it, in milliseconds.
fn apart(line: &mut Timeline, video: i64, audio: i64, at: Instant) -> i64 {
    let (video, audio) = (line.map(0, video, at), line.map(1, audio, at));
    audio * 1000 / 44_100 - video / 90
}

#[test]
fn tracks_whose_reports_came_first_are_on_one_clock_from_the_beginning() {
    let (mut line, now) = timeline();
    line.on_report(0, ntp(1000), 4_000_000_000);
    line.on_report(1, ntp(1000), 77);
    // Sound of half a second later arrives before the picture.
    assert_eq!(line.map(1, 77 + 22_050, now), 0);
    assert_eq!(line.map(0, 4_000_000_000, now + ms(300)), -45_000);
    assert_eq!(apart(&mut line, 4_000_000_000 + 90_000, 77 + 44_100, now + ms(900)).abs(), 0);
}

#[test]
fn without_reports_a_track_begins_where_it_arrives_and_reports_move_the_one_that_lags() {
    let (mut line, now) = timeline();
    assert_eq!(line.map(0, 1_000_000, now), 0);
    assert_eq!(line.map(1, 500_000, now + ms(400)), 17_640);
    line.on_report(0, ntp(5000), 1_000_000);
    let before = line.map(0, 1_090_000, now + ms(1000));
    // The sound of that moment was sampled with the first picture: it arrived late.
    line.on_report(1, ntp(5000), 500_000);
    let video = line.map(0, 1_180_000, now + ms(2000));
    assert_eq!(apart(&mut line, 1_180_000, 500_000 + 88_200, now + ms(2400)).abs(), 0);
    assert!(video > before, "no time stamp runs back");
    assert_eq!(video, 180_000 + 36_000, "the pictures moved to the sound");
}

#[test]
fn reports_that_are_not_exact_move_nothing_and_drift_does_in_the_end() {
    let (mut line, now) = timeline();
    line.on_report(0, ntp(0), 0);
    line.on_report(1, ntp(0), 0);
    let _ = (line.map(0, 0, now), line.map(1, 0, now));
    for second in 1..200_u32 {
        let at = now + ms(u64::from(second) * 1000);
        let (video, audio) = (i64::from(second) * 90_000, i64::from(second) * 44_100);
        let _ = (line.map(0, video, at), line.map(1, audio, at));
        let noise = if second % 2 == 0 { 15 } else { 0 };
        line.on_report(0, ntp(u64::from(second) * 1000 + noise), second * 90_000);
        line.on_report(1, ntp(u64::from(second) * 1000), second * 44_100);
    }
    let at = now + ms(200_000);
    assert_eq!(line.map(0, 18_000_000, at), 18_000_000);
    assert_eq!(line.map(1, 8_820_000, at), 8_820_000);
    // From here on the clock of the sound is found to be 60 ms behind.
    for second in 200..203_u32 {
        line.on_report(0, ntp(u64::from(second) * 1000), second * 90_000);
        line.on_report(1, ntp(u64::from(second) * 1000 + 60), second * 44_100);
    }
    let moved = apart(&mut line, 18_270_000, 203 * 44_100, now + ms(203_000));
    assert!((59..=60).contains(&moved), "{moved}");
}

#[test]
fn clocks_that_have_nothing_to_do_with_each_other_are_not_believed() {
    let (mut line, now) = timeline();
    let _ = (line.map(0, 0, now), line.map(1, 0, now));
    line.on_report(0, ntp(5000), 0);
    line.on_report(1, ntp(500_000), 0);
    assert_eq!(apart(&mut line, 90_000, 44_100, now + ms(1000)), 0);
    line.on_report(1, 0, 0);
    assert_eq!(apart(&mut line, 180_000, 88_200, now + ms(2000)), 0);
}

#[test]
fn a_source_that_begins_anew_goes_on_where_it_was() {
    let (mut line, now) = timeline();
    let _ = line.map(0, 9_000_000, now);
    let _ = line.map(0, 9_090_000, now + ms(1000));
    assert_eq!(line.map(0, 55, now + ms(3000)), 270_000, "two seconds later");
    assert_eq!(line.map(0, 90_055, now + ms(4000)), 360_000);
    assert_eq!(line.map(0, i64::from(u32::MAX), now + ms(5000)), 450_000);
    // A stall of the way is no new beginning: what was held up comes at once.
    let (mut line, now) = timeline();
    let _ = line.map(0, 0, now);
    for step in 1..900 {
        assert_eq!(line.map(0, step * 3000, now + ms(30_000)), step * 3000);
    }
}

#[test]
fn a_keyframe_is_never_before_what_it_follows() {
    let (mut line, now) = timeline();
    assert_eq!(line.map_key(0, 500_000, now), 0);
    assert_eq!(line.map(0, 590_000, now + ms(1000)), 90_000);
    assert_eq!(line.map_key(0, 500_000, now + ms(1500)), 135_000, "an encoder that jumped back by a second");
    assert_eq!(line.map(0, 503_000, now + ms(1533)), 138_000);
}
