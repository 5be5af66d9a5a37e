//! Automatic pictures from the stream to the file: which frames, which numbers, and what they cost.

use std::io::Cursor;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use crossbeam_channel::Receiver;

use super::*;
use crate::base::id::{MediaSessionId, StreamName};
use crate::hub::{Bell, EndReason, GopLimits, Publication, Publisher, SourceProtocol, Subscription};
use crate::media::unit::{AccessUnit, MediaUnit};
use crate::services::test_card::{CardEncoder, CardSettings, push_cards, read_number};

const PIXELS_MAX: u64 = 1 << 22;

fn cards(keyframe_interval: u32) -> CardEncoder {
    CardEncoder::new(CardSettings { keyframe_interval, ..CardSettings::sized(160, 90) }).unwrap()
}

fn publish(registry: &Registry, name: &str, session: &str) -> Publisher {
    publish_with(registry, name, session, None)
}

fn publish_with(registry: &Registry, name: &str, session: &str, bell: Option<Bell>) -> Publisher {
    let publication = Publication::new(
        StreamName::new(name).unwrap(),
        MediaSessionId::new(session).unwrap(),
        SourceProtocol::TestCard,
        SystemTime::UNIX_EPOCH,
    );
    registry.publish(publication, bell).unwrap()
}

fn number_of(png: &[u8]) -> u32 {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    read_number(&rgb, info.width, info.height).expect("a card")
}

