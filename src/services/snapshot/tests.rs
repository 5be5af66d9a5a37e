//! The service with numbered pictures: some tests turn its jobs by hand, so that what happens at once is exact.

use std::sync::mpsc;
use std::thread;

use super::by_hand::ByHand;
use super::*;
use crate::base::clock::Clock;
use crate::base::id::{MediaSessionId, StreamName};
use crate::base::metrics::Metrics;
use crate::hub::{Bell, EndReason, GopLimits, Publication, Publisher, Registry, SourceProtocol};
use crate::services::decode;
use crate::services::test_card::{CardEncoder, CardSettings, push_cards, read_number};

const SETTINGS: SnapshotSettings = SnapshotSettings {
    limit: Duration::from_secs(60),
    attempts: 1,
    watch: Duration::from_secs(60),
    watched_max: 2,
    decoders: 2,
    encoders: 2,
    queue_max: 8,
    keyframe_units: 1000,
    pixels_max: 8192 * 4352,
};
pub(super) const UNWATCHED: SnapshotSettings = SnapshotSettings { watch: Duration::ZERO, ..SETTINGS };

fn publication(name: &str, has_video: bool) -> Publication {
    Publication {
        has_video,
        ..Publication::new(
            StreamName::new(name).unwrap(),
            MediaSessionId::new(&format!("session of {name}")).unwrap(),
            SourceProtocol::TestCard,
            Clock::manual().wall(),
        )
    }
}

/// A registry, a clock, counts, and one published stream of cards called `cards`, with its bell.
pub(super) struct Scene {
    registry: Registry,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) publisher: Publisher,
    pub(super) bell: crossbeam_channel::Receiver<()>,
    encoder: CardEncoder,
}

impl Scene {
    pub(super) fn new() -> Self {
        let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 100);
        let (bell, rung) = Bell::new(None);
        let publisher = registry.publish(publication("cards", true), Some(bell)).unwrap();
        let settings = CardSettings { keyframe_interval: 0, ..CardSettings::sized(320, 180) };
        let encoder = CardEncoder::new(settings).unwrap();
        Self { registry, clock: Clock::manual(), metrics: Metrics::new(), publisher, bell: rung, encoder }
    }

    pub(super) fn service(&self, settings: SnapshotSettings) -> SnapshotService {
        let (registry, metrics) = (self.registry.clone(), self.metrics.clone());
        SnapshotService::start(settings, registry, self.clock.clone(), metrics).unwrap()
    }

    fn by_hand(&self, settings: SnapshotSettings) -> ByHand {
        ByHand::new(settings, self.registry.clone(), self.clock.clone(), self.metrics.clone())
    }

    pub(super) fn push(&mut self, numbers: std::ops::Range<u32>) {
        push_cards(&self.publisher, &mut self.encoder, numbers, &self.clock).unwrap();
    }

    pub(super) fn push_keyframe(&mut self, number: u32) {
        self.encoder.request_keyframe();
        self.push(number..number + 1);
    }

    pub(super) fn runs(&self) -> (u64, u64) {
        (self.metrics.decode_runs_total.get(), self.metrics.pictures_encoded_total.get())
    }
}

fn cards() -> SnapshotRequest {
    SnapshotRequest { stream_name: "cards".into(), ..SnapshotRequest::default() }
}

pub(super) fn number(snapshot: &Snapshot) -> u32 {
    let (width, height, rgb) = crate::services::png::tests::decode(&snapshot.png);
    assert_eq!((width, height), (snapshot.width, snapshot.height));
    read_number(&rgb, width, height).expect("a card that can be read")
}

type Outcome = Result<Arc<Snapshot>, SnapshotError>;

/// Asks, and gives back where the answer comes.
fn ask(snapshots: &Snapshots, request: SnapshotRequest) -> mpsc::Receiver<Outcome> {
    let (sender, receiver) = mpsc::channel();
    snapshots.request(request, move |outcome| drop(sender.send(outcome)));
    receiver
}

#[test]
fn each_picture_is_the_newest_one_cold_or_watched() {
    let mut scene = Scene::new();
    let service = scene.service(SETTINGS);
    let snapshots = service.handle();
    scene.push(0..45);
    let snapshot = snapshots.take(cards()).unwrap();
    assert_eq!((number(&snapshot), snapshot.seq), (44, 44));
    for next in 45..60 {
        scene.push(next..next + 1);
        assert_eq!(number(&snapshots.take(cards()).unwrap()), next);
    }
    let (runs, encoded) = scene.runs();
    assert_eq!((runs, encoded), (1, 16), "one cold start, then in step");
    assert_eq!(scene.metrics.units_decoded_total.get(), 60, "each unit once");
    assert!(service.stop(Duration::from_secs(30)));
}

