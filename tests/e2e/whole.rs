//! The whole server as it is wired: every door shows the same stream, keys reach their services, a stop tells everybody.

use std::net::TcpListener;
use std::time::Duration;

use base64::Engine as _;
use serde_json::json;
use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::base::stop::StopSource;
use stillcast::base::threads::{STACK_PROTOCOL_BYTES, spawn};
use stillcast::hub::{Publication, SourceProtocol};

use crate::support::rest::HttpClient;
use crate::support::server::Server;
use crate::support::site::read_png;
use crate::support::ws_client::{Closed, LIMIT, WsClient};

const SMALL: (&str, &str) = ("demo_size", "320x180");

/// Looks again and again until `condition` holds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let (clock, never) = (Clock::real(), StopSource::new());
    let deadline = clock.now() + LIMIT;
    while !condition() {
        assert!(clock.now() < deadline, "not in time: {what}");
        let _ = never.token().wait(Duration::from_millis(5));
    }
}

#[test]
fn every_door_shows_the_newest_card_of_the_demo() {
    let server = Server::start(&[SMALL], true);
    let stream = server.app().registry().find("test").unwrap();
    until("the tenth card", || stream.facts().units >= 10);
    // Cards are numbered from 0 and none is left out before this, unless the machine is slow: then numbers run ahead.
    let newest_before = u32::try_from(stream.facts().units).unwrap() - 1;
    let shows_a_new_card = |png: &[u8], door: &str| {
        let (width, height, number) = read_png(png);
        assert_eq!((width, height), (320, 180), "{door}");
        assert!(
            number.unwrap() >= newest_before,
            "{door}: card {number:?}, {newest_before} was there before"
        );
    };
    let from_base64 = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();

    let mut http = HttpClient::connect(server.address("http"));
    let got = http.get("/snapshots/test.png");
    assert_eq!(got.status, 200, "{got:?}");
    shows_a_new_card(&got.body, "GET");

    let posted = http.post("/rest-api/stream/snapshot", r#"{"streamName":"test"}"#);
    shows_a_new_card(&from_base64(posted.json()["data"].as_str().unwrap()), "POST");

    for mut client in [WsClient::connect(server.address("ws")), WsClient::connect_tls(server.address("wss"))]
    {
        client.greet();
        client.say("snapshot", json!({"mediaSessionId": "m1", "name": "test"}));
        let (status, picture) = client.expect_status("m1");
        assert_eq!(status, "SNAPSHOT_COMPLETE");
        shows_a_new_card(&from_base64(&picture), "WebSocket");
    }

    let page = http.get("/client2/examples/demo/streaming/stream-snapshot/stream-snapshot.html");
    assert_eq!(page.status, 200);
    assert_eq!(http.post("/rest-api/stream/snapshot", r#"{"streamName":"none"}"#).status, 404);
}

#[test]
fn automatic_pictures_go_where_the_keys_say() {
    let settings = [
        SMALL,
        ("snapshot_auto_enabled", "true"),
        ("snapshot_auto_naming", "streamName"),
        ("snapshot_auto_rate", "3"),
        ("snapshot_auto_retention", "2"),
    ];
    let server = Server::start(&settings, true);
    let pictures = || {
        let Ok(folders) = std::fs::read_dir(server.folder().join("data/snapshots")) else {
            return Vec::new();
        };
        let mut files: Vec<_> = folders
            .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).into_iter().flatten())
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "png"))
            .collect();
        files.sort();
        files
    };
    let written = || server.app().metrics().auto_pictures_total.with_label_values(&["written"]).get();
    until("four automatic pictures", || written() >= 4);
    // While one is written the third newest may still be there.
    until("two kept", || pictures().len() == 2);
    let stuck = {
        let folder = pictures();
        assert!(
            folder[0].parent().unwrap().file_name().unwrap().to_str().unwrap().contains("test"),
            "{folder:?}"
        );
        server.stop()
    };
    assert_eq!(stuck, Vec::<String>::new());
}

#[test]
fn a_password_from_the_configuration_is_asked_for() {
    let server = Server::start(
        &[SMALL, ("disable_rest_auth", "false"), ("rest_auth_user", "me"), ("rest_auth_password", "secret")],
        true,
    );
    let mut http = HttpClient::connect(server.address("http"));
    assert_eq!(http.get("/snapshots/test.png").status, 401);
    let token = base64::engine::general_purpose::STANDARD.encode("me:secret");
    let headers = [("Authorization", format!("Basic {token}"))];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(http.request("GET", "/snapshots/test.png", &headers, b"").status, 200);
}

fn silent_stream(server: &Server) -> stillcast::hub::Publisher {
    let publication = Publication {
        session_id: "c1".into(),
        ..Publication::new(
            StreamName::new("silent").unwrap(),
            MediaSessionId::new("m-silent").unwrap(),
            SourceProtocol::TestCard,
            server.app().clock().wall(),
        )
    };
    server.app().registry().publish(publication, None).unwrap()
}

#[test]
fn a_stop_tells_everybody_and_frees_the_ports() {
    let server = Server::start(&[SMALL, ("snapshot_taking_interval_ms", "600000")], true);
    let (ws, http) = (server.address("ws"), server.address("http"));
    // A publication that never sends a frame: whoever asks for its picture waits.
    let publisher = silent_stream(&server);
    publisher.set_publishing();
    let mut client = WsClient::connect(ws);
    client.greet();
    let mut waiting = HttpClient::connect(http);
    waiting.send(b"GET /snapshots/silent.png HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut idle = HttpClient::connect(http);
    assert_eq!(idle.get("/health").status, 200);
    let asked = || server.app().metrics().connections.get() >= 3;
    until("three connections", asked);

    let (status, answered) = std::sync::mpsc::sync_channel(1);
    let reader = spawn("test-waiting", STACK_PROTOCOL_BYTES, move || {
        let _ = status.send(waiting.read_response("GET").status);
    })
    .unwrap();
    let clock = Clock::real();
    let start = clock.now();
    assert_eq!(server.stop(), Vec::<String>::new());
    let took = clock.now() - start;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(client.expect_close(), Closed::Code(1001));
    let status = answered.recv_timeout(LIMIT).unwrap();
    assert!([500, 503].contains(&status), "{status}");
    assert!(reader.join(LIMIT));
    for address in [ws, http] {
        // std sets SO_REUSEADDR: only a port that is still open refuses.
        TcpListener::bind(address).unwrap();
    }
}
