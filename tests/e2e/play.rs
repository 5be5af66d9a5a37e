//! Playing by WebRTC: a page's signalling, a viewer's stand-in, real datagrams, and a hub that the test fills by hand.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::hub::{Bell, EndReason, Publication, Publisher, SourceProtocol};
use stillcast::media::time::Timestamp;
use stillcast::media::track::{AudioCodec, AudioParams};
use stillcast::media::unit::{AccessUnit, AudioFrame};
use stillcast::services::test_card::{CardEncoder, CardSettings};

use crate::support::relay::{Faults, Relay};
use crate::support::server::Server;
use crate::support::viewer::Viewer;
use crate::support::ws_client::WsClient;

const LIMIT: Duration = Duration::from_secs(20);
const PICTURE: Duration = Duration::from_millis(33);

/// A published stream of numbered cards, pushed by the test.
struct Source {
    publisher: Publisher,
    bell: crossbeam_channel::Receiver<()>,
    encoder: CardEncoder,
    clock: Clock,
    sent: Vec<Bytes>,
}

impl Source {
    fn publish(server: &Server, name: &str, makes_keyframes: bool) -> Self {
        let clock = server.app().clock().clone();
        let (bell, rung) = if makes_keyframes { Bell::new(None) } else { Bell::without_keyframes(None) };
        let publication = Publication {
            has_audio: true,
            ..Publication::new(
                StreamName::new(name).unwrap(),
                MediaSessionId::new(&format!("of {name}")).unwrap(),
                SourceProtocol::Rtmp,
                clock.wall(),
            )
        };
        let publisher = server.app().registry().publish(publication, Some(bell)).unwrap();
        publisher.set_publishing();
        let settings = CardSettings { keyframe_interval: 0, ..CardSettings::sized(320, 240) };
        Self { publisher, bell: rung, encoder: CardEncoder::new(settings).unwrap(), clock, sent: Vec::new() }
    }

    /// The next picture, and the sound beside it.
    fn push(&mut self, change: impl FnOnce(&mut AccessUnit)) {
        let number = u32::try_from(self.sent.len()).unwrap();
        let mut unit = self.encoder.encode(number, self.clock.now(), self.clock.wall()).unwrap();
        unit.pts = Timestamp::video(i64::from(number) * 3000);
        unit.dts = unit.pts;
        change(&mut unit);
        self.sent.push(unit.data.clone());
        self.publisher.push_video(unit);
        let rate = NonZeroU32::new(48_000).unwrap();
        self.publisher.push_audio(AudioFrame {
            arrived: self.clock.now(),
            pts: Timestamp { ticks: i64::from(number) * 1600, timescale: rate },
            params: Arc::new(AudioParams { codec: AudioCodec::Opus, sample_rate: rate, channels: 2 }),
            data: Bytes::copy_from_slice(&number.to_be_bytes()),
        });
    }

    fn push_many(&mut self, count: usize) {
        (0..count).for_each(|_| self.push(|_| {}));
    }

    /// Pushes pictures in their time while the viewer watches.
    fn play_to(&mut self, viewer: &mut Viewer, count: usize) {
        for _ in 0..count {
            self.push(|_| {});
            viewer.run_until(PICTURE, |_| false);
        }
    }
}

/// The next message of this name; what else is said on the way is kept.
fn wait_for(client: &mut WsClient, seen: &mut Vec<Value>, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let message = client.next();
        seen.push(message.clone());
        if wanted(&message) {
            return message;
        }
    }
    panic!("not among {seen:?}");
}

fn status<'a>(message: &'a Value, wanted: &str) -> Option<&'a Value> {
    let data = &message["data"][0];
    (message["message"] == "notifyStreamStatusEvent" && data["status"] == wanted).then_some(data)
}

fn play(
    client: &mut WsClient,
    id: &str,
    name: &str,
    viewer: &mut Viewer,
    faults: Option<Faults>,
) -> Option<Relay> {
    play_as(client, id, name, viewer, faults, &json!({}))
}

/// Likewise, with more in the request.
fn play_as(
    client: &mut WsClient,
    id: &str,
    name: &str,
    viewer: &mut Viewer,
    faults: Option<Faults>,
    more: &Value,
) -> Option<Relay> {
    let mut request = json!({"mediaSessionId": id, "name": name, "hasVideo": true, "hasAudio": true,
        "mediaProvider": "WebRTC", "sdp": viewer.offer()});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.say("playStream", request);
    let mut seen = Vec::new();
    let answer = wait_for(client, &mut seen, |message| message["message"] == "setRemoteSDP");
    let sdp = answer["data"][1].as_str().unwrap().to_owned();
    match faults {
        None => {
            viewer.take_answer(&sdp, None);
            None
        }
        Some(faults) => {
            // The relay has to know where to.
            let server = Viewer::new(0).take_answer(&sdp, None);
            let relay = Relay::start(server, faults, &Clock::real()).unwrap();
            viewer.take_answer(&sdp, Some(relay.address()));
            Some(relay)
        }
    }
}