#[test]
fn a_hundred_callers_at_once_cost_two_decodes_and_two_encodes_at_most() {
    let mut scene = Scene::new();
    scene.push(0..60);
    let service = scene.service(UNWATCHED);
    let snapshots = service.handle();
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..100 {
            let (snapshots, sender) = (snapshots.clone(), sender.clone());
            scope.spawn(move || sender.send(snapshots.take(cards())).unwrap());
        }
    });
    let numbers: Vec<_> = answers.try_iter().map(|answer| number(&answer.unwrap())).collect();
    assert_eq!(numbers, [59; 100]);
    assert_eq!(scene.runs(), (1, 1), "nothing new came: one picture for all");
    assert!(service.stop(Duration::from_secs(30)));
}

#[test]
fn who_asks_for_something_newer_than_the_running_job_shares_the_next_one() {
    let mut scene = Scene::new();
    let hand = scene.by_hand(UNWATCHED);
    scene.push(0..5);
    let first: Vec<_> = (0..50).map(|_| ask(&hand.snapshots(), cards())).collect();
    let job = hand.decode_untold();
    scene.push(5..8);
    let second: Vec<_> = (0..50).map(|_| ask(&hand.snapshots(), cards())).collect();
    assert!(!hand.decode(), "the next job waits for the running one");
    hand.finish_decoding(job);
    assert!(hand.decode() && !hand.decode());
    while hand.encode() {}
    let numbers = |answers: Vec<mpsc::Receiver<Outcome>>| {
        let numbers = answers.iter().map(|answer| number(&answer.try_recv().unwrap().unwrap()));
        numbers.collect::<Vec<_>>()
    };
    assert!(numbers(first).iter().all(|number| *number >= 4));
    assert_eq!(numbers(second), [7; 50]);
    let (runs, encoded) = scene.runs();
    assert!(runs == 2 && encoded <= 2, "{runs} decodes, {encoded} encodes");
}

#[test]
fn after_a_gap_nothing_old_is_served_and_the_publisher_is_asked_once_for_all() {
    let mut scene = Scene::new();
    let service = scene.service(SETTINGS);
    let snapshots = service.handle();
    scene.push(0..5);
    assert_eq!(number(&snapshots.take(cards()).unwrap()), 4);
    for settings in [SETTINGS, UNWATCHED] {
        let service = scene.service(settings);
        let snapshots = service.handle();
        scene.publisher.mark_gap();
        let runs = scene.metrics.decode_runs_total.get();
        let answers: Vec<_> = (0..10).map(|_| ask(&snapshots, cards())).collect();
        assert!(scene.bell.recv_timeout(Duration::from_secs(30)).is_ok());
        assert!(answers.iter().all(|answer| answer.try_recv().is_err()), "nobody has an old picture");
        scene.push_keyframe(77);
        for answer in answers {
            assert_eq!(number(&answer.recv().unwrap().unwrap()), 77);
        }
        assert!(scene.bell.try_recv().is_err(), "asked once");
        assert_eq!(scene.metrics.decode_runs_total.get(), runs + 1);
    }
}

#[test]
fn a_watched_stream_goes_on_after_a_gap_without_a_cold_start() {
    let mut scene = Scene::new();
    let service = scene.service(SETTINGS);
    let snapshots = service.handle();
    scene.push(0..5);
    snapshots.take(cards()).unwrap();
    scene.publisher.mark_gap();
    let answer = ask(&snapshots, cards());
    scene.push_keyframe(30);
    assert_eq!(number(&answer.recv().unwrap().unwrap()), 30);
    assert_eq!(scene.metrics.decode_runs_total.get(), 1);
}

