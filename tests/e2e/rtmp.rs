//! RTMP with real programs: ffmpeg and GStreamer publish, ffmpeg plays, and the picture is the right one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::metrics::Metrics;
use stillcast::edge::accept::{ConnectionLimits, Connections};
use stillcast::edge::rtmp::{RtmpService, RtmpSettings};
use stillcast::hub::{EndReason, GopLimits, Registry, Stream};
use stillcast::proto::rtmp::chunk::kind;
use stillcast::proto::rtmp::server::ServerSettings;
use stillcast::services::test_card::{CardEncoder, CardSettings, read_number};

use crate::support::rest::HttpClient;
use crate::support::rtmp::{LIMIT, RtmpTalker, Running, card_file, run};
use crate::support::server::Server;
use crate::support::site::read_png;

const SIZE: (u32, u32) = (320, 180);
/// x264 as encoders use it: High profile, CABAC, B pictures in a pyramid, slices, one long group.
const HIGH: &[&str] = &[
    "-c:v",
    "libx264",
    "-profile:v",
    "high",
    "-preset",
    "fast",
    "-bf",
    "3",
    "-b_strategy",
    "0",
    "-g",
    "600",
    "-keyint_min",
    "600",
    "-sc_threshold",
    "0",
    "-slices",
    "2",
    "-crf",
    "18",
];
const COPY: &[&str] = &["-c:v", "copy"];

/// Waits until `found` gives something.
fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::real();
    let deadline = clock.now() + LIMIT;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(clock.now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn stream_of(server: &Server, name: &str, units: u64) -> Arc<Stream> {
    wait_for(name, || server.app().registry().find(name).filter(|stream| stream.facts().units >= units))
}

fn url(server: &Server, port: &str, path: &str) -> String {
    format!("{port}://{}/{path}", server.address(port))
}

/// ffmpeg publishes a file at its own pace.
fn publish(file: &Path, url: &str) -> Running {
    let file = file.to_str().unwrap();
    Running::start(
        "ffmpeg",
        &["-hide_banner", "-loglevel", "error", "-re", "-i", file, "-c", "copy", "-f", "flv", url],
    )
}

/// Takes pictures of a stream whose first unit is still cached, and checks that each shows the newest frame of the moment:
/// the one with the latest time to be shown of all that had come at some moment between request and answer.
fn snapshots_are_the_newest_frame(server: &Server, stream: &Stream, name: &str) {
    let mut client = HttpClient::connect(server.address("http"));
    for _ in 0..5 {
        let newest_before = stream.newest().unwrap().seq;
        let response = client.get(&format!("/snapshots/{name}.png"));
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        let units = stream.gop().units;
        assert_eq!(units[0].seq, 0, "the test needs the whole stream in one group");
        let first = units[0].pts.ticks;
        let mut latest = first;
        let mut numbers = Vec::new();
        for unit in &units {
            latest = latest.max(unit.pts.ticks);
            if unit.seq >= newest_before {
                numbers.push((latest - first + 1500) / 3000);
            }
        }
        let (width, height, number) = read_png(&response.body);
        assert_eq!((width, height), SIZE);
        let number = i64::from(number.expect("no number in the picture"));
        assert!(numbers.contains(&number), "frame {number} is none of the newest ones {numbers:?}");
    }
}

/// The numbers of the frames that ffmpeg plays.
fn play(url: &str, frames: u32) -> Vec<u32> {
    let frames = frames.to_string();
    let played = run(
        "ffmpeg",
        &[
            "-hide_banner",
            "-loglevel",
            "error",
            "-i",
            url,
            "-an",
            "-frames:v",
            &frames,
            "-fps_mode",
            "passthrough",
            "-pix_fmt",
            "rgb24",
            "-f",
            "rawvideo",
            "pipe:1",
        ],
    );
    assert!(played.status.success(), "{}", String::from_utf8_lossy(&played.stderr));
    let bytes = (SIZE.0 * SIZE.1 * 3) as usize;
    played
        .stdout
        .chunks_exact(bytes)
        .map(|rgb| read_number(rgb, SIZE.0, SIZE.1).expect("no number in a frame"))
        .collect()
}

fn are_consecutive(numbers: &[u32]) -> bool {
    numbers.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

#[test]
fn ffmpeg_publishes_high_profile_and_plays_it_back_frame_by_frame() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 360, HIGH);
    let _publisher = publish(&file, &url(&server, "rtmp", "live?conn=1/cam?key=2"));
    let stream = stream_of(&server, "cam", 30);
    let publication = stream.publication();
    assert_eq!(publication.custom, serde_json::json!({"connect": {"conn": "1"}, "stream": {"key": "2"}}));
    assert_eq!(publication.app_key, "flashStreamingApp");
    assert!(stream.gop().units.iter().any(|unit| unit.bidirectional));
    let facts = stream.facts();
    assert_eq!((facts.video_codec(), facts.audio_codec(), facts.gaps), ("H264", "mpeg4-generic", 0));
    snapshots_are_the_newest_frame(&server, &stream, "cam");
    let numbers = play(&url(&server, "rtmp", "live/cam"), 90);
    assert_eq!((numbers.len(), numbers[0]), (90, 0), "from the keyframe on");
    assert!(are_consecutive(&numbers), "{numbers:?}");
    let probed = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-show_entries",
            "stream=codec_name,width,height,profile",
            "-of",
            "csv=p=0",
            &url(&server, "rtmp", "live/cam"),
        ],
    );
    let probed = String::from_utf8(probed.stdout).unwrap();
    assert!(probed.contains("h264,High,320,180") && probed.contains("aac"), "{probed}");
}