/// Each picture that came is one that was sent, in order; says how many of those after the first one that came are missing.
fn missing(source: &Source, viewer: &Viewer) -> usize {
    let (mut at, mut missing) = (0, 0);
    for (position, (_, unit)) in viewer.pictures.iter().enumerate() {
        let place = source.sent[at..].iter().position(|sent| *sent == unit.data);
        let place = place.expect("a picture that was not sent, or twice");
        missing += if position == 0 { 0 } else { place };
        at += place + 1;
    }
    missing
}

#[test]
fn a_viewer_of_a_source_without_keyframes_sees_the_group_at_once_and_then_every_picture() {
    let server = Server::start(&[], false);
    let mut source = Source::publish(&server, "cam", false);
    source.push_many(60);
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    let asked = source.clock.now();
    play(&mut client, "m1", "cam", &mut viewer, None);
    assert!(viewer.run_until(LIMIT, |viewer| viewer.pictures.len() >= 60));
    println!("first picture {:?} after playStream", viewer.pictures[0].0 - asked);
    let mut seen = Vec::new();
    wait_for(&mut client, &mut seen, |message| status(message, "PLAYING").is_some());
    let resize = wait_for(&mut client, &mut seen, |message| message["data"][0]["type"] == "resize");
    assert_eq!(resize["data"][0]["payload"], json!({"streamerVideoWidth": 320, "streamerVideoHeight": 240}));
    source.play_to(&mut viewer, 60);
    assert!(viewer.run_until(LIMIT, |viewer| viewer.pictures.len() == 120), "{}", viewer.pictures.len());
    assert_eq!((missing(&source, &viewer), viewer.gaps), (0, 0));
    assert_eq!(viewer.sounds.len(), 60, "sound begins with the present");
    let late = viewer.pictures[60..].windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
    assert!(late < Duration::from_millis(200), "{late:?} between two pictures");

    let viewers = server.app().registry().viewers();
    assert!(viewers.find("m1").unwrap().is_playing());
    client.say("stopStream", json!({"mediaSessionId": "m1"}));
    let end = wait_for(&mut client, &mut seen, |message| status(message, "STOPPED").is_some());
    assert_eq!(end["data"][0]["info"], "Stopped by user");
    assert!(viewers.is_empty());
    assert!(viewer.run_until(LIMIT, |viewer| viewer.is_closed));
}

#[test]
fn a_viewer_of_a_browser_waits_for_the_keyframe_that_it_asks_for() {
    let server = Server::start(&[], false);
    let mut source = Source::publish(&server, "cam", true);
    source.push_many(100);
    let _ = source.bell.try_recv();
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    play(&mut client, "m1", "cam", &mut viewer, None);
    let bell = source.bell.clone();
    assert!(viewer.run_until(LIMIT, |_| bell.try_recv().is_ok()), "the bell is rung");
    source.push_many(3);
    source.encoder.request_keyframe();
    source.push_many(1);
    source.play_to(&mut viewer, 20);
    assert!(viewer.run_until(LIMIT, |viewer| viewer.pictures.len() == 21), "{}", viewer.pictures.len());
    assert!(viewer.pictures[0].1.key && missing(&source, &viewer) == 0);
    // A second one comes shortly behind a keyframe: nobody is bothered for it.
    let _ = source.bell.try_recv();
    source.encoder.request_keyframe();
    source.push_many(2);
    let mut second = Viewer::new(2);
    play(&mut client, "m2", "cam", &mut second, None);
    assert!(second.run_until(LIMIT, |viewer| viewer.pictures.len() == 2));
    assert!(bell.try_recv().is_err());
}