#[test]
fn with_b_frames_the_picture_shown_last_is_served_cold_and_watched() {
    let mut units = decode::tests::sample("high_b_bt709");
    let numbers = decode::tests::stamp(&mut units);
    let keys: Vec<_> = (0..units.len()).filter(|at| units[*at].key).collect();
    for settings in [SETTINGS, UNWATCHED] {
        let scene = Scene::new();
        let service = scene.service(settings);
        let snapshots = service.handle();
        for (newest, unit) in units.iter().enumerate() {
            scene.publisher.push_video(unit.clone());
            let snapshot = snapshots.take(cards()).unwrap();
            let (width, _, rgb) = crate::services::png::tests::decode(&snapshot.png);
            let white = |block: usize| rgb[3 * (8 * width as usize + 16 * block + 8)] > 128;
            let number: u32 = (0..16).filter(|bit| white(2 + bit)).map(|bit| 1 << bit).sum();
            let first = keys.iter().rfind(|key| **key <= newest).unwrap();
            assert_eq!(Some(&number), numbers[*first..=newest].iter().max(), "up to unit {newest}");
        }
        assert!(service.stop(Duration::from_secs(30)));
    }
}

#[test]
fn scales_share_the_decode_and_equal_scales_the_encode() {
    let mut scene = Scene::new();
    let hand = scene.by_hand(UNWATCHED);
    scene.push(0..3);
    let boxed = |width| Some(Scale { width: Some(width), ..Scale::default() });
    let scales = [None, boxed(160), boxed(160), boxed(200), None];
    let ask = |scale| ask(&hand.snapshots(), SnapshotRequest { scale, ..cards() });
    let answers: Vec<_> = scales.into_iter().map(ask).collect();
    while hand.decode() || hand.encode() {}
    let sizes: Vec<_> = answers
        .iter()
        .map(|answer| answer.try_recv().unwrap().unwrap())
        .map(|snapshot| (snapshot.width, snapshot.height, number(&snapshot)))
        .collect();
    assert_eq!(sizes, [(320, 180, 2), (160, 90, 2), (160, 90, 2), (200, 113, 2), (320, 180, 2)]);
    assert_eq!(scene.runs(), (1, 3));
    let zero = ask(Some(Scale { width: Some(0), ..Scale::default() }));
    assert!(matches!(zero.try_recv().unwrap(), Err(SnapshotError::Scale(_))));
}

#[test]
fn the_same_moment_asked_for_again_is_the_same_snapshot() {
    let mut scene = Scene::new();
    scene.push(0..3);
    let service = scene.service(UNWATCHED);
    let snapshots = service.handle();
    let (one, two) = (snapshots.take(cards()).unwrap(), snapshots.take(cards()).unwrap());
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(one.base64().len(), one.png.len().div_ceil(3) * 4);
    scene.push(3..4);
    assert_eq!(number(&snapshots.take(cards()).unwrap()), 3);
}

#[test]
fn a_picture_too_old_for_the_caller_is_refused_by_its_true_age() {
    let mut scene = Scene::new();
    scene.push(0..3);
    let hand = scene.by_hand(UNWATCHED);
    let within = |ms| SnapshotRequest { max_age: Some(Duration::from_millis(ms)), ..cards() };
    let answer = ask(&hand.snapshots(), within(1000));
    assert!(hand.decode());
    // It grows old between decoding and the answer.
    scene.clock.advance(Duration::from_secs(2));
    assert!(hand.encode());
    let outcome = answer.try_recv().unwrap();
    assert!(
        matches!(outcome, Err(SnapshotError::TooOld(age)) if age == Duration::from_secs(2)),
        "{outcome:?}"
    );
    let runs = scene.runs();
    let outcome = ask(&hand.snapshots(), within(1999)).try_recv().unwrap();
    assert!(matches!(outcome, Err(SnapshotError::TooOld(_))));
    assert_eq!(scene.runs(), runs, "and nothing is done for it");
    let snapshot = ask(&hand.snapshots(), within(2000)).try_recv().unwrap().unwrap();
    assert_eq!(snapshot.age(scene.clock.now()), Duration::from_secs(2));
}

#[test]
fn unknown_silent_ended_and_slow_streams_are_told_apart() {
    let mut scene = Scene::new();
    let service = scene.service(SETTINGS);
    let snapshots = service.handle();
    let unknown = SnapshotRequest { stream_name: "../../etc/passwd".into(), ..cards() };
    assert!(matches!(snapshots.take(unknown), Err(SnapshotError::StreamNotFound)));
    let _sound = scene.registry.publish(publication("sound", false), None).unwrap();
    let sound = SnapshotRequest { stream_name: "sound".into(), ..cards() };
    assert!(matches!(snapshots.take(sound), Err(SnapshotError::NoVideo)));
    let answer = ask(&snapshots, cards());
    let registry = scene.registry.clone();
    scene.publisher.end(EndReason::ByUser);
    assert!(matches!(answer.recv().unwrap(), Err(SnapshotError::StreamEnded)), "long before its deadline");
    scene.publisher = registry.publish(publication("cards", true), None).unwrap();
    let hurried = SnapshotRequest { limit: Some(Duration::from_millis(20)), ..cards() };
    scene.clock = Clock::real();
    let service = scene.service(SETTINGS);
    let outcome = service.handle().take(hurried);
    assert!(matches!(outcome, Err(SnapshotError::Timeout)));
    assert_eq!(outcome.unwrap_err().to_string(), "Snapshot response timeout");
}

