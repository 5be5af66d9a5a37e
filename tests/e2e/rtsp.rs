//! RTSP with real programs: ffmpeg and GStreamer publish and play, and what comes out is what went in.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::hub::{EndReason, Publication, SourceProtocol, Stream};

use crate::support::rest::HttpClient;
use crate::support::rtmp::{LIMIT, Running, card_file, run};
use crate::support::server::Server;
use crate::support::site::read_png;

const SIZE: (u32, u32) = (320, 180);
const QUIET: [&str; 3] = ["-hide_banner", "-loglevel", "error"];
/// B pictures in a pyramid, several slices, a keyframe every second.
const PYRAMID: &[&str] = &[
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
    "30",
    "-sc_threshold",
    "0",
    "-slices",
    "2",
    "-crf",
    "20",
];
/// Everything in one group, so that nothing is forgotten while a test looks.
const ONE_GROUP: &[&str] = &["-c:v", "copy"];

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

fn url(server: &Server, path: &str) -> String {
    format!("rtsp://{}/{path}", server.address("rtsp"))
}

fn push_arguments<'a>(file: &'a Path, transport: &'a str, url: &'a str) -> Vec<&'a str> {
    let mut arguments = QUIET.to_vec();
    arguments.extend(["-re", "-i", file.to_str().unwrap(), "-c", "copy", "-rtsp_transport", transport]);
    arguments.extend(["-f", "rtsp", url]);
    arguments
}

/// ffmpeg publishes a file at its own pace.
fn push(file: &Path, transport: &str, url: &str) -> Running {
    Running::start("ffmpeg", &push_arguments(file, transport, url))
}

/// The hashes that ffmpeg's `framemd5` writes into a file.
fn hashes(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(',').nth(5).unwrap().trim().to_owned()).collect()
}

/// Hashes of the decoded pictures and of the coded sound that ffmpeg reads from `input`.
fn media_hashes(folder: &Path, input: &[&str], limit: &[&str]) -> (Vec<String>, Vec<String>) {
    let (video, audio) = (folder.join("video.md5"), folder.join("audio.md5"));
    let mut arguments = QUIET.to_vec();
    arguments.push("-y");
    arguments.extend(input);
    arguments.extend(["-map", "0:v", "-fps_mode", "passthrough"]);
    arguments.extend(limit);
    arguments.extend(["-f", "framemd5", video.to_str().unwrap(), "-map", "0:a", "-c", "copy"]);
    arguments.extend(limit);
    arguments.extend(["-f", "framemd5", audio.to_str().unwrap()]);
    let output = run("ffmpeg", &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (hashes(&video), hashes(&audio))
}

/// All of `part` stand in `whole`, side by side.
fn is_run_of(part: &[String], whole: &[String]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

fn comes_back_as_it_was(push_by: &str, play_by: &str) {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 360, PYRAMID);
    let address = url(&server, "live/cam?key=2");
    let _publisher = push(&file, push_by, &address);
    let stream = stream_of(&server, "live/cam", 30);
    let publication = stream.publication();
    assert_eq!(publication.custom, serde_json::json!({"stream": {"key": "2"}}));
    assert_eq!(
        (publication.video_codec.as_str(), publication.audio_codec.as_str()),
        ("H264", "mpeg4-generic")
    );
    let mut last = i64::MIN;
    for unit in &stream.gop().units {
        assert!(unit.dts.ticks > last && unit.pts.ticks >= unit.dts.ticks);
        last = unit.dts.ticks;
    }
    let played = media_hashes(
        server.folder(),
        &["-rtsp_transport", play_by, "-i", &url(&server, "live/cam")],
        &["-t", "3"],
    );
    let facts = stream.facts();
    assert_eq!((facts.gaps, facts.video_codec(), facts.audio_codec()), (0, "H264", "mpeg4-generic"));
    let sent = media_hashes(server.folder(), &["-i", file.to_str().unwrap()], &[]);
    assert!(
        played.0.len() >= 60 && is_run_of(&played.0, &sent.0),
        "{} pictures are not those sent",
        played.0.len()
    );
    assert!(
        played.1.len() >= 60 && is_run_of(&played.1, &sent.1),
        "{} frames of sound are not those sent",
        played.1.len()
    );
}

#[test]
fn what_ffmpeg_publishes_over_tcp_comes_back_over_tcp_as_it_was() {
    comes_back_as_it_was("tcp", "tcp");
}

#[test]
fn what_ffmpeg_publishes_over_udp_comes_back_over_udp_as_it_was() {
    comes_back_as_it_was("udp", "udp");
}

#[test]
fn picture_and_sound_of_a_publisher_are_on_one_clock() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, ONE_GROUP);
    let _publisher = push(&file, "tcp", &url(&server, "cam"));
    let stream = stream_of(&server, "cam", 60);
    let mut joined = stream.subscribe(1000, None);
    let video = joined.backlog.units.first().unwrap();
    // The first picture and the first sound of the file are of the same moment, but for what AAC encoders put in front.
    let sound = joined.backlog_audio.remove(0);
    let apart_ms = sound.pts.ticks * 1000 / i64::from(sound.pts.timescale.get()) - video.pts.ticks / 90;
    assert!(apart_ms.abs() <= 70, "{apart_ms} ms apart");
}

