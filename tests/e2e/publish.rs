//! Publishing by WebRTC: a page's signalling, a browser's stand-in, real datagrams.

use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::metrics::Metrics;
use stillcast::hub::Gop;
use stillcast::media::unit::AccessUnit;
use stillcast::proto::dtls::Certificate;
use stillcast::services::colour::to_rgb;
use stillcast::services::decode::{DecodeSettings, StreamDecoder};
use stillcast::services::snapshot::{Snapshot, SnapshotError, SnapshotRequest};
use stillcast::services::test_card::{CardSettings, annex_b_run, read_number};

use crate::support::browser::{Browser, BrowserSettings};
use crate::support::clip::Clip;
use crate::support::page::Page;
use crate::support::publishers::{Publisher, PublisherState, Publishers};
use crate::support::relay::{Faults, Relay};
use crate::support::server::Server;

const LIMIT: Duration = Duration::from_secs(20);
const SIZE: (u32, u32) = (320, 240);

/// A published stream, with all that keeps it going.
struct Live {
    page: Page,
    publishers: Publishers,
    relay: Option<Relay>,
}

fn clip(pictures: u32, keyframe_interval: u32) -> Arc<Clip> {
    let settings = CardSettings { keyframe_interval, ..CardSettings::sized(SIZE.0, SIZE.1) };
    Clip::read(&annex_b_run(settings, 0..pictures, &Clock::real()).unwrap(), 30).unwrap()
}

fn publish(server: &Server, name: &str, clip: &Arc<Clip>, faults: Option<Faults>) -> Live {
    publish_turned(server, name, clip, faults, 0)
}

/// Publishes with a camera that is held so that the viewer must turn its pictures.
fn publish_turned(
    server: &Server,
    name: &str,
    clip: &Arc<Clip>,
    faults: Option<Faults>,
    quarter_turns: u8,
) -> Live {
    let clock = server.app().clock();
    let settings = BrowserSettings {
        seed: 7,
        video: true,
        audio: true,
        certificate: Arc::new(Certificate::generate().unwrap()),
    };
    let mut browser = Browser::new(settings, clock.now());
    browser.set_orientation(quarter_turns);
    let mut page = Page::connect(server.address("ws")).unwrap();
    let answer = page.publish(name, &browser.offer(), true).unwrap();
    let address = browser.take_answer(clock.now(), &answer);
    let relay = faults.map(|faults| Relay::start(address, faults, clock).unwrap());
    let way = relay.as_ref().map_or(address, Relay::address);
    let publisher = Publisher::new(browser, way, clip.clone(), false, true).unwrap();
    let publishers = Publishers::start(vec![publisher], clock).unwrap();
    page.wait_published().unwrap();
    Live { page, publishers, relay }
}

fn snapshot(server: &Server, name: &str) -> Result<Arc<Snapshot>, SnapshotError> {
    let request =
        SnapshotRequest { stream_name: name.into(), scale: None, max_age: None, limit: Some(LIMIT) };
    server.app().snapshots().take(request)
}

fn pixels(png: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let size = reader.next_frame(&mut rgb).unwrap().buffer_size();
    rgb.truncate(size);
    rgb
}

fn number(snapshot: &Snapshot) -> u32 {
    read_number(&pixels(&snapshot.png), snapshot.width, snapshot.height).unwrap()
}

/// What each picture of a clip looks like, decoded without any network.
fn references(clip: &Clip) -> Vec<Vec<u8>> {
    let settings = DecodeSettings { pixels_max: 1 << 20, run_limit: LIMIT };
    let mut decoder = StreamDecoder::new(settings, Clock::real(), Metrics::new());
    let mut gop = Gop::default();
    let mut pictures = Vec::new();
    for (seq, picture) in clip.pictures.iter().enumerate() {
        if picture.unit.key {
            gop.units.clear();
        }
        gop.units.push(Arc::new(AccessUnit { seq: seq as u64, ..picture.unit.clone() }));
        pictures.push(to_rgb(&decoder.picture(&gop, seq as u64).unwrap()).rgb);
    }
    pictures
}