#[test]
fn a_stopping_service_answers_everybody() {
    let scene = Scene::new();
    let service = scene.service(SETTINGS);
    let snapshots = service.handle();
    let answer = ask(&snapshots, cards());
    assert!(service.stop(Duration::from_secs(30)));
    assert!(matches!(answer.recv().unwrap(), Err(SnapshotError::Stopping)));
    assert!(matches!(snapshots.take(cards()), Err(SnapshotError::Stopping)));
}

#[test]
fn a_job_that_is_lost_still_answers() {
    let mut scene = Scene::new();
    scene.push(0..2);
    let hand = scene.by_hand(UNWATCHED);
    let answer = ask(&hand.snapshots(), cards());
    hand.lose_decoding(hand.begin_decoding(0));
    assert!(matches!(answer.try_recv().unwrap(), Err(SnapshotError::Internal)));
    let answer = ask(&hand.snapshots(), cards());
    assert!(hand.decode());
    hand.lose_encoding();
    assert!(matches!(answer.try_recv().unwrap(), Err(SnapshotError::Internal)));
    let answer = ask(&hand.snapshots(), cards());
    while hand.decode() || hand.encode() {}
    assert_eq!(number(&answer.try_recv().unwrap().unwrap()), 1, "and the stream is served again");
}

#[test]
fn a_damaged_group_waits_for_the_next_keyframe_and_says_what_was_wrong_if_none_comes() {
    let mut scene = Scene::new();
    let mut damaged = scene.encoder.encode(0, scene.clock.now(), scene.clock.wall()).unwrap();
    let mut bytes = damaged.data.to_vec();
    let middle = bytes.len() / 3;
    bytes[middle..].fill(0xff);
    damaged.data = bytes.into();
    scene.publisher.push_video(damaged);
    let hand = scene.by_hand(UNWATCHED);
    let answer = ask(&hand.snapshots(), cards());
    assert!(hand.decode() && scene.bell.try_recv().is_ok());
    hand.look();
    assert!(!hand.decode() && answer.try_recv().is_err());
    let late = ask(&hand.snapshots(), SnapshotRequest { limit: Some(Duration::from_secs(1)), ..cards() });
    scene.clock.advance(Duration::from_secs(1));
    hand.look();
    let outcome = late.try_recv().unwrap();
    // Which of the two differs from run to run: the library reads on behind the damage.
    let told =
        |error: &DecodeError| matches!(error, DecodeError::Damaged { .. } | DecodeError::NoPicture { .. });
    assert!(matches!(&outcome, Err(SnapshotError::Decode(error)) if told(error)), "{outcome:?}");
    scene.push_keyframe(9);
    hand.look();
    while hand.decode() || hand.encode() {}
    assert_eq!(number(&answer.try_recv().unwrap().unwrap()), 9);
}

#[test]
fn behind_a_long_tail_a_keyframe_is_asked_for_and_taken_when_it_is_sooner() {
    let mut scene = Scene::new();
    scene.push(0..30);
    let hand = scene.by_hand(SnapshotSettings { keyframe_units: 20, ..UNWATCHED });
    let answer = ask(&hand.snapshots(), cards());
    assert!(scene.bell.try_recv().is_ok());
    let job = hand.begin_decoding(10);
    scene.push_keyframe(30);
    hand.finish_decoding(job);
    while hand.encode() {}
    assert_eq!(number(&answer.try_recv().unwrap().unwrap()), 30);
    assert_eq!(scene.metrics.units_decoded_total.get(), 11, "ten of the tail, then the keyframe");
    scene.push(31..40);
    let _short = ask(&hand.snapshots(), cards());
    assert!(scene.bell.try_recv().is_err(), "a short tail is decoded without asking");
}