/// The pictures in a folder: file number and the frame that it shows.
fn pictures(folder: &Path) -> Vec<(u64, u32)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_suffix(".png")?.parse().ok()?;
            Some((number, number_of(&std::fs::read(entry.path()).unwrap())))
        })
        .collect();
    found.sort_unstable();
    found
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let clock = Clock::real();
    let deadline = clock.now() + Duration::from_secs(30);
    while !condition() {
        assert!(clock.now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

/// A stream, a taker of it without a thread, and the queue that it fills.
struct Bench {
    publisher: Publisher,
    rung: Receiver<()>,
    subscription: Subscription,
    taker: Taker,
    jobs: Receiver<Job>,
    metrics: Metrics,
    clock: Clock,
    stop: StopSource,
}

impl Bench {
    fn new(rate: u64, queue_size: usize) -> Self {
        let (metrics, clock) = (Metrics::new(), Clock::manual());
        let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 9);
        let (bell, rung) = Bell::new(None);
        let publisher = publish_with(&registry, "cam", "m", Some(bell));
        let (pictures, jobs) = queue(queue_size, None);
        let rate = NonZeroU64::new(rate).unwrap();
        let stream = publisher.stream().clone();
        let taker = Taker::new(
            stream,
            source("cam", "cam"),
            rate,
            PIXELS_MAX,
            pictures,
            clock.clone(),
            metrics.clone(),
        );
        let subscription = publisher.stream().subscribe(1000, None);
        Self { publisher, rung, subscription, taker, jobs, metrics, clock, stop: StopSource::new() }
    }

    fn push(&mut self, cards: &mut CardEncoder, numbers: std::ops::Range<u32>) {
        push_cards(&self.publisher, cards, numbers, &self.clock).unwrap();
        self.play();
    }

    fn play(&mut self) {
        let token = self.stop.token();
        while let Ok(MediaUnit::Video(unit)) = self.subscription.live.receiver().try_recv() {
            self.taker.take(&unit, &token);
        }
    }

    /// The frames that the waiting pictures show.
    fn frames(&self) -> Vec<u32> {
        let show = |job: Job| {
            let rgb = crate::services::colour::to_rgb(&job.picture);
            read_number(&rgb.rgb, rgb.width, rgb.height).expect("a card")
        };
        self.jobs.try_iter().map(show).collect()
    }

    fn decoded(&self) -> u64 {
        self.metrics.units_decoded_total.get()
    }

    fn counted(&self, result: &str) -> u64 {
        self.metrics.auto_pictures_total.with_label_values(&[result]).get()
    }
}

fn source(folder: &str, name: &str) -> Source {
    Source { folder: folder.into(), stream_name: StreamName::new(name).unwrap(), epoch: 1 }
}

#[test]
fn every_nth_frame_is_taken_and_only_keyframes_are_decoded_where_they_suffice() {
    let mut bench = Bench::new(30, 100);
    bench.push(&mut cards(30), 0..95);
    assert_eq!(bench.frames(), [0, 30, 60, 90]);
    assert_eq!(bench.decoded(), 4);
}

#[test]
fn a_frame_inside_a_group_costs_the_units_before_it_and_none_after() {
    let mut bench = Bench::new(40, 100);
    bench.push(&mut cards(30), 0..95);
    assert_eq!(bench.frames(), [0, 40, 80]);
    assert_eq!(bench.decoded(), 1 + 11 + 21, "0; 30 to 40; 60 to 80");
}

#[test]
fn one_long_group_is_decoded_once_whatever_the_rate() {
    let mut bench = Bench::new(10, 100);
    bench.push(&mut cards(0), 0..35);
    assert_eq!(bench.frames(), [0, 10, 20, 30]);
    assert_eq!(bench.decoded(), 31);
}

#[test]
fn a_lost_frame_is_replaced_by_the_next_keyframe_and_the_pace_stays() {
    let mut bench = Bench::new(20, 100);
    let mut encoder = cards(15);
    bench.push(&mut encoder, 0..19);
    bench.publisher.mark_gap();
    bench.push(&mut encoder, 19..65);
    assert_eq!(bench.frames(), [0, 30, 40, 60], "20 to 29 cannot be decoded, 30 stands in for 20");
    assert_eq!(bench.counted("skipped"), 0);
    // Nothing of the whole run 80 to 99 can be decoded.
    bench.push(&mut encoder, 65..78);
    bench.publisher.mark_gap();
    let mut late = cards(0);
    late.encode(0, bench.clock.now(), bench.clock.wall()).unwrap();
    bench.push(&mut late, 78..103);
    late.request_keyframe();
    bench.push(&mut late, 103..104);
    assert_eq!((bench.frames(), bench.counted("skipped")), (vec![103], 1));
}

#[test]
fn a_damaged_unit_gives_no_picture_and_its_group_is_not_tried_again() {
    let mut bench = Bench::new(4, 100);
    let mut cards = cards(10);
    bench.push(&mut cards, 0..3);
    let unit = cards.encode(3, bench.clock.now(), bench.clock.wall()).unwrap();
    let mut data = unit.data.to_vec();
    data[8..].fill(0xff);
    bench.publisher.push_video(AccessUnit { data: Bytes::from(data), ..unit });
    assert!(bench.rung.try_recv().is_err());
    bench.push(&mut cards, 4..10);
    assert!(bench.rung.try_recv().is_ok(), "a keyframe is asked for");
    bench.push(&mut cards, 10..13);
    assert_eq!(bench.frames(), [0, 10, 12]);
    assert_eq!(bench.counted("failed"), 1);
    assert_eq!(bench.decoded(), 1 + 3 + 1 + 2, "0; 1 to 3; 10; 11 and 12");
    assert_eq!(bench.counted("skipped"), 1, "run 4 to 7");
}

#[test]
fn a_slow_writer_costs_pictures_and_holds_nobody_up() {
    let mut bench = Bench::new(5, 2);
    let mut cards = cards(5);
    bench.push(&mut cards, 0..25);
    assert_eq!((bench.frames(), bench.counted("skipped")), (vec![0, 5], 3));
    bench.push(&mut cards, 25..31);
    assert_eq!((bench.frames(), bench.counted("skipped")), (vec![25, 30], 3));
}

#[test]
fn a_stop_ends_a_long_decoding_run_and_serves_nothing_of_it() {
    let mut bench = Bench::new(10, 9);
    bench.stop.set();
    bench.push(&mut cards(0), 0..11);
    assert_eq!((bench.frames(), bench.decoded()), (vec![], 0));
}

/// A writer, and pictures to give it.
struct Desk {
    bench: Bench,
    cards: CardEncoder,
    writer: Writer,
    number: u32,
}

impl Desk {
    fn new(root: &Path, retention: usize) -> Self {
        let bench = Bench::new(1, 1);
        let writer = Writer::new(root.into(), retention, bench.clock.clone(), bench.metrics.clone());
        Self { bench, cards: cards(1), writer, number: 0 }
    }

    /// Writes the next card as a picture of this publication.
    fn write(&mut self, source: &Arc<Source>) {
        self.bench.push(&mut self.cards, self.number..self.number + 1);
        self.number += 1;
        let job = self.bench.jobs.try_recv().unwrap();
        self.writer.write(&Job { source: source.clone(), ..job });
    }
}

#[test]
fn a_republished_name_continues_its_numbers_even_when_both_are_written_in_turns() {
    let root = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(root.path(), 0);
    let (old, new) = (Arc::new(source("cam", "cam")), Arc::new(source("cam", "cam")));
    for source in [&old, &old, &new, &old, &new] {
        desk.write(source);
    }
    assert_eq!(pictures(&root.path().join("cam")), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]);
    assert_eq!(desk.bench.counted("written"), 5);
}

