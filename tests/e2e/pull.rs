//! Pulled sources: real cameras (GStreamer's RTSP server) and servers, for viewers and by REST.

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stillcast::base::clock::Clock;
use stillcast::base::threads::{STACK_PROTOCOL_BYTES, spawn};

use crate::support::camera::{Camera, card_clip};
use crate::support::rest::{HttpClient, HttpResponse};
use crate::support::server::Server;
use crate::support::site::read_png;
use crate::support::ws_client::WsClient;

/// Longest wait for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(20);

fn server(settings: &[(&str, &str)]) -> Server {
    let own = [("pull_allow", "127.0.0.1"), ("pull_answer_ms", "5000")];
    Server::start(&own.iter().chain(settings).copied().collect::<Vec<_>>(), false)
}

fn rest(server: &Server) -> HttpClient {
    HttpClient::connect(server.address("http"))
}

fn call(client: &mut HttpClient, call: &str, body: &Value) -> HttpResponse {
    client.post(&format!("/rest-api/{call}"), &body.to_string())
}

fn message(response: &HttpResponse) -> String {
    response.json()["message"].as_str().unwrap().to_owned()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::real();
    let deadline = clock.now() + PATIENCE;
    while !holds() {
        assert!(clock.now() < deadline, "{what} does not come true");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The number that the newest picture shows, and the number of its unit in the publication. A clip's first card is card 0, so that
/// the two are equal.
fn shown_and_meant(client: &mut HttpClient, name: &str) -> (u32, u32) {
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let response = client.get(&format!("/snapshots/{encoded}.png"));
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    let etag = response.header("ETag").unwrap();
    let seq = u32::from_str_radix(etag.split('-').nth(1).unwrap(), 16).unwrap();
    let (width, height, number) = read_png(&response.body);
    assert_eq!((width, height), (320, 240));
    (number.expect("no card to be seen"), seq)
}

#[test]
fn a_camera_is_started_found_pictured_and_terminated_by_rest() {
    let folder = tempfile::tempdir().unwrap();
    let camera =
        Camera::start(&card_clip(folder.path(), 500, 25), &["--sound", "--user", "me", "--password", "p@ss"]);
    let server = server(&[]);
    let mut client = rest(&server);
    let with_password = camera.uri_with("me:p%40ss");
    assert_eq!(call(&mut client, "rtsp/find_all", &json!({})).status, 404);

    let started = call(&mut client, "rtsp/startup", &json!({"uri": with_password}));
    assert_eq!((started.status, started.body.len()), (200, 0), "{}", String::from_utf8_lossy(&started.body));
    let again = call(&mut client, "rtsp/startup", &json!({"uri": camera.uri, "localStreamName": "x"}));
    assert_eq!((again.status, message(&again).as_str()), (409, "Stream name is already in use"));

    let found = call(&mut client, "rtsp/find", &json!({"uri": with_password, "status": "PLAYING"}));
    assert_eq!(found.json(), json!([{"uri": camera.uri, "status": "PLAYING"}]));
    assert_eq!(call(&mut client, "rtsp/find", &json!({"status": "NEW"})).status, 404);
    assert_eq!(call(&mut client, "pull/rtmp/find_all", &json!({})).status, 404, "another protocol");

    let stream = call(&mut client, "stream/find", &json!({"name": with_password})).json();
    assert_eq!(stream[0]["name"], camera.uri.as_str(), "never with its password");
    assert_eq!((&stream[0]["mediaProvider"], &stream[0]["status"]), (&json!("RTSP"), &json!("PUBLISHING")));
    assert_eq!((&stream[0]["videoCodec"], &stream[0]["hasAudio"]), (&json!("H264"), &json!(true)));
    for name in [camera.uri.as_str(), with_password.as_str()] {
        let (shown, meant) = shown_and_meant(&mut client, name);
        assert_eq!(shown, meant);
    }
    until("sound", || {
        let stream = call(&mut client, "stream/find", &json!({"name": camera.uri})).json();
        stream[0]["audioCodec"] == "mpeg4-generic"
    });

    assert_eq!(call(&mut client, "rtsp/terminate", &json!({"uri": with_password})).status, 200);
    assert_eq!(call(&mut client, "rtsp/terminate", &json!({"uri": camera.uri})).status, 404);
    assert_eq!(call(&mut client, "rtsp/find_all", &json!({})).status, 404);
    assert_eq!(call(&mut client, "stream/find", &json!({"name": camera.uri})).status, 404);
}

#[test]
fn what_is_wrong_with_a_camera_is_told_in_the_words_that_clients_know() {
    let folder = tempfile::tempdir().unwrap();
    let clip = card_clip(folder.path(), 100, 25);
    let camera = Camera::start(&clip, &["--user", "me", "--password", "secret", "--basic"]);
    let server = server(&[("pull_deny", "127.0.0.9")]);
    let mut client = rest(&server);
    let closed = Camera::start(&clip, &[]);
    let closed_uri = closed.uri.clone();
    closed.kill();
    let denied = camera.uri.replace("127.0.0.1", "127.0.0.9");
    let elsewhere = camera.uri_with("me:secret").replace("/cam", "/other");
    for (uri, status, text) in [
        (camera.uri.as_str(), 500, "Failed to connect to rtsp stream"),
        (&camera.uri_with("me:wrong"), 500, "Failed to connect to rtsp stream"),
        (&closed_uri, 500, "Failed to connect to rtsp stream"),
        (&denied, 500, "Restricted access"),
        ("rtsp://127.0.0.2/cam", 500, "Restricted access"),
        ("rtsp://[::1]/cam", 500, "Restricted access"),
        ("rtsp://169.254.169.254/latest", 500, "Restricted access"),
        (&elsewhere, 500, "Rtsp stream not found"),
        ("rtsp://", 400, "Bad URI"),
        ("http://127.0.0.1/", 400, "Bad URI"),
        ("rtmp://127.0.0.1/live/x", 400, "Bad URI"),
    ] {
        let response = call(&mut client, "rtsp/startup", &json!({"uri": uri}));
        assert_eq!((response.status, message(&response).as_str()), (status, text), "{uri}");
    }
    assert_eq!(call(&mut client, "rtsp/startup", &json!({})).status, 400);
    assert_eq!(call(&mut client, "rtsp/find_all", &json!({})).status, 404, "nothing is left of them");
    let metrics = client.get("/metrics").body;
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("stillcast_pulls_failed_total{reason=\"fence\"} 4"), "{metrics}");
    assert!(!metrics.contains("secret") && metrics.contains("stillcast_pulls 0"), "{metrics}");

    let right = call(
        &mut client,
        "rtsp/startup",
        &json!({"uri": camera.uri_with("me:secret"), "localStreamName": "door"}),
    );
    assert_eq!(right.status, 200, "{}", String::from_utf8_lossy(&right.body));
    let (shown, meant) = shown_and_meant(&mut client, "door");
    assert_eq!(shown, meant);
}

#[test]
fn without_a_rule_nothing_on_this_machine_is_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(&card_clip(folder.path(), 50, 25), &[]);
    let server = Server::start(&[], false);
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"] {
        let uri = camera.uri.replace("127.0.0.1", host);
        let response = call(&mut rest(&server), "rtsp/startup", &json!({"uri": uri}));
        assert_eq!((response.status, message(&response).as_str()), (500, "Restricted access"), "{uri}");
    }
}