#[test]
fn a_killed_publisher_leaves_its_name_free_at_once() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, COPY);
    let address = url(&server, "rtmp", "live/cam");
    let first = publish(&file, &address);
    let stream = stream_of(&server, "cam", 5);
    first.kill();
    wait_for("the end", || stream.ended());
    assert_eq!(stream.ended(), Some(EndReason::SessionDisconnect));
    let _second = publish(&file, &address);
    let again = stream_of(&server, "cam", 5);
    assert!(again.epoch() > stream.epoch());
}

#[test]
fn a_second_publisher_is_refused_and_the_first_lives_on() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, COPY);
    let address = url(&server, "rtmp", "live/cam");
    let _first = publish(&file, &address);
    let stream = stream_of(&server, "cam", 5);
    let second = run(
        "ffmpeg",
        &[
            "-hide_banner",
            "-loglevel",
            "error",
            "-i",
            file.to_str().unwrap(),
            "-c",
            "copy",
            "-f",
            "flv",
            &address,
        ],
    );
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("Stream name is already in use"), "{said}");
    let units = stream.facts().units;
    wait_for("more units", || (stream.facts().units > units).then_some(()));
    assert_eq!(stream.ended(), None);
}

#[test]
fn rtmps_carries_the_same() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, COPY);
    let _publisher = publish(&file, &url(&server, "rtmps", "live/cam"));
    let stream = stream_of(&server, "cam", 5);
    snapshots_are_the_newest_frame(&server, &stream, "cam");
    let numbers = play(&url(&server, "rtmps", "live/cam"), 40);
    assert!(numbers.len() == 40 && are_consecutive(&numbers), "{numbers:?}");
}

#[test]
fn gstreamer_publishes_with_both_of_its_sinks() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, COPY);
    for sink in ["rtmp2sink", "rtmpsink"] {
        let location = url(&server, "rtmp", &format!("live/{sink}"));
        let pipeline = format!(
            "filesrc location={} ! flvdemux ! h264parse ! flvmux streamable=true ! {sink} sync=true location={location}",
            file.display()
        );
        let arguments: Vec<&str> = std::iter::once("-q").chain(pipeline.split(' ')).collect();
        let _publisher = Running::start("gst-launch-1.0", &arguments);
        let stream = stream_of(&server, sink, 5);
        assert_eq!(stream.facts().gaps, 0);
        snapshots_are_the_newest_frame(&server, &stream, sink);
    }
}