#[test]
fn two_names_get_two_folders_and_retention_counts_each_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(root.path(), 2);
    let (one, two) = (Arc::new(source("a/b", "a/b")), Arc::new(source("a%2fb", "a%2fb")));
    for source in [&one, &two, &one, &one] {
        desk.write(source);
    }
    assert_eq!(pictures(&root.path().join("a%2fb")), [(2, 2), (3, 3)]);
    assert_eq!(pictures(&root.path().join("a%252fb")), [(1, 1)]);
}

#[test]
fn a_disk_that_refuses_costs_pictures_until_it_recovers() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("pictures");
    std::fs::write(&root, b"a file where the folder should be").unwrap();
    let mut desk = Desk::new(&root, 0);
    let (one, two) = (Arc::new(source("one", "one")), Arc::new(source("two", "two")));
    for source in [&one, &two, &one] {
        desk.write(source);
    }
    assert_eq!((desk.bench.counted("failed"), desk.writer.faults()), (3, 1), "one fault for all streams");
    std::fs::remove_file(&root).unwrap();
    desk.write(&one);
    assert_eq!(desk.writer.faults(), 1, "nothing was written for the other stream yet");
    desk.write(&two);
    assert_eq!((desk.bench.counted("written"), desk.writer.faults()), (2, 0));
    assert_eq!(pictures(&root.join("one")), [(1, 3)]);
    // A folder that somebody removes is made again.
    std::fs::remove_dir_all(root.join("one")).unwrap();
    desk.write(&one);
    assert_eq!(pictures(&root.join("one")), [(1, 5)]);
    assert_eq!((desk.bench.counted("failed"), desk.writer.faults()), (3, 0));
}

/// The service as the server runs it.
fn service(root: &Path, registry: &Registry, metrics: &Metrics) -> AutoSnapshots {
    let settings = AutoSettings {
        dir: root.into(),
        naming: Naming::StreamName,
        rate: NonZeroU64::new(5).unwrap(),
        retention: 100,
        keep: Keep::default(),
        pixels_max: PIXELS_MAX,
    };
    AutoSnapshots::start(settings, registry, Clock::real(), metrics.clone()).unwrap()
}

#[test]
fn streams_of_before_and_after_the_start_are_taken_and_numbers_go_on_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Clock::real(), Metrics::new());
    let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 9);
    let folder = |name: &str| root.path().join(name);
    let early = publish(&registry, "early", "m1");
    let mut cards_early = cards(0);
    push_cards(&early, &mut cards_early, 0..1, &clock).unwrap();
    let first = service(root.path(), &registry, &metrics);
    let late = publish(&registry, "late", "m2-late");
    let mut cards_late = cards(0);
    let (mut early_next, mut late_next) = (1, 0);
    for pictures_so_far in 1..=3 {
        push_cards(&early, &mut cards_early, early_next..pictures_so_far * 5 - 4, &clock).unwrap();
        push_cards(&late, &mut cards_late, late_next..pictures_so_far * 5 - 4, &clock).unwrap();
        early_next = pictures_so_far * 5 - 4;
        late_next = early_next;
        let expected = 2 * u64::from(pictures_so_far);
        let written = metrics.auto_pictures_total.with_label_values(&["written"]);
        wait_for("picture", || written.get() == expected);
    }
    let expected = [(1, 0), (2, 5), (3, 10)];
    assert_eq!(
        (pictures(&folder("early")), pictures(&folder("late"))),
        (expected.to_vec(), expected.to_vec())
    );

    // The end of a stream ends its taker; the numbers of another publication of the name go on.
    assert!(thread_runs("auto-m2-late"));
    late.end(EndReason::ByUser);
    wait_for("end of the taker", || !thread_runs("auto-m2-late"));
    let again = publish(&registry, "late", "m3");
    let mut cards_again = cards(0);
    push_cards(&again, &mut cards_again, 700..701, &clock).unwrap();
    wait_for("fourth picture", || pictures(&folder("late")).last() == Some(&(4, 700)));

    assert!(first.stop());
    push_cards(&again, &mut cards_again, 701..720, &clock).unwrap();
    drop(again);
    assert_eq!(pictures(&folder("late")).len(), 4, "nobody takes pictures after the stop");
    let _second = service(root.path(), &registry, &metrics);
    let last = publish(&registry, "late", "m4");
    push_cards(&last, &mut cards(0), 900..901, &clock).unwrap();
    wait_for("picture after the restart", || pictures(&folder("late")).last() == Some(&(5, 900)));
}