#[test]
fn media_comes_by_udp_where_that_is_wished_and_through_the_connection_where_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let clip = card_clip(folder.path(), 500, 25);
    for (mode, argument) in [("false", "--udp-only"), ("false", "--tcp-only"), ("true", "--udp-only")] {
        let camera = Camera::start(&clip, &[argument, "--sound"]);
        let server = server(&[("rtsp_interleaved_mode", mode)]);
        let mut client = rest(&server);
        let started =
            call(&mut client, "rtsp/startup", &json!({"uri": camera.uri, "localStreamName": "cam"}));
        assert_eq!(started.status, 200, "{mode} {argument}: {}", String::from_utf8_lossy(&started.body));
        let (shown, meant) = shown_and_meant(&mut client, "cam");
        assert_eq!(shown, meant, "{mode} {argument}");
    }
}

#[test]
fn a_camera_that_goes_comes_back_as_a_new_publication() {
    let folder = tempfile::tempdir().unwrap();
    let clip = card_clip(folder.path(), 500, 25);
    let camera = Camera::start(&clip, &[]);
    let server = server(&[]);
    let mut client = rest(&server);
    let (uri, port) = (camera.uri.clone(), camera.port().to_owned());
    let body = json!({"uri": uri, "localStreamName": "gate"});
    assert_eq!(call(&mut client, "rtsp/startup", &body).status, 200);
    let stream = server.app().registry().find("gate").unwrap();
    camera.kill();
    until("the end", || server.app().registry().find("gate").is_none());
    assert_eq!(stream.ended().unwrap().to_string(), "RtspAgent shutdown");
    assert_eq!(call(&mut client, "rtsp/find_all", &json!({})).json(), json!([{"uri": uri, "status": "NEW"}]));
    assert_eq!(call(&mut client, "rtsp/startup", &body).status, 409, "it is still wanted");

    let _camera = Camera::start(&clip, &["--port", &port]);
    until("the stream", || {
        let found = call(&mut client, "rtsp/find_all", &json!({})).json();
        found[0]["status"] == "PLAYING"
    });
    let (shown, meant) = shown_and_meant(&mut client, "gate");
    assert_eq!(shown, meant);
    assert!(server.app().registry().find("gate").unwrap().epoch() > stream.epoch());
}

