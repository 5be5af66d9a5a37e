//! Files on demand: files of numbered cards that another program packed, for viewers, for all, and by REST.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use stillcast::base::clock::Clock;
use stillcast::hub::{EndReason, SourceProtocol};
use stillcast::media::unit::MediaUnit;
use stillcast::services::test_card::read_number;
use tempfile::TempDir;

use crate::support::camera::card_clip;
use crate::support::rest::{HttpClient, HttpResponse};
use crate::support::server::Server;
use crate::support::site::read_png;
use crate::support::viewer::Viewer;
use crate::support::ws_client::WsClient;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with `film.mp4`: cards from 0 on, 25 a second, a keyframe each ten.
pub(crate) fn media(cards: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::rename(card_clip(folder.path(), cards, 10), folder.path().join("film.mp4")).unwrap();
    folder
}

/// The same cards with B-frames, in `b.mp4`.
fn add_reordered(media: &Path) {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(media.join("film.mp4"))
        .args(["-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-b_strategy", "0", "-g", "30"])
        .args(["-c:a", "copy"])
        .arg(media.join("b.mp4"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn server(media: &TempDir, settings: &[(&str, &str)]) -> Server {
    let own = [("media_dir", media.path().to_str().unwrap())];
    Server::start(&own.iter().chain(settings).copied().collect::<Vec<_>>(), false)
}

pub(crate) fn rest(server: &Server) -> HttpClient {
    HttpClient::connect(server.address("http"))
}

pub(crate) fn call(client: &mut HttpClient, call: &str, body: &Value) -> HttpResponse {
    client.post(&format!("/rest-api/{call}"), &body.to_string())
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::real();
    let deadline = clock.now() + PATIENCE;
    while !holds() {
        assert!(clock.now() < deadline, "{what} does not come true");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The number that a picture shows.
fn card(response: &HttpResponse) -> u32 {
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    let (width, height, number) = read_png(&response.body);
    assert_eq!((width, height), (320, 240));
    number.expect("no card to be seen")
}

/// The number that the newest picture of a stream shows, and the number of its unit in the publication.
fn shown_and_sent(client: &mut HttpClient, name: &str) -> (u32, u32) {
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let response = client.get(&format!("/snapshots/{encoded}.png"));
    let seq = response.header("ETag").and_then(|etag| etag.split('-').nth(1)).map(str::to_owned);
    (card(&response), u32::from_str_radix(&seq.unwrap(), 16).unwrap())
}

/// Asks to play; returns the answer's description, or status and reason of the refusal.
pub(crate) fn play(
    client: &mut WsClient,
    id: &str,
    name: &str,
    viewer: &Viewer,
) -> Result<String, (String, String)> {
    client.say(
        "playStream",
        json!({"mediaSessionId": id, "name": name, "hasVideo": true, "hasAudio": true,
        "mediaProvider": "WebRTC", "sdp": viewer.offer()}),
    );
    loop {
        let message = client.next();
        if message["message"] == "setRemoteSDP" {
            return Ok(message["data"][1].as_str().unwrap().to_owned());
        }
        let told = &message["data"][0];
        if message["message"] == "notifyStreamStatusEvent" && told["status"] == "FAILED" {
            return Err(("FAILED".into(), told["info"].as_str().unwrap().into()));
        }
    }
}

/// What a player is told at its end.
pub(crate) fn end_of(client: &mut WsClient, id: &str) -> (String, String) {
    loop {
        let message = client.next();
        let told = &message["data"][0];
        let is_end = ["STOPPED", "FAILED"].iter().any(|status| told["status"] == *status);
        if message["message"] == "notifyStreamStatusEvent" && told["mediaSessionId"] == id && is_end {
            return (told["status"].as_str().unwrap().into(), told["info"].as_str().unwrap().into());
        }
    }
}

#[test]
fn the_list_tells_files_of_the_folder_and_below_it_and_no_links() {
    let folder = media(10);
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::copy(folder.path().join("film.mp4"), folder.path().join("sub/Again.MP4")).unwrap();
    std::fs::write(folder.path().join("notes.txt"), b"1").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link.mp4")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("sub/round")).unwrap();
    let server = server(&folder, &[]);
    let answer = rest(&server).get("/rest-api/vod/list");
    assert_eq!((answer.status, answer.header("Cache-Control")), (200, Some("no-store")));
    let answer = answer.json();
    let bytes = folder.path().join("film.mp4").metadata().unwrap().len();
    let mut files: Vec<_> = answer["files"].as_array().unwrap().clone();
    files.sort_by_key(|file| file["fileName"].to_string());
    assert_eq!(files.len(), 2, "{answer}");
    assert_eq!((files[0]["fileName"].as_str(), files[0]["bytes"].as_u64()), (Some("film.mp4"), Some(bytes)));
    assert_eq!(files[1]["fileName"], "sub/Again.MP4");
    assert!(files[1]["modifyDate"].as_u64().unwrap() <= answer["now"].as_u64().unwrap(), "{answer}");
    assert_eq!(answer["isWhole"], true);
}

#[test]
fn a_file_is_started_found_pictured_and_terminated_by_rest() {
    let media = media(500);
    let server = server(&media, &[]);
    let mut client = rest(&server);
    assert_eq!(call(&mut client, "vod/find_all", &json!({})).status, 404);
    let uri = "vod-live://film.mp4";
    let body = json!({"uri": uri, "localStreamName": "film1", "loop": true});
    assert_eq!(client.get("/rest-api/vod/startup").status, 405, "any page can make a browser do that");
    let started = call(&mut client, "vod/startup", &body);
    assert_eq!((started.status, started.body.len()), (200, 0), "{}", String::from_utf8_lossy(&started.body));
    assert_eq!(call(&mut client, "vod/startup", &json!({"uri": uri, "localStreamName": "x"})).status, 409);

    let found = call(&mut client, "vod/find", &json!({"localStreamName": "film1"})).json();
    let id = found[0]["localMediaSessionId"].clone();
    let object = json!([{"localMediaSessionId": id, "localStreamName": "film1", "uri": uri,
        "status": "PROCESSED_LOCAL", "hasAudio": true, "hasVideo": true, "record": false, "loop": true}]);
    assert_eq!(found, object);
    assert_eq!(call(&mut client, "vod/find", &json!({"uri": uri})).json(), object);
    assert_eq!(client.get("/rest-api/vod/find_all").json(), object);
    assert_eq!(call(&mut client, "vod/find", &json!({"uri": "vod-live://x.mp4"})).status, 404);
    let stream = call(&mut client, "stream/find", &json!({"name": "film1"})).json();
    assert_eq!((&stream[0]["mediaProvider"], &stream[0]["status"]), (&json!("VOD"), &json!("PUBLISHING")));
    for _ in 0..3 {
        let (shown, sent) = shown_and_sent(&mut client, "film1");
        assert_eq!(shown, sent);
        let newer = server.app().registry().find("film1").unwrap();
        until("the next picture", || newer.facts().units > u64::from(sent) + 3);
    }

    assert_eq!(call(&mut client, "vod/terminate", &json!({})).status, 400);
    assert_eq!(call(&mut client, "vod/terminate", &json!({"localStreamName": "film1"})).status, 200);
    assert_eq!(call(&mut client, "vod/terminate", &json!({"localStreamName": "film1"})).status, 404);
    assert_eq!(call(&mut client, "stream/find", &json!({"name": "film1"})).status, 404);
    assert_eq!(call(&mut client, "vod/startup", &body).status, 200, "and again");
}

#[test]
fn outside_and_absent_are_told_alike_and_nothing_is_left_of_them() {
    let media = media(25);
    std::fs::write(media.path().join("text.mp4"), "this is no film").unwrap();
    let outside = media.path().parent().unwrap().join(format!("{}.mp4", std::process::id()));
    std::fs::copy(media.path().join("film.mp4"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, media.path().join("link.mp4")).unwrap();
    let escaping = format!("../{}", outside.file_name().unwrap().to_str().unwrap());
    let folder = media.path();
    std::fs::create_dir(folder.join("folder.mp4")).unwrap();
    std::os::unix::fs::symlink(folder.parent().unwrap(), folder.join("up")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("fifo.mp4")).status().unwrap().success());
    let (linked, long) = (format!("up/{}", &escaping[3..]), "x".repeat(5000));
    let server = server(&media, &[]);
    let mut client = WsClient::hello(server.address("ws"));
    let mut pages = rest(&server);
    let viewer = Viewer::new(1);
    for (file, info) in [
        ("none.mp4", "File not found"),
        (&escaping, "File not found"),
        (outside.to_str().unwrap(), "File not found"),
        ("link.mp4", "File not found"),
        ("", "File not found"),
        (".", "File not found"),
        ("folder.mp4", "File not found"),
        ("folder.mp4/../film.mp4", "File not found"),
        ("./film.mp4", "File not found"),
        ("film.mp4/", "File not found"),
        (&linked, "File not found"),
        ("fifo.mp4", "File not found"),
        ("film.mp4\0", "File not found"),
        ("film%2Emp4", "File not found"),
        ("%2e%2e/film.mp4", "File not found"),
        ("a\\film.mp4", "File not found"),
        (&long, "File not found"),
        ("text.mp4", "File has wrong format"),
    ] {
        for scheme in ["vod", "vod-live"] {
            let refused = play(&mut client, "a", &format!("{scheme}://{file}"), &viewer).unwrap_err();
            assert_eq!(refused, ("FAILED".into(), info.into()), "{scheme}://{file}");
        }
        let answer = call(&mut pages, "vod/startup", &json!({"uri": format!("vod-live://{file}")}));
        assert_eq!((answer.status, &answer.json()["message"]), (500, &json!(info)), "{file}");
    }
    std::fs::remove_file(outside).unwrap();
    for body in [json!({}), json!({"uri": "vod://film.mp4"}), json!({"uri": "film.mp4"})] {
        assert_eq!(call(&mut pages, "vod/startup", &body).status, 400, "{body}");
    }
    assert!(server.app().registry().is_empty());
    assert_eq!(call(&mut pages, "vod/find_all", &json!({})).status, 404);
}

#[test]
fn viewers_of_a_file_for_all_share_it_and_it_ends_after_them() {
    let media = media(1000);
    let server = server(&media, &[("vod_stream_timeout", "500"), ("snapshot_watch_ms", "100")]);
    let mut client = WsClient::hello(server.address("ws"));
    let (mut first, mut second) = (Viewer::new(1), Viewer::new(2));
    let uri = "vod-live://film.mp4";
    first.take_answer(&play(&mut client, "a", uri, &first).unwrap(), None);
    assert!(first.run_until(PATIENCE, |viewer| viewer.pictures.len() > 15 && viewer.sounds.len() > 5));
    second.take_answer(&play(&mut client, "b", uri, &second).unwrap(), None);
    assert!(second.run_until(PATIENCE, |viewer| viewer.pictures.len() > 5));
    assert!(second.pictures[0].1.key, "from the last keyframe on");
    assert_eq!(server.app().registry().len(), 1);
    let stream = server.app().registry().find(uri).unwrap();
    assert_eq!(stream.publication().protocol, SourceProtocol::Vod);
    let (shown, sent) = shown_and_sent(&mut rest(&server), uri);
    assert_eq!(shown, sent);

    client.say("stopStream", json!({"mediaSessionId": "a", "name": uri}));
    assert_eq!(end_of(&mut client, "a"), ("STOPPED".into(), "Stopped by user".into()));
    assert!(!second.run_until(Duration::from_millis(1500), |_| stream.ended().is_some()), "somebody watches");
    drop(client);
    until("the end", || stream.ended().is_some());
    assert_eq!(stream.ended(), Some(EndReason::Unwatched));
    assert!(server.app().registry().is_empty());
}

#[test]
fn a_file_of_ones_own_begins_with_its_first_picture_and_ends_with_its_last() {
    let media = media(60);
    let server = server(&media, &[]);
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    let sdp = play(&mut client, "a", "vod://film.mp4", &viewer).unwrap();
    assert!(server.app().registry().find("vod://film.mp4").is_none(), "nobody comes upon it");
    let found = call(&mut rest(&server), "vod/find", &json!({"uri": "vod://film.mp4"})).json();
    assert_eq!((&found[0]["loop"], found.as_array().unwrap().len()), (&json!(false), 1));
    // However long the viewer takes.
    let stream = server.app().registry().list().pop().unwrap();
    let clock = Clock::real();
    let long_enough = clock.now() + Duration::from_millis(700);
    until("time passes", || clock.now() > long_enough);
    assert!(stream.facts().units <= 1, "it waits");
    viewer.take_answer(&sdp, None);
    assert!(viewer.run_until(PATIENCE, |viewer| viewer.pictures.len() == 60));
    assert_eq!((viewer.gaps, viewer.pictures[0].1.key), (0, true));
    let times: Vec<i64> = viewer.pictures.iter().map(|(_, unit)| unit.pts.ticks).collect();
    assert!(times.windows(2).all(|pair| (pair[1] - pair[0] - 3600).abs() <= 1), "{times:?}");
    assert_eq!(end_of(&mut client, "a"), ("STOPPED".into(), "Stopped by publisher stop".into()));
    until("it is over", || server.app().registry().is_empty());

    // And with its viewer, each having one.
    let uri = "vod://film.mp4";
    play(&mut client, "b", uri, &viewer).unwrap();
    play(&mut client, "c", uri, &viewer).unwrap();
    assert_eq!(server.app().registry().len(), 2);
    client.say("stopStream", json!({"mediaSessionId": "b", "name": uri}));
    assert_eq!(end_of(&mut client, "b"), ("STOPPED".into(), "Stopped by user".into()));
    until("one is over", || server.app().registry().len() == 1);
    drop(client);
    until("both are over", || server.app().registry().is_empty());
    assert_eq!(call(&mut rest(&server), "vod/find_all", &json!({})).status, 404);
}

#[test]
fn a_file_for_all_ends_for_all_at_its_end_unless_it_loops_and_may_be_removed_meanwhile() {
    let media = media(50);
    let server = server(&media, &[]);
    let mut pages = rest(&server);
    let body = json!({"uri": "vod-live://film.mp4", "localStreamName": "round", "loop": true});
    assert_eq!(call(&mut pages, "vod/startup", &body).status, 200);
    let stream = server.app().registry().find("round").unwrap();
    let live = stream.subscribe(2000, None).live;
    std::fs::remove_file(media.path().join("film.mp4")).unwrap();
    let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
    while pictures.len() < 130 {
        match live.receiver().recv_timeout(PATIENCE).unwrap() {
            MediaUnit::Video(unit) => pictures.push(unit),
            MediaUnit::Audio(frame) => sounds.push(frame),
        }
    }
    for pair in pictures.windows(2) {
        let by = pair[1].pts.ticks - pair[0].pts.ticks;
        // Where the file begins anew, its longer track tells when.
        let most = if pair[1].seq % 50 == 0 { 3600 + 9000 } else { 3600 };
        assert!((3600..=most).contains(&by), "{by} before picture {}", pair[1].seq);
        assert!(pair[1].seq % 10 != 0 || pair[1].key);
    }
    assert!(sounds.windows(2).all(|pair| pair[0].pts.ticks < pair[1].pts.ticks), "sound goes on too");
    let (first, last) = (&pictures[0], pictures.last().unwrap());
    let of_file = (last.pts.ticks - first.pts.ticks) as f64 / 90.0;
    let of_clock = (last.arrived - first.arrived).as_secs_f64() * 1000.0;
    assert!((of_file - of_clock).abs() < 250.0, "{of_file} ms took {of_clock} ms");
    assert_eq!(call(&mut pages, "vod/terminate", &json!({"uri": "vod-live://film.mp4"})).status, 200);
    assert_eq!(stream.ended(), Some(EndReason::Terminated));
    assert_eq!(call(&mut pages, "vod/startup", &body).status, 500, "now it is not found");

    std::fs::rename(card_clip(media.path(), 50, 10), media.path().join("once.mp4")).unwrap();
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    viewer.take_answer(&play(&mut client, "a", "vod-live://once.mp4", &viewer).unwrap(), None);
    assert!(viewer.run_until(PATIENCE, |viewer| viewer.is_closed));
    assert_eq!(end_of(&mut client, "a"), ("FAILED".into(), "Stopped by publisher stop".into()));
}

#[test]
fn pictures_of_a_file_with_b_frames_are_right_and_browsers_get_them_in_the_order_of_showing() {
    let media = media(300);
    add_reordered(media.path());
    let server = server(&media, &[]);
    let mut pages = rest(&server);
    let body = json!({"uri": "vod-live://b.mp4", "localStreamName": "b"});
    assert_eq!(call(&mut pages, "vod/startup", &body).status, 200);
    let stream = server.app().registry().find("b").unwrap();
    for _ in 0..5 {
        let (shown, sent) = shown_and_sent(&mut pages, "b");
        assert!((sent..=sent + 3).contains(&shown), "{shown} after {sent} units");
        until("the next picture", || stream.facts().units > u64::from(sent) + 7);
    }
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    viewer.take_answer(&play(&mut client, "a", "b", &viewer).unwrap(), None);
    assert!(viewer.run_until(PATIENCE, |viewer| viewer.pictures.len() > 30));
    let shown = viewer.shown();
    assert!(shown.is_sorted_by(|a, b| a.0 < b.0), "{shown:?}");
}

#[test]
fn a_file_in_another_size_begins_with_its_first_picture() {
    let media = media(100);
    let server = server(&media, &[]);
    let mut client = WsClient::hello(server.address("ws"));
    let mut viewer = Viewer::new(1);
    client.say(
        "playStream",
        json!({"mediaSessionId": "a", "name": "vod://film.mp4", "mediaProvider": "WebRTC", "sdp": viewer.offer(), "width": 160}),
    );
    let answer = loop {
        let message = client.next();
        if message["message"] == "setRemoteSDP" {
            break message["data"][1].as_str().unwrap().to_owned();
        }
    };
    viewer.take_answer(&answer, None);
    assert!(viewer.run_until(PATIENCE, |viewer| viewer.is_closed));
    let shown = viewer.shown();
    assert_eq!(shown[0].0, 0, "{shown:?}");
    assert!(shown.last().unwrap().0 > 90 && shown.iter().all(|(_, (width, _))| *width == 160), "{shown:?}");
    assert_eq!(end_of(&mut client, "a"), ("STOPPED".into(), "Stopped by publisher stop".into()));
}

/// The number on the picture that a client of the WebSocket is given, or why there is none.
fn snapshot_of(client: &mut WsClient, id: &str, name: &str) -> Result<u32, String> {
    client.say("snapshot", json!({"name": name, "mediaSessionId": id}));
    loop {
        let message = client.next();
        let told = &message["data"][0];
        match (message["message"].as_str(), told["status"].as_str(), told["type"].as_str()) {
            (Some("notifyStreamStatusEvent"), Some("SNAPSHOT_COMPLETE"), _) => {
                let png = STANDARD.decode(told["info"].as_str().unwrap()).unwrap();
                return Ok(read_png(&png).2.expect("no card to be seen"));
            }
            (Some("notifyStreamEvent"), _, Some("snapshotFailed")) => {
                return Err(told["payload"]["info"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }
}

#[test]
fn a_viewer_takes_a_picture_of_its_own_file_and_nobody_else_does() {
    let media = media(1500);
    let server = server(&media, &[]);
    let uri = "vod://film.mp4";
    let mut client = WsClient::hello(server.address("ws"));
    let (mut early, mut late) = (Viewer::new(1), Viewer::new(2));
    early.take_answer(&play(&mut client, "a", uri, &early).unwrap(), None);
    assert!(early.run_until(PATIENCE, |viewer| viewer.pictures.len() > 100));
    late.take_answer(&play(&mut client, "b", uri, &late).unwrap(), None);
    assert!(late.run_until(PATIENCE, |viewer| viewer.pictures.len() > 5));
    let of_early = snapshot_of(&mut client, "a", uri).unwrap();
    let of_late = snapshot_of(&mut client, "b", uri).unwrap();
    assert!(of_early >= 100 && of_late + 60 < of_early, "{of_early} and {of_late}: each its own");
    // Which of the two somebody else would mean cannot be told, and a stranger has none.
    assert_eq!(snapshot_of(&mut client, "c", uri), Err("Stream not found".into()));
    let mut stranger = WsClient::hello(server.address("ws"));
    assert_eq!(snapshot_of(&mut stranger, "a", uri), Err("Stream not found".into()));
    client.say("stopStream", json!({"mediaSessionId": "a", "name": uri}));
    end_of(&mut client, "a");
    assert!(snapshot_of(&mut client, "c", uri).unwrap() >= of_late, "now it can");

    // Of a file for all as of any stream, by the WebSocket and by REST.
    let shared = "vod-live://film.mp4";
    let mut viewer = Viewer::new(3);
    viewer.take_answer(&play(&mut client, "d", shared, &viewer).unwrap(), None);
    assert!(viewer.run_until(PATIENCE, |viewer| viewer.pictures.len() > 5));
    let stream = server.app().registry().find(shared).unwrap();
    let sent = stream.facts().units;
    assert!(u64::from(snapshot_of(&mut stranger, "e", shared).unwrap()) + 1 >= sent);
    let answer = call(&mut rest(&server), "stream/snapshot", &json!({"streamName": shared})).json();
    let png = STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
    assert!(u64::from(read_png(&png).2.unwrap()) + 1 >= sent);
}

#[test]
fn a_picture_of_a_moment_of_a_file_is_served_with_what_is_known_of_it() {
    let media = media(100);
    add_reordered(media.path());
    std::fs::create_dir(media.path().join("sub folder")).unwrap();
    std::fs::rename(media.path().join("b.mp4"), media.path().join("sub folder/b.mp4")).unwrap();
    let server = server(&media, &[]);
    let mut client = rest(&server);
    let response = client.get("/vod/film.mp4.png?at=1.5");
    assert_eq!(card(&response), 37, "shown from 1.48 s on");
    let header = |name: &str| response.header(name).unwrap_or_else(|| panic!("no {name}")).to_owned();
    assert_eq!((header("X-File-Time").as_str(), header("Content-Type").as_str()), ("1.480", "image/png"));
    assert_eq!(header("Content-Length"), response.body.len().to_string());
    assert_eq!(header("Cache-Control"), "no-cache");
    let modified = std::fs::metadata(media.path().join("film.mp4")).unwrap().modified().unwrap();
    assert_eq!(header("Last-Modified"), httpdate::fmt_http_date(modified));
    assert!(header("Access-Control-Expose-Headers").contains("X-File-Time"));
    let etag = header("ETag");
    let known = client.request("GET", "/vod/film.mp4.png?at=1.5", &[("If-None-Match", &etag)], b"");
    assert_eq!((known.status, known.body.len(), known.header("ETag")), (304, 0, Some(etag.as_str())));
    for other in ["at=1.52", "at=1.5&w=160", "at=1.5&w=160&h=160&fit=cover"] {
        assert_ne!(client.get(&format!("/vod/film.mp4.png?{other}")).header("ETag"), Some(etag.as_str()));
    }
    let head = client.request("HEAD", "/vod/film.mp4.png?at=1.5", &[], b"");
    assert_eq!((head.status, head.header("X-File-Time"), head.body.len()), (200, Some("1.480"), 0));
    assert_eq!(card(&client.get("/vod/film.mp4.png")), 0, "the beginning");
    let small = client.get("/vod/film.mp4.png?at=2&w=160&h=160&fit=cover");
    let (width, height, _) = read_png(&small.body);
    assert_eq!((width, height), (160, 160));

    // B-frames, in a folder, however its name is written.
    for file in ["sub%20folder/b.mp4", "sub%20folder%2Fb.mp4"] {
        assert_eq!(card(&client.get(&format!("/vod/{file}.png?at=2.04"))), 51, "{file}");
    }
    for at in ["", "x", "-1", "1e3", "+1", "1.", ".5", "0.1234567890", "inf", "1000000000000"] {
        assert_eq!(client.get(&format!("/vod/film.mp4.png?at={at}")).status, 400, "{at:?}");
    }
    let past = client.get("/vod/film.mp4.png?at=4.1");
    assert_eq!(
        (past.status, past.json()["message"].as_str().unwrap().starts_with("File ends at 4.0")),
        (404, true)
    );
    assert_eq!(client.post("/vod/film.mp4.png", "{}").status, 405);
    assert!(server.app().registry().is_empty(), "nothing is published for a picture");
}

#[test]
fn a_picture_of_what_may_not_be_seen_is_not_found_whatever_it_is() {
    let media = media(25);
    let folder = media.path();
    std::fs::create_dir(folder.join("folder.mp4")).unwrap();
    std::fs::write(folder.join("text.mp4"), "this is no film").unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("film.mp4"), outside.path().join("secret.mp4")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.mp4"), folder.join("link.mp4")).unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.join("up")).unwrap();
    let made = Command::new("mkfifo").arg(folder.join("fifo.mp4")).status().unwrap();
    assert!(made.success());
    let secret = outside.path().join("secret.mp4");
    let secret = secret.to_str().unwrap();
    let escaping = format!("..%2F{}%2Fsecret.mp4", outside.path().file_name().unwrap().to_str().unwrap());
    let server = server(&media, &[]);
    let mut client = rest(&server);
    for name in [
        "none.mp4",
        "folder.mp4",
        "link.mp4",
        "up/secret.mp4",
        "fifo.mp4",
        "film.mp4%00",
        "%00",
        "%FF.mp4",
        ".%2Ffilm.mp4",
        "folder.mp4%2F..%2Ffilm.mp4",
        "film%252Emp4",
        "film.mp4%2F",
        "%2Ffilm.mp4",
        "a%5Cfilm.mp4",
        &escaping,
        &escaping.replace("%2F", "/"),
        secret,
        &secret.replace('/', "%2F"),
    ] {
        let answer = client.get(&format!("/vod/{name}.png"));
        let told = answer.json();
        assert_eq!((answer.status, told["message"].as_str()), (404, Some("File not found")), "{name}");
    }
    assert_eq!(client.get("/vod/text.mp4.png").status, 422);
    assert_eq!(card(&client.get("/vod/film.mp4.png")), 0);
}

#[test]
fn encoders_players_get_b_frames_of_a_file_in_the_order_in_which_they_are_shown() {
    let media = media(500);
    add_reordered(media.path());
    let server = server(&media, &[]);
    let mut pages = rest(&server);
    let body = json!({"uri": "vod-live://b.mp4", "localStreamName": "b"});
    assert_eq!(call(&mut pages, "vod/startup", &body).status, 200);
    let rtsp = format!("rtsp://{}/b", server.address("rtsp"));
    let rtmp = format!("rtmp://{}/live/b", server.address("rtmp"));
    for (before, address) in [(&["-rtsp_transport", "tcp"][..], &rtsp), (&[], &rtmp)] {
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error"])
            .args(before)
            .args(["-i", address, "-map", "0:v", "-fps_mode", "passthrough", "-frames:v", "60"])
            .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
            .output()
            .unwrap();
        let pictures = output.stdout.chunks_exact(320 * 240 * 3);
        let numbers: Vec<u32> = pictures.map(|rgb| read_number(rgb, 320, 240).unwrap()).collect();
        assert_eq!(numbers.len(), 60, "{address}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{address}: {numbers:?}");
    }
}