#[test]
fn a_snapshot_of_a_published_card_shows_its_newest_number() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, ONE_GROUP);
    let _publisher = push(&file, "tcp", &url(&server, "cam"));
    let stream = stream_of(&server, "cam", 30);
    let mut client = HttpClient::connect(server.address("http"));
    for _ in 0..5 {
        let before = stream.newest().unwrap().seq;
        let response = client.get("/snapshots/cam.png");
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        let (width, height, number) = read_png(&response.body);
        let after = stream.newest().unwrap().seq;
        let number = u64::from(number.expect("no number in the picture"));
        assert!(
            (width, height) == SIZE && (before..=after).contains(&number),
            "{number} of {before}..={after}"
        );
    }
}

#[test]
fn a_killed_publisher_leaves_its_name_free_at_once() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, ONE_GROUP);
    for transport in ["tcp", "udp"] {
        let address = url(&server, "cam");
        let first = push(&file, transport, &address);
        let stream = stream_of(&server, "cam", 5);
        first.kill();
        wait_for("the end", || stream.ended());
        assert_eq!(stream.ended(), Some(EndReason::SessionDisconnect));
        let second = push(&file, transport, &address);
        assert!(stream_of(&server, "cam", 5).epoch() > stream.epoch());
        drop(second);
        wait_for("the end", || server.app().registry().is_empty().then_some(()));
    }
}

#[test]
fn a_publisher_of_a_taken_name_is_refused_with_the_reason_and_the_first_lives_on() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 300, ONE_GROUP);
    let _first = push(&file, "tcp", &url(&server, "cam"));
    let stream = stream_of(&server, "cam", 5);
    let name = StreamName::new("other").unwrap();
    let id = MediaSessionId::new("other").unwrap();
    let other = Publication::new(name, id, SourceProtocol::Rtmp, Clock::real().wall());
    let _other = server.app().registry().publish(other, None).unwrap();
    for taken in ["cam", "other"] {
        let second = run("ffmpeg", &push_arguments(&file, "tcp", &url(&server, taken)));
        let said = String::from_utf8_lossy(&second.stderr);
        assert!(!second.status.success() && said.contains("Stream name is already in use"), "{said}");
    }
    let units = stream.facts().units;
    wait_for("the first publisher", || (stream.facts().units > units + 5).then_some(()));
    assert_eq!(server.app().registry().len(), 2);
}

#[test]
fn a_terminated_publisher_and_the_end_of_a_stream_close_their_connections() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 600, PYRAMID);
    let address = url(&server, "cam");
    let publisher = push(&file, "tcp", &address);
    let stream = stream_of(&server, "cam", 5);
    let input = ["-rtsp_transport", "tcp", "-i", &address, "-c", "copy", "-f", "null", "-"];
    let player = Running::start("ffmpeg", &[&QUIET[..], &input].concat());
    wait_for("the player", || (stream.facts().watchers == 1).then_some(()));
    stream.ask_to_end(EndReason::Terminated);
    wait_for("the end", || stream.ended());
    assert_eq!(stream.ended(), Some(EndReason::Terminated));
    player.wait();
    publisher.wait();
}

