//! Streams whose pictures say which they are, made anew: what comes, in which order and size, and for how long.

use std::time::Instant;

use super::*;
use crate::base::id::{MediaSessionId, StreamName};
use crate::hub::{EndReason, GopLimits, Live, Publication, Publisher, SourceProtocol};
use crate::media::h264::decode_time::DecodeTimes;
use crate::media::unit::{AccessUnit, MediaUnit};
use crate::services::colour;
use crate::services::decode::StreamDecoder;
use crate::services::decode::tests::{block_number, sample, stamp};
use crate::services::test_card::{CardEncoder, CardSettings, push_cards, read_number};

const LIMIT: Duration = Duration::from_secs(20);
const PIXELS_MAX: u64 = 8192 * 4352;

/// A unit of the smallest card, for tests of bookkeeping.
pub(super) fn small_unit() -> AccessUnit {
    let clock = Clock::manual();
    let mut encoder = CardEncoder::new(CardSettings::sized(160, 90)).unwrap();
    encoder.encode(0, clock.now(), clock.wall()).unwrap()
}

struct Setup {
    clock: Clock,
    registry: Registry,
    metrics: Metrics,
    renditions: Renditions,
}

fn setup(renditions_max: usize, pixels_max: u64) -> Setup {
    let (clock, metrics) = (Clock::real(), Metrics::new());
    let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 10);
    let settings = TranscodeSettings { renditions_max, pixels_max };
    let renditions = Renditions::new(settings, registry.clone(), metrics.clone(), clock.clone());
    Setup { clock, registry, metrics, renditions }
}

impl Setup {
    fn publish(&self, name: &str) -> Publisher {
        let (stream, session) = (StreamName::new(name).unwrap(), MediaSessionId::new(name).unwrap());
        let created = self.clock.wall();
        let publication = Publication::new(stream, session, SourceProtocol::Rtmp, created);
        self.registry.publish(publication, None).unwrap()
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = self.clock.now() + LIMIT;
        while !is_so() {
            assert!(self.clock.now() < deadline, "waited for: {what}");
            std::thread::yield_now();
        }
    }
}

fn next(live: &Live) -> Arc<AccessUnit> {
    match live.receiver().recv_timeout(LIMIT).unwrap() {
        MediaUnit::Video(unit) => unit,
        MediaUnit::Audio(_) => next(live),
    }
}

/// At a rate at which no picture is left out.
fn boxed(width: u32, height: u32) -> Form {
    Form { width, height, bitrate_kbps: 20_000 }
}

/// What whoever joins a rendition sees first, and then what comes.
fn joined(rendition: &Rendition) -> (Vec<Arc<AccessUnit>>, Live) {
    let subscription = rendition.stream().subscribe(600, None);
    (subscription.backlog.units, subscription.live)
}

#[test]
fn every_picture_comes_smaller_in_order_with_its_time_and_can_be_decoded() {
    let setup = setup(2, PIXELS_MAX);
    let publisher = setup.publish("card");
    let mut encoder = CardEncoder::new(CardSettings::sized(640, 360)).unwrap();
    push_cards(&publisher, &mut encoder, 0..5, &setup.clock).unwrap();
    let rendition = setup.renditions.watch(publisher.stream(), boxed(320, 0)).unwrap();
    setup.until("the newest picture", || rendition.stream().newest().is_some());
    let (mut units, live) = joined(&rendition);
    for number in 5..40 {
        push_cards(&publisher, &mut encoder, number..number + 1, &setup.clock).unwrap();
        units.push(next(&live));
    }
    let mut decoder = StreamDecoder::new(PIXELS_MAX, Metrics::new());
    for (unit, number) in units.iter().zip(4_u32..) {
        assert_eq!((unit.params.width, unit.params.height), (320, 180));
        let picture = decoder.step(unit, true).unwrap().unwrap();
        let rgb = colour::to_rgb(&picture);
        assert_eq!(read_number(&rgb.rgb, rgb.width, rgb.height), Some(number), "what was past is left out");
        assert_eq!((unit.pts.ticks, unit.dts), (i64::from(number) * 3000, unit.pts));
    }
    assert!(units[0].key && units[1..].iter().all(|unit| !unit.key), "keyframes only when asked for");
    assert_eq!(setup.metrics.pictures_transcoded_total.get(), 36);
}

#[test]
fn a_stream_with_b_frames_comes_in_the_order_of_showing() {
    for name in ["high_b_bt709", "main_b_slices4"] {
        let setup = setup(1, PIXELS_MAX);
        let publisher = setup.publish("film");
        let mut units = sample(name);
        stamp(&mut units);
        let mut times = DecodeTimes::new();
        units.iter_mut().for_each(|unit| times.stamp(unit));
        let rendition = setup.renditions.watch(publisher.stream(), Form::default()).unwrap();
        let (backlog, live) = joined(&rendition);
        assert!(backlog.is_empty());
        setup.until("the rendition's watch", || publisher.stream().facts().watchers == 1);
        for (pushed, unit) in (1..).zip(units) {
            publisher.push_video(unit);
            // Of a thread that is behind not every picture comes.
            setup.until("a picture's turn", || setup.metrics.units_decoded_total.get() >= pushed);
        }
        let mut decoder = StreamDecoder::new(PIXELS_MAX, Metrics::new());
        let mut last = None;
        publisher.end(EndReason::EndOfFile);
        for number in 0..36 {
            let unit = next(&live);
            assert!(!unit.bidirectional, "{name}");
            let picture = decoder.step(&unit, true).unwrap().unwrap();
            assert_eq!(block_number(&picture), number, "{name}");
            assert!(last.is_none_or(|last| unit.pts.since(last).is_some()), "{name}");
            last = Some(unit.pts);
        }
    }
}

