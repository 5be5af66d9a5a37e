//! Publishing by WebRTC: a page's signalling, a browser's stand-in, real datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::metrics::Metrics;
use stillcast::hub::Gop;
use stillcast::media::unit::AccessUnit;
use stillcast::proto::dtls::Certificate;
use stillcast::services::colour::to_rgb;
use stillcast::services::decode::StreamDecoder;
use stillcast::services::snapshot::{Snapshot, SnapshotError, SnapshotRequest};
use stillcast::services::test_card::{CardSettings, annex_b_run, read_number};

use crate::support::browser::{Browser, BrowserSettings};
use crate::support::clip::Clip;
use crate::support::page::{Page, PageError};
use crate::support::process::Process;
use crate::support::publishers::{Publisher, PublisherState, Publishers};
use crate::support::relay::{Faults, Relay};
use crate::support::server::Server;

const LIMIT: Duration = Duration::from_secs(20);
const SIZE: (u32, u32) = (320, 240);

/// A published stream, with all that keeps it going.
pub(crate) struct Live {
    pub(crate) page: Page,
    pub(crate) publishers: Publishers,
    relay: Option<Relay>,
}

pub(crate) fn clip(pictures: u32, keyframe_interval: u32) -> Arc<Clip> {
    let settings = CardSettings { keyframe_interval, ..CardSettings::sized(SIZE.0, SIZE.1) };
    Clip::read(&annex_b_run(settings, 0..pictures, &Clock::real()).unwrap(), 30).unwrap()
}

/// How a stand-in for a browser publishes.
#[derive(Default)]
pub(crate) struct Way {
    /// What the network does to its datagrams.
    pub(crate) faults: Option<Faults>,
    /// Its camera is held so that the viewer must turn its pictures.
    pub(crate) quarter_turns: u8,
    /// It has no microphone.
    pub(crate) is_silent: bool,
}

pub(crate) fn publish(server: &Server, name: &str, clip: &Arc<Clip>, way: Way) -> Live {
    publish_at(server.address("ws"), name, clip, way)
}

pub(crate) fn publish_at(signalling: SocketAddr, name: &str, clip: &Arc<Clip>, way: Way) -> Live {
    let clock = &Clock::real();
    let has_audio = !way.is_silent;
    let settings = BrowserSettings {
        seed: 7,
        video: true,
        audio: has_audio,
        certificate: Arc::new(Certificate::generate().unwrap()),
    };
    let mut browser = Browser::new(settings, clock.now());
    browser.set_orientation(way.quarter_turns);
    if clip.is_vp8() {
        browser.without_h264();
    }
    let mut page = Page::connect(signalling).unwrap();
    let answer = page.publish(name, &browser.offer(), has_audio).unwrap();
    let address = browser.take_answer(clock.now(), &answer);
    let relay = way.faults.map(|faults| Relay::start(address, faults, clock).unwrap());
    let address = relay.as_ref().map_or(address, Relay::address);
    let publisher = Publisher::new(browser, address, clip.clone(), true, has_audio).unwrap();
    let publishers = Publishers::start(vec![publisher], clock).unwrap();
    page.wait_published().unwrap();
    Live { page, publishers, relay }
}

/// What a page is told when its stream fails.
fn why_failed(page: &mut Page) -> String {
    match page.wait_for(|_| false) {
        Err(PageError::Failed(_, info)) => info,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn snapshot(server: &Server, name: &str) -> Result<Arc<Snapshot>, SnapshotError> {
    let request =
        SnapshotRequest { stream_name: name.into(), scale: None, max_age: None, limit: Some(LIMIT) };
    server.app().snapshots().take(request)
}

pub(crate) fn pixels(png: &[u8]) -> Vec<u8> {
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
pub(crate) fn references(clip: &Clip) -> Vec<Vec<u8>> {
    let mut decoder = StreamDecoder::new(1 << 20, Metrics::new());
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
pub(crate) fn wait_for(live: &Live, holds: impl Fn(&PublisherState) -> bool) -> PublisherState {
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
    let live = publish(&server, "cam", &clip(600, 30), Way::default());
    // From here on a picture needs no keyframe to be asked for.
    wait_for(&live, |_| server.app().registry().find("cam").is_some_and(|stream| stream.facts().units > 0));
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
    let live = publish(
        &server,
        "lossy",
        &clip,
        Way { faults: Some(Faults { seed: 3, loss: 0.05, delay }), ..Way::default() },
    );
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
    let live = publish(&server, "phone", &clip, Way { quarter_turns: 1, ..Way::default() });
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

#[test]
fn a_browser_that_is_gone_without_a_word_fails_by_its_consent() {
    let server = Server::start(&[("ice_consent_timeout_ms", "3500")], false);
    let Live { mut page, publishers, .. } = publish(&server, "cam", &clip(30, 30), Way::default());
    drop(publishers);
    assert_eq!(why_failed(&mut page), "Failed by ICE keep alive");
    assert!(server.app().registry().is_empty());
    let ended = &server.app().metrics().publications_ended_total;
    assert_eq!(ended.with_label_values(&["ice_consent"]).get(), 1);
}

#[test]
fn a_browser_that_sends_no_media_fails_though_it_is_there() {
    let server = Server::start(&[("rtp_activity_detecting", "true,1")], false);
    let pictures = clip(30, 30);
    let way = || Way { is_silent: true, ..Way::default() };
    let mut sending = publish(&server, "sending", &pictures, way());
    // Its second picture is due in an hour.
    let mut slow = Arc::into_inner(clip(2, 2)).unwrap();
    slow.interval = Duration::from_secs(3600);
    let mut silent = publish(&server, "silent", &Arc::new(slow), way());
    assert_eq!(why_failed(&mut silent.page), "Failed by RTP activity");
    sending.page.answer_pings().unwrap();
    assert!(server.app().registry().find("sending").is_some());
}

#[test]
fn what_fifty_publications_took_is_given_back() {
    let process = Process::start(&[]);
    let url = process.value("ws").split(' ').next().unwrap();
    let signalling = url.strip_prefix("ws://").unwrap().trim_end_matches('/').parse().unwrap();
    let held = || {
        let of = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", process.id())).unwrap().count();
        (of("fd"), of("task"))
    };
    let clip = clip(30, 30);
    let before = held();
    for round in 0..50 {
        // The same name each time: it is free as soon as the last one is gone, however it went.
        let Live { page, publishers, .. } = publish_at(signalling, "cam", &clip, Way::default());
        if round == 0 {
            assert!(held() > before);
        }
        match round % 3 {
            0 => page.close().unwrap(),
            1 => drop(page),
            _ => {
                publishers.close();
                drop(page);
            }
        }
    }
    let end = Clock::real().now() + LIMIT;
    while held() != before {
        assert!(Clock::real().now() < end, "descriptors and threads were {before:?} and are {:?}", held());
        let _ = crossbeam_channel::after(Duration::from_millis(20)).recv();
    }
}