#[test]
fn what_the_way_loses_comes_again() {
    let server = Server::start(&[], false);
    let mut source = Source::publish(&server, "cam", false);
    source.push_many(10);
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    let delay = (Duration::from_millis(5), Duration::from_millis(15));
    let faults = Faults { seed: 5, loss: 0.05, delay };
    let relay = play(&mut client, "m1", "cam", &mut viewer, Some(faults)).unwrap();
    assert!(viewer.run_until(LIMIT, |viewer| !viewer.pictures.is_empty()));
    source.play_to(&mut viewer, 150);
    let newest = source.sent.last().unwrap().clone();
    let is_there = |viewer: &Viewer| viewer.pictures.last().is_some_and(|(_, unit)| unit.data == newest);
    assert!(viewer.run_until(LIMIT, is_there));
    let (lost, carried) = relay.counts();
    println!("{lost} of {carried} lost, {} pictures missing", missing(&source, &viewer));
    assert!(lost > 10 && missing(&source, &viewer) < 10);
    assert!(server.app().metrics().rtp_repeated_total.get() > 0 || viewer.packets > 0);
}

#[test]
fn every_refusal_and_every_end_has_its_words() {
    let server = Server::start(&[("transcoding_disabled", "true")], false);
    let mut client = WsClient::hello(server.address("ws"));
    let refused = |client: &mut WsClient, name: &str, change: fn(&mut Value)| {
        let mut request = json!({"mediaSessionId": "m0", "name": name, "mediaProvider": "WebRTC",
            "sdp": Viewer::new(9).offer()});
        change(&mut request);
        client.say("playStream", request);
        client.expect_status("m0")
    };
    let failed = |info: &str| ("FAILED".to_owned(), info.to_owned());
    assert_eq!(refused(&mut client, "cam", |_| {}), failed("Stream not found"));
    assert_eq!(refused(&mut client, "dov://x.mp4", |_| {}), failed("Failed to get agent storage"));
    let mut source = Source::publish(&server, "cam", false);
    assert_eq!(refused(&mut client, "cam", |_| {}), failed("Publish stream is not ready"));
    source.push_many(5);
    let transcoding = "Transcoding required, but disabled";
    assert_eq!(refused(&mut client, "cam", |request| request["width"] = "160".into()), failed(transcoding));
    let without_h264 = |request: &mut Value| {
        request["sdp"] = request["sdp"].as_str().unwrap().replace("H264/90000", "H265/90000").into();
    };
    assert_eq!(refused(&mut client, "cam", without_h264), failed(transcoding));
    assert_eq!(
        refused(&mut client, "cam", |request| request["sdp"] = "v=1".into()),
        failed("Failed to add stream to proxy")
    );
    assert!(server.app().registry().viewers().is_empty());

    let mut seen = Vec::new();
    let watch = |client: &mut WsClient, id: &str, source: &Source| {
        let mut viewer = Viewer::new(3);
        play(client, id, source.publisher.stream().publication().name.as_str(), &mut viewer, None);
        assert!(viewer.run_until(LIMIT, |viewer| !viewer.pictures.is_empty()));
        viewer
    };
    let mut ends = |client: &mut WsClient, id: &str| {
        let end = wait_for(client, &mut seen, |m| {
            m["data"][0]["mediaSessionId"] == id && status(m, "FAILED").is_some()
        });
        end["data"][0]["info"].as_str().unwrap().to_owned()
    };
    let first = watch(&mut client, "m1", &source);
    server.app().registry().viewers().find("m1").unwrap().ask_to_end(EndReason::Terminated);
    assert_eq!(ends(&mut client, "m1"), "Stopped by rest /terminate");
    // B pictures to which others refer: from there on browsers would show them in a wrong order.
    let second = watch(&mut client, "m2", &source);
    source.push(|unit| unit.bidirectional = true);
    assert_eq!(ends(&mut client, "m2"), transcoding);
    assert_eq!(refused(&mut client, "cam", |_| {}), failed(transcoding));
    let mut other = Source::publish(&server, "other", false);
    other.push_many(2);
    other.push(|unit| (unit.bidirectional, unit.disposable) = (true, true));
    other.push_many(1);
    let mut third = watch(&mut client, "m3", &other);
    assert!(
        third.run_until(LIMIT, |viewer| viewer.pictures.len() == 3),
        "all but the one that nothing refers to"
    );
    other.publisher.end(EndReason::ByUser);
    assert_eq!(ends(&mut client, "m3"), "Stopped by publisher stop");
    drop((first, second));
    assert!(server.app().registry().viewers().is_empty());
}