#[test]
fn a_stream_of_sound_alone_says_that_it_has_no_picture() {
    let server = Server::start(&[], false);
    let address = url(&server, "rtmp", "live/radio");
    let _publisher = Running::start(
        "ffmpeg",
        &[
            "-hide_banner",
            "-loglevel",
            "error",
            "-re",
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440",
            "-c:a",
            "aac",
            "-f",
            "flv",
            &address,
        ],
    );
    let stream = wait_for("radio", || {
        server.app().registry().find("radio").filter(|stream| stream.facts().audio_bytes > 0)
    });
    assert!(!stream.facts().has_video);
    let response = HttpClient::connect(server.address("http")).get("/snapshots/radio.png");
    assert_eq!(response.error(409, "/snapshots/radio.png"), "Stream has no video");
    let probed =
        run("ffprobe", &["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", &address]);
    assert_eq!(String::from_utf8_lossy(&probed.stdout).trim(), "aac");
}

#[test]
fn the_test_card_is_played_and_its_end_is_told() {
    let server = Server::start(&[("demo_size", "320x180")], true);
    let numbers = play(&url(&server, "rtmp", "live/test"), 45);
    assert!(numbers.len() == 45 && are_consecutive(&numbers), "{numbers:?}");
    let missing = run(
        "ffmpeg",
        &["-hide_banner", "-loglevel", "error", "-i", &url(&server, "rtmp", "live/no"), "-f", "null", "-"],
    );
    assert!(String::from_utf8_lossy(&missing.stderr).contains("stream not found"));
    let mut player = RtmpTalker::connect(server.address("rtmp"), &[]);
    player.play("test");
    assert_eq!(
        (player.next_code().as_str(), player.next_code().as_str()),
        ("NetStream.Play.Reset", "NetStream.Play.Start")
    );
    assert_eq!(server.app().registry().viewers().list().len(), 1);
    assert_eq!(server.stop(), Vec::<String>::new());
    assert_eq!(player.next_code(), "NetStream.Play.UnpublishNotify");
    while player.next().is_some() {}
}

fn encoder(size: (u32, u32)) -> CardEncoder {
    CardEncoder::new(CardSettings::sized(size.0, size.1)).unwrap()
}

#[test]
fn a_new_size_and_a_clock_that_starts_anew_are_taken_in_the_middle() {
    let server = Server::start(&[], false);
    let clock = Clock::real();
    let mut publisher = RtmpTalker::connect(server.address("rtmp"), &[]);
    assert_eq!(publisher.publish("cam"), "NetStream.Publish.Start");
    let mut client = HttpClient::connect(server.address("http"));
    let mut units = 0;
    // Each encoder begins at a time of its own, one of them before what was.
    for (size, begins_ms) in [(SIZE, 100_000), ((640, 360), 0), (SIZE, 50_000)] {
        let mut encoder = encoder(size);
        for number in 0..4 {
            let unit = encoder.encode(number, clock.now(), clock.wall()).unwrap();
            publisher.video(&unit, begins_ms + number * 40);
            units += 1;
        }
        let stream = stream_of(&server, "cam", units);
        let response = client.get("/snapshots/cam.png");
        assert_eq!((response.status, read_png(&response.body)), (200, (size.0, size.1, Some(3))));
        let times: Vec<i64> = stream.gop().units.iter().map(|unit| unit.dts.ticks).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    }
}

#[test]
fn a_damaged_picture_is_never_shown() {
    let server = Server::start(&[("snapshot_taking_interval_ms", "300")], false);
    let clock = Clock::real();
    let mut publisher = RtmpTalker::connect(server.address("rtmp"), &[]);
    publisher.publish("cam");
    let mut encoder = encoder(SIZE);
    for number in 0..6 {
        let mut unit = encoder.encode(number, clock.now(), clock.wall()).unwrap();
        if number == 4 {
            unit.data = unit.data.slice(..unit.data.len() / 2);
        }
        publisher.video(&unit, number * 40);
    }
    let stream =
        wait_for("the gap", || server.app().registry().find("cam").filter(|stream| stream.facts().gaps == 1));
    let mut client = HttpClient::connect(server.address("http"));
    assert_eq!(client.get("/snapshots/cam.png").status, 504);
    encoder.request_keyframe();
    publisher.video(&encoder.encode(6, clock.now(), clock.wall()).unwrap(), 240);
    wait_for("the keyframe", || stream.newest());
    assert_eq!(read_png(&client.get("/snapshots/cam.png").body).2, Some(6));
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    assert!(metrics.contains("stillcast_bad_input_total{kind=\"rtmp_video\"} 1"), "{metrics}");
}