/// Waits until something holds of the one publisher.
fn wait_for(live: &Live, holds: impl Fn(&PublisherState) -> bool) -> PublisherState {
    let clock = Clock::real();
    let end = clock.now() + LIMIT;
    loop {
        let state = live.publishers.states()[0];
        if holds(&state) {
            return state;
        }
        assert!(clock.now() < end, "{state:?}");
        let _ = crossbeam_channel::after(Duration::from_millis(20)).recv();
    }
}

fn wait_until_free(server: &Server, name: &str) {
    let end = Clock::real().now() + LIMIT;
    while server.app().registry().find(name).is_some() {
        assert!(Clock::real().now() < end, "the name is still taken");
        let _ = crossbeam_channel::after(Duration::from_millis(20)).recv();
    }
}

#[test]
fn a_published_stream_gives_its_newest_picture_and_tells_its_publisher_how_it_arrives() {
    let server = Server::start(&[], false);
    let live = publish(&server, "cam", &clip(600, 30), None);
    let first = number(&snapshot(&server, "cam").unwrap());
    let state = wait_for(&live, |state| state.pictures > 60 && state.stats.rembs > 1);
    let second = number(&snapshot(&server, "cam").unwrap());
    assert!(second > first && second + 5 > state.pictures as u32, "{first}, {second}, {state:?}");
    assert!(state.stats.reports > 1 && state.stats.remb_bps >= 1_000_000, "{state:?}");
    assert_eq!(state.stats.nacks, 0, "nothing was lost");
    let stream = server.app().registry().find("cam").unwrap();
    assert!(stream.facts().audio.is_some());
    let Live { page, publishers, .. } = live;
    page.close().unwrap();
    publishers.close();
    wait_until_free(&server, "cam");
    assert!(matches!(snapshot(&server, "cam"), Err(SnapshotError::StreamNotFound)));
}

#[test]
fn over_a_way_that_loses_publishing_goes_on_and_each_picture_is_exact() {
    let clip = clip(300, 0);
    let references = references(&clip);
    let server = Server::start(&[], false);
    let delay = (Duration::from_millis(5), Duration::from_millis(25));
    let live = publish(&server, "lossy", &clip, Some(Faults { seed: 3, loss: 0.05, delay }));
    let mut taken = 0;
    let mut shown = Vec::new();
    while taken < 20 {
        wait_for(&live, |state| state.pictures >= taken * 12);
        taken += 1;
        let snapshot = snapshot(&server, "lossy").unwrap();
        let rgb = pixels(&snapshot.png);
        let number = read_number(&rgb, SIZE.0, SIZE.1).expect("a readable picture");
        assert!(rgb == references[number as usize], "picture {number} is not what was sent");
        shown.push(number);
    }
    shown.dedup();
    assert!(shown.len() >= 15, "it moves: {shown:?}");
    let (lost, carried) = live.relay.as_ref().unwrap().counts();
    assert!(lost * 100 > carried * 2, "{lost} of {carried} were lost");
    let state = live.publishers.close()[0];
    assert!(state.stats.nacks > 0 && state.stats.repeated > 0, "{state:?}");
    assert_eq!(state.closed, None);
}

#[test]
fn pictures_of_a_camera_held_upright_are_turned_before_they_are_served() {
    let clip = clip(300, 30);
    let references = references(&clip);
    let server = Server::start(&[], false);
    let live = publish_turned(&server, "phone", &clip, None, 1);
    let snapshot = snapshot(&server, "phone").unwrap();
    assert_eq!((snapshot.width, snapshot.height), (SIZE.1, SIZE.0));
    // Back by a quarter turn counter-clockwise: what was the right edge is the top.
    let turned = pixels(&snapshot.png);
    let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
    let mut upright = Vec::with_capacity(turned.len());
    for row in 0..height {
        for column in 0..width {
            let at = (column * height + (height - 1 - row)) * 3;
            upright.extend_from_slice(&turned[at..at + 3]);
        }
    }
    let number = read_number(&upright, SIZE.0, SIZE.1).expect("a readable picture");
    assert!(upright == references[number as usize]);
    live.publishers.close();
    // The server heard of it by DTLS: the name is free although the page is still there.
    wait_until_free(&server, "phone");
}