/// Whether a thread of this name (its first fifteen bytes) runs in this process.
fn thread_runs(name: &str) -> bool {
    std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
        let comm = std::fs::read_to_string(task.unwrap().path().join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    })
}

#[test]
fn no_frame_and_no_file_comes_after_the_end_of_a_stream() {
    let root = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Clock::real(), Metrics::new());
    let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 9);
    let service = service(root.path(), &registry, &metrics);
    let publisher = publish(&registry, "cam", "m5-ends");
    let mut cards = cards(0);
    push_cards(&publisher, &mut cards, 0..1, &clock).unwrap();
    let written = metrics.auto_pictures_total.with_label_values(&["written"]);
    wait_for("picture", || written.get() == 1);
    push_cards(&publisher, &mut cards, 1..26, &clock).unwrap();
    publisher.end(EndReason::ByUser);
    wait_for("end of the taker", || !thread_runs("auto-m5-ends"));
    // The stop writes what was taken before: after it, the folder is final.
    assert!(service.stop());
    let taken = pictures(&root.path().join("cam"));
    let expected: Vec<_> = (0..6).map(|n| (u64::from(n) + 1, n * 5)).collect();
    assert_eq!(taken, expected);
}

#[test]
fn old_pictures_of_all_folders_go_and_those_of_streams_that_are_over_with_their_folder() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("1.png"), b"precious").unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("linked")).unwrap();
    for folder in ["Over", "cam%2f1", "my pictures"] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
        for name in ["1.png", "2.png", "007.png"] {
            std::fs::write(root.path().join(folder).join(name), [0; 100]).unwrap();
        }
    }
    std::fs::remove_file(root.path().join("Over/007.png")).unwrap();
    std::fs::write(root.path().join("Over/.3.png.part"), b"half").unwrap();
    std::fs::remove_file(root.path().join("cam%2f1/007.png")).unwrap();
    let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 9);
    let live = publish(&registry, "cam/1", "m1");
    let settings = AutoSettings {
        dir: root.path().into(),
        naming: Naming::StreamName,
        rate: NonZeroU64::new(5).unwrap(),
        retention: 0,
        keep: Keep { bytes: 1, ..Keep::default() },
        pixels_max: PIXELS_MAX,
    };
    let auto = AutoSnapshots::start(settings, &registry, Clock::real(), Metrics::new()).unwrap();
    let is_there = |name: &str| root.path().join(name).symlink_metadata().is_ok();
    wait_for("the folder of a stream that is over goes", || !is_there("Over"));
    assert!(is_there("cam%2f1") && !is_there("cam%2f1/1.png") && !is_there("cam%2f1/2.png"));
    for kept in ["my pictures/1.png", "my pictures/2.png", "my pictures/007.png", "linked"] {
        assert!(is_there(kept), "{kept}");
    }
    assert_eq!(std::fs::read(outside.path().join("1.png")).unwrap(), b"precious");
    // The live stream's folder is written to all the same.
    push_cards(&live, &mut cards(0), 0..1, &Clock::real()).unwrap();
    wait_for("a picture", || is_there("cam%2f1/1.png"));
    assert!(auto.stop());
}
