//! Files on demand: files of numbered cards that another program packed, for viewers, for all, and by REST.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stillcast::base::clock::Clock;
use stillcast::hub::{EndReason, SourceProtocol};
use stillcast::media::unit::MediaUnit;
use tempfile::TempDir;

use crate::support::camera::card_clip;
use crate::support::rest::{HttpClient, HttpResponse};
use crate::support::server::Server;
use crate::support::site::read_png;
use crate::support::viewer::Viewer;
use crate::support::ws_client::WsClient;

const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with `film.mp4`: cards from 0 on, 25 a second, a keyframe each ten.
fn media(cards: u32) -> TempDir {
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

fn server(media: &TempDir, settings: &[(&str, &str)]) -> Server {
    let own = [("media_dir", media.path().to_str().unwrap())];
    Server::start(&own.iter().chain(settings).copied().collect::<Vec<_>>(), false)
}

fn rest(server: &Server) -> HttpClient {
    HttpClient::connect(server.address("http"))
}

fn call(client: &mut HttpClient, call: &str, body: &Value) -> HttpResponse {
    client.post(&format!("/rest-api/{call}"), &body.to_string())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
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
fn play(client: &mut WsClient, id: &str, name: &str, viewer: &Viewer) -> Result<String, (String, String)> {
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
fn end_of(client: &mut WsClient, id: &str) -> (String, String) {
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