#[test]
fn viewers_of_one_form_share_it_and_their_number_is_bounded() {
    let setup = setup(2, PIXELS_MAX);
    let publisher = setup.publish("card");
    let watch = |form| setup.renditions.watch(publisher.stream(), form);
    let (one, same) = (watch(boxed(320, 180)).unwrap(), watch(boxed(320, 180)).unwrap());
    assert!(Arc::ptr_eq(one.stream(), same.stream()));
    let other = watch(Form { bitrate_kbps: 300, ..boxed(320, 180) }).unwrap();
    assert!(!Arc::ptr_eq(one.stream(), other.stream()));
    assert_eq!(watch(boxed(160, 90)).unwrap_err().to_string(), "No available transcoders");
    assert_eq!(setup.renditions.len(), 2);
    assert!(setup.registry.list().len() == 1, "renditions are in no list");
    drop(other);
    let mut encoder = CardEncoder::new(CardSettings::sized(640, 360)).unwrap();
    push_cards(&publisher, &mut encoder, 0..1, &setup.clock).unwrap();
    setup.until("the end of what nobody watches", || setup.renditions.len() == 1);
    assert!(watch(boxed(160, 90)).is_ok());
    drop(one);
    assert!(same.stream().ended().is_none(), "the other viewer still watches");
}

#[test]
fn what_nobody_watches_costs_nothing_any_more() {
    let setup = setup(1, PIXELS_MAX);
    let publisher = setup.publish("card");
    let rendition = setup.renditions.watch(publisher.stream(), boxed(320, 180)).unwrap();
    setup.until("the rendition's watch", || publisher.stream().facts().watchers == 1);
    let stream = rendition.stream().clone();
    drop(rendition);
    setup.until("its end", || setup.renditions.is_empty() && setup.metrics.renditions.get() == 0);
    setup.until("the reason", || stream.ended() == Some(EndReason::Unwatched));
    let mut encoder = CardEncoder::new(CardSettings::sized(640, 360)).unwrap();
    let decoded = setup.metrics.units_decoded_total.get();
    push_cards(&publisher, &mut encoder, 0..5, &setup.clock).unwrap();
    assert_eq!(setup.metrics.units_decoded_total.get(), decoded);
    assert_eq!(publisher.stream().facts().watchers, 0);
}

#[test]
fn it_ends_with_its_stream_and_with_the_server() {
    let setup = setup(2, PIXELS_MAX);
    let (one, two) = (setup.publish("one"), setup.publish("two"));
    let first = setup.renditions.watch(one.stream(), boxed(320, 180)).unwrap();
    setup.until("the rendition's watch", || one.stream().facts().watchers == 1);
    one.end(EndReason::RtpActivity);
    setup.until("its end", || first.stream().ended() == Some(EndReason::RtpActivity));
    let second = setup.renditions.watch(two.stream(), boxed(320, 180)).unwrap();
    assert!(setup.renditions.stop(LIMIT));
    assert_eq!(second.stream().ended(), Some(EndReason::Shutdown));
    assert!(setup.renditions.watch(two.stream(), boxed(320, 180)).is_err());
}

#[test]
fn a_keyframe_is_made_when_asked_for_and_when_the_size_changes() {
    let setup = setup(1, PIXELS_MAX);
    let publisher = setup.publish("card");
    let mut encoder = CardEncoder::new(CardSettings::sized(640, 360)).unwrap();
    push_cards(&publisher, &mut encoder, 0..1, &setup.clock).unwrap();
    let rendition = setup.renditions.watch(publisher.stream(), boxed(320, 320)).unwrap();
    setup.until("the first picture", || rendition.stream().newest().is_some());
    let (_, live) = joined(&rendition);
    let mut number = 1;
    let mut step = |encoder: &mut CardEncoder| {
        push_cards(&publisher, encoder, number..number + 1, &setup.clock).unwrap();
        number += 1;
        next(&live)
    };
    assert!(!step(&mut encoder).key);
    rendition.stream().request_keyframe();
    let asked: Instant = setup.clock.now();
    // One was made a moment ago, so that this one waits.
    while !step(&mut encoder).key {
        assert!(setup.clock.now().duration_since(asked) < LIMIT);
    }
    assert!(!step(&mut encoder).key);
    encoder.resize(360, 640).unwrap();
    let turned = step(&mut encoder);
    assert_eq!((turned.key, turned.params.width, turned.params.height), (true, 180, 320));
}

#[test]
fn a_stream_that_cannot_be_decoded_ends_its_rendition_and_nothing_else() {
    let setup = setup(1, 640 * 360);
    let publisher = setup.publish("card");
    let mut encoder = CardEncoder::new(CardSettings::sized(1280, 720)).unwrap();
    push_cards(&publisher, &mut encoder, 0..1, &setup.clock).unwrap();
    let rendition = setup.renditions.watch(publisher.stream(), boxed(320, 180)).unwrap();
    setup.until("its end", || rendition.stream().ended() == Some(EndReason::Internal));
    assert!(publisher.stream().ended().is_none());
    setup.until("its place", || setup.renditions.is_empty());
}

#[test]
fn an_operator_may_forbid_it() {
    let setup = setup(0, PIXELS_MAX);
    let publisher = setup.publish("card");
    let refused = setup.renditions.watch(publisher.stream(), Form::default()).unwrap_err();
    assert_eq!(refused.to_string(), "Transcoding required, but disabled");
}