#[test]
fn a_pull_at_rest_and_one_on_its_way_do_not_hold_up_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(&card_clip(folder.path(), 500, 25), &[]);
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = server(&[("pull_answer_ms", "60000")]);
    let address = server.address("http");
    let mut client = rest(&server);
    assert_eq!(call(&mut client, "rtsp/startup", &json!({"uri": camera.uri})).status, 200);
    let uri = format!("rtsp://127.0.0.1:{}/x", silent.local_addr().unwrap().port());
    let (answer, answered) = sync_channel(1);
    let waiting = move || {
        let response = call(&mut HttpClient::connect(address), "rtsp/startup", &json!({"uri": uri}));
        answer.send((response.status, message(&response))).unwrap();
    };
    let _waiting = spawn("test-startup", STACK_PROTOCOL_BYTES, waiting).unwrap();
    let (_connection, _) = silent.accept().unwrap();
    camera.kill();
    until("the end", || server.app().registry().is_empty());
    let clock = Clock::real();
    let begun: Instant = clock.now();
    assert_eq!(server.stop(), Vec::<String>::new());
    assert!(clock.now() - begun < Duration::from_secs(3), "{:?}", clock.now() - begun);
    assert_eq!(answered.recv_timeout(PATIENCE).unwrap(), (500, "Requested stream shutdown".to_owned()));
}

/// What a browser offers that wants to play.
const PLAY_OFFER: &str = include_str!("../data/sdp/chromium_156_play_offer.sdp");

fn play(client: &mut WsClient, id: &str, name: &str) {
    client.say(
        "playStream",
        json!({"mediaSessionId": id, "name": name, "sdp": PLAY_OFFER, "mediaProvider": "WebRTC"}),
    );
}

/// The next message of any kind but a stream's size and sound.
fn answer_of(client: &mut WsClient, id: &str) -> Value {
    loop {
        let message = client.next();
        if message["message"] == "setRemoteSDP" {
            assert_eq!(message["data"][0], id, "{message}");
            return message;
        }
    }
}

#[test]
fn viewers_of_one_source_share_one_pull_which_ends_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(&card_clip(folder.path(), 500, 25), &["--user", "me", "--password", "p"]);
    let server = server(&[("pull_idle_ms", "400"), ("snapshot_watch_ms", "100")]);
    let (name, with_password) = (camera.uri.clone(), camera.uri_with("me:p"));
    let mut first = WsClient::hello(server.address("ws"));
    let mut second = WsClient::hello(server.address("ws"));
    play(&mut first, "a", &with_password);
    answer_of(&mut first, "a");
    let stream = server.app().registry().find(&name).unwrap();
    play(&mut second, "b", &with_password);
    answer_of(&mut second, "b");
    let mut client = rest(&server);
    assert_eq!(
        call(&mut client, "rtsp/find_all", &json!({})).json(),
        json!([{"uri": name, "status": "PLAYING"}])
    );
    assert_eq!(server.app().registry().len(), 1);
    let (shown, meant) = shown_and_meant(&mut client, &with_password);
    assert_eq!(shown, meant);

    first.say("stopStream", json!({"mediaSessionId": "a", "name": with_password}));
    assert_eq!(first.expect_status("a"), ("STOPPED".into(), "Stopped by user".into()));
    let clock = Clock::real();
    let long_enough = clock.now() + Duration::from_millis(900);
    until("time passes", || clock.now() > long_enough);
    assert!(stream.ended().is_none(), "somebody watches");
    // Gone without a word.
    drop(second);
    until("the end", || stream.ended().is_some());
    assert_eq!(call(&mut client, "rtsp/find_all", &json!({})).status, 404);
    // And again, as if nothing had been.
    play(&mut first, "c", &with_password);
    answer_of(&mut first, "c");
    assert!(server.app().registry().find(&name).unwrap().epoch() > stream.epoch());
}

#[test]
fn a_viewer_hears_why_a_source_cannot_be_played_and_can_stop_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(&card_clip(folder.path(), 500, 25), &[]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = server(&[("pull_answer_ms", "3000"), ("pull_idle_ms", "100")]);
    let mut client = WsClient::hello(server.address("ws"));
    for (uri, info) in [
        ("rtsp://me:secret@10.0.0.1/1", "Restricted access"),
        ("rtsp://me:secret@:1/", "Bad URI"),
        (&camera.uri.replace("/cam", "/other"), "Rtsp stream not found"),
        ("rtmp://127.0.0.1:1/live/x", "Failed to connect to origin stream"),
        ("dov://x.mp4", "Failed to get agent storage"),
    ] {
        play(&mut client, "a", uri);
        let data = client.expect("notifyStreamStatusEvent");
        let told = (data[0]["status"].as_str().unwrap(), data[0]["info"].as_str().unwrap());
        assert_eq!(told, ("FAILED", info), "{uri}");
        assert!(!data.to_string().contains("secret"), "{data}");
    }
    let address = silent.local_addr().unwrap();
    play(&mut client, "b", &format!("rtsp://{address}/x"));
    let (_connection, _) = silent.accept().unwrap();
    client.say("stopStream", json!({"mediaSessionId": "b"}));
    assert_eq!(client.expect_status("b"), ("STOPPED".into(), "Stopped by user".into()));
    let mut pages = rest(&server);
    until("it is let go", || call(&mut pages, "rtsp/find_all", &json!({})).status == 404);
    play(&mut client, "c", &format!("rtsp://{address}/x"));
    assert_eq!(client.expect_status("c"), ("FAILED".into(), "Failed to connect to rtsp stream".into()));
}