#[test]
fn a_viewer_gets_the_size_that_it_asks_for_and_another_one_what_is_published() {
    let server = Server::start(&[], false);
    let mut source = Source::publish(&server, "cam", false);
    source.push_many(5);
    let (mut client, mut other) =
        (WsClient::hello(server.address("ws")), WsClient::hello(server.address("ws")));
    let (mut small, mut whole) = (Viewer::new(1), Viewer::new(2));
    let sized = json!({"width": "160", "height": "120", "bitrate": 300});
    play_as(&mut client, "m1", "cam", &mut small, None, &sized);
    play(&mut other, "m2", "cam", &mut whole, None);
    for viewer in [&mut small, &mut whole] {
        assert!(viewer.run_until(LIMIT, |viewer| !viewer.pictures.is_empty()));
    }
    for _ in 0..30 {
        source.push(|_| {});
        small.run_until(PICTURE, |_| false);
    }
    assert!(small.run_until(LIMIT, |viewer| viewer.pictures.len() >= 25));
    assert!(whole.run_until(LIMIT, |viewer| viewer.pictures.len() == 35));
    let small_shows = small.shown();
    assert!(small_shows.is_sorted() && small_shows.iter().all(|(_, size)| *size == (160, 120)));
    assert!(small_shows.first().unwrap().0 >= 4, "nothing that was past when it came: {small_shows:?}");
    let whole_shows: Vec<_> = (0..35).map(|number| (number, (320, 240))).collect();
    assert_eq!(whole.shown(), whole_shows);
    let mut seen = Vec::new();
    let resized = wait_for(&mut client, &mut seen, |m| m["data"][0]["type"] == "resize");
    assert_eq!(resized["data"][0]["payload"]["streamerVideoWidth"], 160);
    assert!(small.sounds.len() > 20, "its sound comes as it is");
    client.say("stopStream", json!({"mediaSessionId": "m1"}));
    let is_stopped = |m: &Value| status(m, "STOPPED").is_some();
    wait_for(&mut client, &mut seen, is_stopped);
    source.push_many(1);
    let metrics = server.app().metrics();
    assert!(small.run_until(LIMIT, |_| metrics.renditions.get() == 0), "nobody watches it any more");
}

#[test]
fn a_viewer_goes_over_to_pictures_made_anew_when_others_refer_to_b_frames() {
    let server = Server::start(&[("transcoders_max", "1")], false);
    let mut source = Source::publish(&server, "cam", false);
    source.push_many(3);
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    play(&mut client, "m1", "cam", &mut viewer, None);
    assert!(viewer.run_until(LIMIT, |viewer| viewer.pictures.len() == 3));
    // As far as the server can tell, one to which others refer; for a decoder it is one like the others.
    source.push(|unit| unit.bidirectional = true);
    source.play_to(&mut viewer, 20);
    assert!(viewer.run_until(LIMIT, |viewer| viewer.pictures.len() >= 15));
    let shows = viewer.shown();
    assert!(shows.is_sorted_by(|a, b| a.0 < b.0), "in order and none twice: {shows:?}");
    assert_eq!(server.app().metrics().renditions.get(), 1);
    // Others begin with it; who needs another form finds no place.
    let mut second = Viewer::new(2);
    play(&mut client, "m2", "cam", &mut second, None);
    let began = source.clock.now();
    while second.pictures.is_empty() && source.clock.now() - began < LIMIT {
        source.play_to(&mut second, 1);
    }
    assert!(!second.pictures.is_empty());
    assert_eq!(server.app().metrics().renditions.get(), 1);
    let mut request = json!({"mediaSessionId": "m3", "name": "cam", "mediaProvider": "WebRTC",
        "sdp": Viewer::new(9).offer(), "width": 160});
    let mut third = WsClient::hello(server.address("ws"));
    third.say("playStream", request.take());
    assert_eq!(third.expect_status("m3"), ("FAILED".into(), "No available transcoders".into()));
    source.publisher.end(EndReason::ByUser);
    let mut seen = Vec::new();
    let end = wait_for(&mut client, &mut seen, |m| status(m, "FAILED").is_some());
    assert_eq!(end["data"][0]["info"], "Stopped by publisher stop");
}

#[test]
fn a_connection_that_closes_takes_its_players_along_and_streams_go_on() {
    let server = Server::start(&[], false);
    let mut source = Source::publish(&server, "cam", false);
    source.push_many(5);
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewers: Vec<Viewer> = (0..3).map(Viewer::new).collect();
    for (number, viewer) in viewers.iter_mut().enumerate() {
        play(&mut client, &format!("m{number}"), "cam", viewer, None);
        assert!(viewer.run_until(LIMIT, |viewer| viewer.pictures.len() == 5));
    }
    assert_eq!(server.app().registry().viewers().len(), 3);
    client.close();
    assert!(viewers[0].run_until(LIMIT, |viewer| viewer.is_closed));
    assert!(server.app().registry().viewers().is_empty());
    source.push_many(1);
    assert!(source.publisher.stream().ended().is_none());
}