#[test]
fn more_streams_than_the_queue_holds_are_busy() {
    let mut scene = Scene::new();
    let hand = scene.by_hand(SnapshotSettings { queue_max: 1, ..UNWATCHED });
    let other = scene.registry.publish(publication("other", true), None).unwrap();
    scene.push(0..1);
    scene.encoder.request_keyframe();
    push_cards(&other, &mut scene.encoder, 5..6, &scene.clock).unwrap();
    let first = ask(&hand.snapshots(), cards());
    let refused = ask(&hand.snapshots(), SnapshotRequest { stream_name: "other".into(), ..cards() });
    assert!(matches!(refused.try_recv().unwrap(), Err(SnapshotError::Busy)));
    while hand.decode() || hand.encode() {}
    assert_eq!(number(&first.try_recv().unwrap().unwrap()), 0);
}

#[test]
fn who_waits_makes_the_png_himself_when_the_picture_is_there() {
    let mut scene = Scene::new();
    let hand = scene.by_hand(SnapshotSettings { encoders: 1, ..UNWATCHED });
    scene.push(0..3);
    let answer = ask(&hand.snapshots(), cards());
    while hand.decode() || hand.encode() {}
    assert_eq!(number(&answer.try_recv().unwrap().unwrap()), 2);
    // Nobody turns the jobs now; one after the other, each caller finds the one place free.
    for width in [160, 200, 240] {
        let scale = Some(Scale { width: Some(width), ..Scale::default() });
        let snapshot = hand.snapshots().take(SnapshotRequest { scale, ..cards() }).unwrap();
        assert_eq!((snapshot.width, number(&snapshot)), (width, 2));
    }
    assert_eq!(scene.runs(), (1, 4));
}

#[test]
fn a_watch_that_met_damage_asks_for_a_keyframe_until_one_comes() {
    let mut scene = Scene::new();
    let service = scene.service(SETTINGS);
    let snapshots = service.handle();
    scene.push(0..3);
    snapshots.take(cards()).unwrap();
    let mut damaged = scene.encoder.encode(3, scene.clock.now(), scene.clock.wall()).unwrap();
    damaged.data.truncate(damaged.data.len() - 1);
    scene.publisher.push_video(damaged);
    let heard = || scene.bell.recv_timeout(Duration::from_secs(30)).is_ok();
    assert!(heard());
    // That request was lost on its way to the publisher, which goes on as before.
    push_cards(&scene.publisher, &mut scene.encoder, 4..5, &scene.clock).unwrap();
    assert!(heard(), "asked again");
    let answer = ask(&snapshots, cards());
    assert!(answer.try_recv().is_err(), "nothing is served meanwhile");
    scene.push_keyframe(5);
    assert_eq!(number(&answer.recv().unwrap().unwrap()), 5);
    assert_eq!(scene.metrics.decode_runs_total.get(), 1, "still the same watch");
}

#[test]
fn a_watched_stream_that_changes_its_size_or_is_published_anew_shows_the_new_one() {
    let mut scene = Scene::new();
    let service = scene.service(SETTINGS);
    let snapshots = service.handle();
    scene.push(0..3);
    let first = snapshots.take(cards()).unwrap();
    assert_eq!((first.width, number(&first)), (320, 2));
    scene.encoder.resize(480, 270).unwrap();
    scene.push(3..5);
    let larger = snapshots.take(cards()).unwrap();
    assert_eq!((larger.width, larger.height, number(&larger)), (480, 270, 4));
    assert_eq!(scene.runs().0, 1, "by the same watch");
    let registry = scene.registry.clone();
    scene.publisher.end(EndReason::ByUser);
    assert!(matches!(snapshots.take(cards()), Err(SnapshotError::StreamNotFound)));
    scene.publisher = registry.publish(publication("cards", true), None).unwrap();
    let answer = ask(&snapshots, cards());
    assert!(answer.try_recv().is_err(), "nothing of the publication before");
    scene.push_keyframe(20);
    let anew = answer.recv().unwrap().unwrap();
    assert!(anew.epoch > larger.epoch);
    assert_eq!((anew.seq, number(&anew)), (0, 20));
}

#[test]
fn a_stream_that_stands_still_is_served_with_its_true_age() {
    let mut scene = Scene::new();
    scene.push(0..3);
    for settings in [SETTINGS, UNWATCHED] {
        let captured_at = scene.publisher.stream().newest().unwrap().arrived;
        let service = scene.service(settings);
        for _ in 0..3 {
            scene.clock.advance(Duration::from_secs(40));
            let now = scene.clock.now();
            let snapshot = service.handle().take(cards()).unwrap();
            assert_eq!((number(&snapshot), snapshot.age(now)), (2, now - captured_at));
        }
    }
}