#[test]
fn gstreamer_plays_and_publishes() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 600, PYRAMID);
    let address = url(&server, "cam");
    let _publisher = push(&file, "tcp", &address);
    stream_of(&server, "cam", 5);
    for protocol in ["tcp", "udp"] {
        let (location, protocols) = (format!("location={address}"), format!("protocols={protocol}"));
        let played = run(
            "gst-launch-1.0",
            &[
                "-q",
                "rtspsrc",
                &location,
                &protocols,
                "!",
                "application/x-rtp,media=video",
                "!",
                "rtph264depay",
                "!",
                "h264parse",
                "!",
                "identity",
                "eos-after=40",
                "!",
                "fakesink",
            ],
        );
        assert!(played.status.success(), "{protocol}: {}", String::from_utf8_lossy(&played.stderr));
    }
    for protocol in ["tcp", "udp"] {
        let name = format!("gst-{protocol}");
        let (location, protocols) =
            (format!("location={}", url(&server, &name)), format!("protocols={protocol}"));
        let _gstreamer = Running::start(
            "gst-launch-1.0",
            &[
                "-q",
                "videotestsrc",
                "is-live=true",
                "!",
                "video/x-raw,width=320,height=240,framerate=30/1",
                "!",
                "x264enc",
                "tune=zerolatency",
                "key-int-max=30",
                "!",
                "rtspclientsink",
                &location,
                &protocols,
            ],
        );
        let stream = stream_of(&server, &name, 40);
        assert_eq!((stream.facts().gaps, stream.facts().video.unwrap().display_size()), (0, (320, 240)));
    }
}

/// Sends requests as they are and returns the statuses of the answers.
fn talk(stream: &mut TcpStream, requests: &[String]) -> Vec<String> {
    let mut statuses = Vec::new();
    for request in requests {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap() == 0 {
                break;
            }
            answer.push(byte[0]);
        }
        statuses.push(String::from_utf8_lossy(&answer).get(9..12).unwrap_or_default().to_owned());
    }
    statuses
}

#[test]
fn who_is_silent_or_half_there_is_let_go_and_frees_what_it_held() {
    let settings = [("rtp_activity_detecting", "true,1"), ("connection_handshake_ms", "500")];
    let server = Server::start(&settings, false);
    let connect = || {
        let stream = TcpStream::connect(server.address("rtsp")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    };
    let address = url(&server, "cam");
    let sdp = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:a\r\n";
    let announce =
        format!("ANNOUNCE {address} RTSP/1.0\r\nCSeq: 1\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
    let setup =
        format!("SETUP {address}/a RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n\r\n");
    let record = format!("RECORD {address} RTSP/1.0\r\nCSeq: 3\r\n\r\n");
    let mut silent = connect();
    assert_eq!(talk(&mut silent, &[announce.clone(), setup, record]), ["200", "200", "200"]);
    let stream = server.app().registry().find("cam").unwrap();
    wait_for("the end", || stream.ended());
    assert_eq!(stream.ended(), Some(EndReason::RtpActivity));
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
    let mut half = connect();
    assert_eq!(talk(&mut half, &[announce]), ["200"]);
    let mut nothing = connect();
    nothing.write_all(b"DESCR").unwrap();
    assert_eq!((half.read(&mut [0]).unwrap_or(0), nothing.read(&mut [0]).unwrap_or(0)), (0, 0));
    wait_for("the name", || server.app().registry().is_empty().then_some(()));
    let mut foreign = connect();
    foreign.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(talk(&mut foreign, &[String::new()]), ["400"]);
}

#[test]
fn a_player_that_does_not_read_is_closed_and_holds_nobody_up() {
    let server = Server::start(&[], false);
    let file = card_file(server.folder(), SIZE, 600, PYRAMID);
    let address = url(&server, "cam");
    let _publisher = push(&file, "tcp", &address);
    let stream = stream_of(&server, "cam", 5);
    let mut player = TcpStream::connect(server.address("rtsp")).unwrap();
    player.set_read_timeout(Some(LIMIT)).unwrap();
    let setup = format!(
        "SETUP {address}/trackID=0 RTSP/1.0\r\nCSeq: 1\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n\r\n"
    );
    let play = format!("PLAY {address} RTSP/1.0\r\nCSeq: 2\r\n\r\n");
    assert_eq!(talk(&mut player, &[setup, play]), ["200", "200"]);
    wait_for("the player", || (stream.facts().watchers == 1).then_some(()));
    let units = stream.facts().units;
    wait_for("the publisher", || (stream.facts().units > units + 60).then_some(()));
    drop(player);
    wait_for("the player's end", || (stream.facts().watchers == 0).then_some(()));
    assert!(stream.ended().is_none());
}