#[test]
fn an_operator_ends_a_publication_and_its_encoder_hears_it() {
    let server = Server::start(&[], false);
    let mut publisher = RtmpTalker::connect(server.address("rtmp"), &[]);
    publisher.publish("cam");
    let stream = wait_for("cam", || server.app().registry().find("cam"));
    stream.ask_to_end(EndReason::Terminated);
    assert_eq!(publisher.next_code(), "NetStream.Unpublish.Success");
    assert_eq!(stream.ended(), Some(EndReason::Terminated));
    assert!(server.app().registry().find("cam").is_none());
}

/// A service of its own on a free port.
fn service(write_limit: Duration) -> (SocketAddr, Registry, stillcast::edge::accept::Acceptor, Clock) {
    let (clock, metrics) = (Clock::real(), Metrics::new());
    let registry = Registry::new(GopLimits { units: 600, bytes: 16 << 20 }, 10);
    let session =
        ServerSettings { pixels_max: u64::MAX, idle_limit: Duration::from_millis(300), silence_limit: None };
    let settings = RtmpSettings { session, write_limit, close_limit: Duration::from_secs(1) };
    let service = RtmpService::new(settings, registry.clone(), metrics.clone(), clock.clone());
    let limits = ConnectionLimits { total: 10, per_address: 10 };
    let connections = Connections::new(limits, metrics);
    let acceptor = service.listen("rtmp", "127.0.0.1:0".parse().unwrap(), None, connections).unwrap();
    (acceptor.address(), registry, acceptor, clock)
}

#[test]
fn a_player_that_stops_reading_is_let_go_and_holds_nobody_up() {
    let (address, registry, acceptor, clock) = service(Duration::from_millis(500));
    let mut publisher = RtmpTalker::connect(address, &[]);
    publisher.publish("cam");
    let mut encoder = encoder(SIZE);
    let unit = encoder.encode(0, clock.now(), clock.wall()).unwrap();
    let mut stalled = RtmpTalker::connect(address, &[]);
    stalled.play("cam");
    wait_for("the player", || (registry.viewers().list().len() == 1).then_some(()));
    let mut reader = RtmpTalker::connect(address, &[]);
    reader.play("cam");
    wait_for("both players", || (registry.viewers().list().len() == 2).then_some(()));
    // SEI that nobody looks at makes the pictures large.
    let mut large = unit.clone();
    let sei = [[0x06, 5].as_slice(), &vec![0xFF; 200_000], &[0x80]].concat();
    let data = [(sei.len() as u32).to_be_bytes().as_slice(), sei.as_slice(), &unit.data[..]].concat();
    large.data = data.into();
    let mut sent = 0;
    let mut heard = 0;
    while registry.viewers().list().len() > 1 {
        publisher.video(&large, sent * 40);
        sent += 1;
        while heard < sent {
            let message = reader.next().expect("the reader is served");
            heard += u32::from(message.kind == kind::VIDEO && message.payload.get(1) == Some(&1));
        }
        assert!(sent < 1_000_000, "the player that does not read is served for ever");
    }
    let left = registry.viewers().list();
    assert_eq!(left.len(), 1);
    drop((stalled, reader, publisher));
    assert!(acceptor.stop(&clock, Duration::from_secs(5)));
}

#[test]
fn who_connects_and_says_nothing_is_let_go() {
    let (address, _, acceptor, clock) = service(Duration::from_secs(5));
    use std::io::Read as _;
    for hello in [b"".as_slice(), b"\x03half a handshake"] {
        let mut silent = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut silent, hello).unwrap();
        silent.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0, "closed");
    }
    assert!(acceptor.stop(&clock, Duration::from_secs(5)));
}
