//! The WebSocket ports, started alone over an empty hub: good clients, bad ones, slow ones, and the stop.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use stillcast::base::clock::Clock;
use stillcast::base::metrics::Metrics;
use stillcast::base::threads;
use stillcast::edge::accept::{Acceptor, ConnectionLimits, Connections};
use stillcast::edge::ports::{MediaPorts, PortSettings};
use stillcast::edge::rtc::{RtcService, RtcSettings};
use stillcast::edge::tls::{self, TlsSettings};
use stillcast::edge::ws::{self, SnapshotReply, TakeSnapshot, WsService, WsSettings};
use stillcast::hub::{GopLimits, Registry};
use stillcast::proto::dtls::Certificate;
use stillcast::proto::signal::SignalSettings;
use stillcast::proto::signal::message::SharedText;
use stillcast::services::snapshot::{SnapshotService, SnapshotSettings};
use stillcast::services::transcode::{Renditions, TranscodeSettings};
use tungstenite::Message;

use crate::support::ws_client::{Closed, LIMIT, WsClient};

const OFFER: &str = include_str!("../fuzz/corpus/sdp_offer/browser");
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Options {
    limits: ConnectionLimits,
    handshake_limit: Duration,
    write_limit: Duration,
    ice_timeout: Duration,
    take_snapshot: TakeSnapshot,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: ConnectionLimits { total: 32, per_address: 32 },
            handshake_limit: LIMIT,
            write_limit: LIMIT,
            ice_timeout: LIMIT,
            take_snapshot: Arc::new(|_: &str, reply: SnapshotReply| reply(Err("Stream not found".into()))),
        }
    }
}

/// A WebSocket port and what is behind it. It must stop cleanly, and nobody may have panicked.
struct Edge {
    acceptor: Option<Acceptor>,
    service: WsService,
    connections: Connections,
    metrics: Metrics,
    registry: Registry,
    ports: MediaPorts,
    clock: Clock,
}

impl Edge {
    fn start(options: Options) -> Self {
        let (metrics, clock) = (Metrics::new(), Clock::real());
        let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 100);
        let ports = MediaPorts::new(PortSettings {
            address: LOOPBACK.ip(),
            from: 0,
            to: 0,
            receive_buffer_bytes: 1 << 17,
            send_buffer_bytes: 1 << 17,
        });
        let rtc = RtcService::new(
            RtcSettings {
                external_addresses: Vec::new(),
                codecs: vec!["opus".into(), "h264".into()],
                ice_timeout: options.ice_timeout,
                handshake_timeout: LIMIT,
                consent_timeout: Duration::from_secs(30),
                rtp_activity: None,
                pixels_max: 8192 * 4352,
                bitrate_max_bps: 10_000_000,
                bitrate_start_kbps: 0,
                session_name: "Stillcast".into(),
            },
            ports.clone(),
            Arc::new(Certificate::generate().unwrap()),
            registry.clone(),
            Renditions::new(
                TranscodeSettings { renditions_max: 0, pixels_max: 8192 * 4352 },
                registry.clone(),
                metrics.clone(),
                clock.clone(),
            ),
            metrics.clone(),
            clock.clone(),
        );
        let settings = WsSettings {
            handshake_limit: options.handshake_limit,
            message_max_bytes: 1 << 20,
            write_limit: options.write_limit,
            close_limit: Duration::from_secs(2),
            signal: SignalSettings {
                ping_interval: Duration::from_secs(5),
                ping_probes: 10,
                connection_limit: LIMIT,
                streams_max: 4,
                snapshots_max: 8,
                bad_messages_max: 3,
            },
        };
        let service = WsService::new(
            settings,
            registry.clone(),
            options.take_snapshot,
            rtc,
            metrics.clone(),
            clock.clone(),
        );
        let connections = Connections::new(options.limits, metrics.clone());
        let acceptor = service.listen("ws", LOOPBACK, None, connections.clone()).unwrap();
        Self { acceptor: Some(acceptor), service, connections, metrics, registry, ports, clock }
    }

    fn address(&self) -> SocketAddr {
        self.acceptor.as_ref().unwrap().address()
    }

    fn bad_input(&self, kind: &str) -> u64 {
        self.metrics.bad_input_total.with_label_values(&[kind]).get()
    }

    /// Waits until this holds.
    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = self.clock.now() + LIMIT;
        while !condition() {
            assert!(self.clock.now() < deadline, "never: {what}");
            std::thread::yield_now();
        }
    }

    fn stop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            assert!(acceptor.stop(&self.clock, LIMIT), "connections did not end");
            assert!(self.connections.is_empty() && self.registry.is_empty());
            assert_eq!(self.ports.taken(), 0);
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
            assert_eq!(threads::panics(), 0);
        }
    }
}

/// What the server says to raw bytes, up to its end or this many bytes.
fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn publish(client: &mut WsClient, id: &str, name: &str) {
    client.say(
        "publishStream",
        json!({"mediaSessionId": id, "name": name, "mediaProvider": "WebRTC", "sdp": OFFER}),
    );
}

fn expect_answer(client: &mut WsClient, id: &str) -> String {
    let data = client.expect("setRemoteSDP");
    assert_eq!((&data[0], &data[2]), (&json!(id), &json!(false)));
    data[1].as_str().unwrap().to_owned()
}

fn stopped_by_user() -> (String, String) {
    ("UNPUBLISHED".into(), "Stopped by user".into())
}

#[test]
fn any_path_and_any_origin_open_a_session_and_pings_are_answered() {
    let edge = Edge::start(Options::default());
    for (path, origin) in
        [("/", None), ("/5f1c0a9e", Some("https://example.org:9999")), ("/anything?x=y", Some("null"))]
    {
        let mut client = WsClient::open(edge.address(), path, origin).unwrap();
        let data = client.greet();
        assert_eq!(data[0]["status"], "ESTABLISHED");
        assert!(data[0]["authToken"].as_str().unwrap().len() >= 32);
        client.say("ping", Value::Null);
        assert_eq!(client.expect("pong"), json!([null]));
        client.say("call", json!({}));
        client.say("availableStream", json!({"mediaSessionId": "m1", "name": "nobody"}));
        assert_eq!(
            client.expect("availableStream"),
            json!([{"id": "m1", "status": "false", "info": "Stream not found"}])
        );
        client.close();
    }
    assert_eq!(edge.metrics.unknown_messages_total.get(), 3);
    edge.until("all places are free", || edge.connections.is_empty());
}

#[test]
fn the_secure_port_serves_the_same() {
    let edge = Edge::start(Options::default());
    let folder = tempfile::tempdir().unwrap();
    let settings =
        TlsSettings { cert: None, key: None, data_dir: folder.path().to_owned(), names: Vec::new() };
    let config = tls::server_config(&settings, edge.clock.wall()).unwrap();
    let secure = edge.service.listen("wss", LOOPBACK, Some(config), edge.connections.clone()).unwrap();
    let mut client = WsClient::connect_tls(secure.address());
    client.greet();
    // Larger than all buffers on the way.
    client.say("pushLogs", json!({"logs": "x".repeat(900_000)}));
    client.say("ping", Value::Null);
    client.expect("pong");
    drop(client);
    edge.until("a client that goes without a word is forgotten", || edge.connections.is_empty());
    let answer = raw(secure.address(), b"GET / HTTP/1.1\r\n\r\n");
    assert!(!answer.contains("HTTP"), "in clear on a TLS port: {answer:?}");
    assert!(secure.stop(&edge.clock, LIMIT));
}

#[test]
fn a_snapshot_of_an_unknown_stream_fails_for_both_generations_of_clients() {
    let registry = Registry::new(GopLimits { units: 1, bytes: 1 }, 1);
    let settings = SnapshotSettings {
        limit: Duration::from_secs(3),
        attempts: 30,
        watch: Duration::ZERO,
        watched_max: 1,
        decoders: 1,
        encoders: 1,
        queue_max: 1,
        keyframe_units: 60,
        pixels_max: 1 << 20,
    };
    let service = SnapshotService::start(settings, registry, Clock::real(), Metrics::new()).unwrap();
    let take_snapshot = ws::take_from(service.handle());
    let edge = Edge::start(Options { take_snapshot, ..Options::default() });
    let mut client = WsClient::hello(edge.address());
    client.say("snapshot", json!({"mediaSessionId": "m3", "name": "nobody"}));
    assert_eq!(
        client.expect("notifyStreamEvent"),
        json!([{"mediaSessionId": "m3", "type": "snapshotFailed", "payload": {"info": "Stream not found"}}])
    );
    assert_eq!(client.expect_status("m3"), ("FAILED".into(), "Stream not found".into()));
    assert!(service.stop(LIMIT));
}

#[test]
fn requests_that_are_no_upgrades_get_a_clear_answer() {
    let edge = Edge::start(Options::default());
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426 "),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}".to_owned(), "405 "),
        (format!("{upgrade}Sec-WebSocket-Version: 8\r\n\r\n"), "426 "),
        (format!("{upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n"), "400 "),
        ("\0\u{1}\u{2} nonsense\r\n\r\n".to_owned(), "400 "),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500)), "431 "),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(100_000)), "431 "),
    ] {
        let answer = raw(edge.address(), request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer:?} to {:.60}", request);
    }
    assert_eq!(edge.bad_input("ws_handshake"), 7);
}

#[test]
fn frames_that_are_no_messages_are_answered_and_the_connection_survives_a_few() {
    let edge = Edge::start(Options::default());
    let mut client = WsClient::hello(edge.address());
    let bomb = format!("{{\"message\":\"sendData\",\"data\":{}", "[".repeat(500_000));
    client.send(Message::text(bomb)).unwrap();
    assert_eq!(client.expect("fail")[0]["info"], "JSON is nested too deeply");
    client.send(Message::binary(vec![0; 100])).unwrap();
    client.expect("fail");
    client.say("ping", Value::Null);
    client.expect("pong");
    client.send(Message::text(format!("[{}0]", "0,".repeat(400_000)))).unwrap();
    assert_eq!(client.expect("fail")[0]["info"], "JSON holds too many values");
    assert_eq!(client.expect_close(), Closed::Code(1008), "three are too many");
    assert_eq!(edge.bad_input("signal_message"), 3);
}

#[test]
fn oversized_and_illegal_frames_close_with_their_code() {
    let edge = Edge::start(Options::default());
    let mut client = WsClient::hello(edge.address());
    let _ = client.send(Message::text("x".repeat((1 << 20) + 1)));
    assert_eq!(client.expect_close(), Closed::Code(1009));
    assert_eq!(edge.bad_input("ws_too_large"), 1);

    // Many fragments that only together are too large.
    let mut client = WsClient::hello(edge.address());
    for n in 0..3 {
        let head = [u8::from(n == 0), 0x80 | 127, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0];
        let _ = client.tcp().write_all(&head);
        let _ = client.tcp().write_all(&vec![b'x'; 1 << 19]);
    }
    assert_eq!(client.expect_close(), Closed::Code(1009));

    for bytes in [b"\x81\x02hi".as_slice(), b"\xf1\x80\0\0\0\0", b"\x83\x80\0\0\0\0", b"\x80\x80\0\0\0\0"] {
        let mut client = WsClient::hello(edge.address());
        client.tcp().write_all(bytes).unwrap();
        assert_eq!(client.expect_close(), Closed::Code(1002), "{bytes:?}");
    }
    let mut client = WsClient::hello(edge.address());
    client.tcp().write_all(b"\x81\x81\0\0\0\0\xff").unwrap();
    assert_eq!(client.expect_close(), Closed::Code(1007), "not UTF-8");
}

#[test]
fn half_open_connections_are_dropped_at_their_deadline() {
    let handshake_limit = Duration::from_millis(100);
    let edge = Edge::start(Options { handshake_limit, ..Options::default() });
    let mut held: Vec<_> = (0..8).map(|_| TcpStream::connect(edge.address()).unwrap()).collect();
    for stream in &mut held {
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    }
    for mut stream in held {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1)));
    }
    edge.until("their places are free", || edge.connections.is_empty());
    WsClient::hello(edge.address()).close();
}

#[test]
fn one_address_cannot_take_all_places() {
    let limits = ConnectionLimits { total: 8, per_address: 2 };
    let edge = Edge::start(Options { limits, ..Options::default() });
    let (one, _two) = (WsClient::hello(edge.address()), WsClient::hello(edge.address()));
    assert!(WsClient::open(edge.address(), "/", None).is_err());
    assert_eq!(edge.metrics.connections_refused_total.with_label_values(&["address"]).get(), 1);
    one.close();
    edge.until("the place is free again", || edge.connections.len() < 2);
    WsClient::hello(edge.address()).close();
}

#[test]
fn the_stop_closes_every_client_and_ends_its_streams_first() {
    let mut edge = Edge::start(Options::default());
    let mut client = WsClient::hello(edge.address());
    // It never says `connection`. Its ping shows that the server is through with the handshake too.
    let mut silent = WsClient::connect(edge.address());
    silent.say("ping", Value::Null);
    silent.expect("pong");
    let half_open = TcpStream::connect(edge.address()).unwrap();
    publish(&mut client, "m1", "cam1");
    expect_answer(&mut client, "m1");
    edge.until("all are served", || edge.connections.len() == 3);
    let stop = edge.acceptor.as_mut().unwrap();
    stop.begin_stop();
    assert_eq!(client.expect_status("m1"), ("FAILED".into(), "Requested stream shutdown".into()));
    assert_eq!(client.expect_close(), Closed::Code(1001));
    assert_eq!(silent.expect_close(), Closed::Code(1001));
    edge.stop();
    drop(half_open);
}

#[test]
fn a_picture_of_many_megabytes_passes_whole_while_others_are_served() {
    let picture = SharedText::new("iVBORw0KGgo=".repeat(1_000_000));
    let text = picture.clone();
    let take_snapshot: TakeSnapshot =
        Arc::new(move |_: &str, reply: SnapshotReply| reply(Ok(picture.clone())));
    let edge = Edge::start(Options { take_snapshot, ..Options::default() });
    let mut slow = WsClient::hello(edge.address());
    slow.say("snapshot", json!({"mediaSessionId": "m3", "name": "cam1"}));
    let mut other = WsClient::hello(edge.address());
    other.say("ping", Value::Null);
    other.expect("pong");
    let (status, info) = slow.expect_status("m3");
    assert_eq!(status, "SNAPSHOT_COMPLETE");
    assert!(info == text.as_str());
    let data = slow.expect("notifyStreamEvent");
    assert_eq!(data[0]["type"], "snapshotCompleted");
    assert!(data[0]["payload"]["snapshot"] == text.as_str());
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    let picture = SharedText::new("x".repeat(32 << 20));
    let take_snapshot: TakeSnapshot =
        Arc::new(move |_: &str, reply: SnapshotReply| reply(Ok(picture.clone())));
    let write_limit = Duration::from_millis(200);
    let edge = Edge::start(Options { take_snapshot, write_limit, ..Options::default() });
    let mut client = WsClient::hello(edge.address());
    publish(&mut client, "m1", "cam1");
    expect_answer(&mut client, "m1");
    client.say("snapshot", json!({"mediaSessionId": "m3", "name": "cam1"}));
    edge.until("its place is free", || edge.connections.is_empty());
    assert_eq!(edge.bad_input("ws_not_reading"), 1);
    assert!(edge.registry.is_empty(), "its stream is gone with it");
}

#[test]
fn replies_that_come_after_the_client_left_harm_nobody() {
    let (sender, replies) = mpsc::sync_channel(8);
    let take_snapshot: TakeSnapshot =
        Arc::new(move |_: &str, reply: SnapshotReply| sender.try_send(reply).unwrap());
    let edge = Edge::start(Options { take_snapshot, ..Options::default() });
    let mut client = WsClient::hello(edge.address());
    client.say("snapshot", json!({"mediaSessionId": "m3", "name": "cam1"}));
    let reply = replies.recv_timeout(LIMIT).unwrap();
    drop(client);
    edge.until("its place is free", || edge.connections.is_empty());
    reply(Ok("late".into()));
}

#[test]
fn a_name_is_taken_once_and_free_again_at_once() {
    let edge = Edge::start(Options::default());
    let mut first = WsClient::hello(edge.address());
    let mut second = WsClient::hello(edge.address());
    publish(&mut first, "m1", "cam1");
    let answer = expect_answer(&mut first, "m1");
    assert!(answer.contains("a=candidate:") && answer.contains(" 127.0.0.1 "), "{answer}");
    second.say("availableStream", json!({"mediaSessionId": "m9", "name": "cam1"}));
    assert_eq!(second.expect("availableStream")[0]["info"], "Publish stream is not ready");
    publish(&mut second, "m2", "cam1");
    assert_eq!(second.expect_status("m2"), ("FAILED".into(), "Stream name is already in use".into()));
    publish(&mut second, "m1", "cam2");
    assert_eq!(second.expect_status("m1"), ("FAILED".into(), "MediaSessionId is already in use".into()));
    assert_eq!(edge.registry.len(), 1, "the first one is untouched");

    first.say("unPublishStream", json!({"mediaSessionId": "m1"}));
    assert_eq!(first.expect_status("m1"), stopped_by_user());
    publish(&mut second, "m2", "cam1");
    expect_answer(&mut second, "m2");
    // In one breath: publish, stop. The answer may or may not be on the way by then.
    publish(&mut first, "m3", "cam3");
    first.say("unPublishStream", json!({"mediaSessionId": "m3"}));
    expect_answer(&mut first, "m3");
    assert_eq!(first.expect_status("m3"), stopped_by_user());
    for n in 0..5 {
        // A page that says goodbye, and one that just goes.
        if n % 2 == 0 {
            second.close();
        } else {
            drop(second);
        }
        second = WsClient::hello(edge.address());
        publish(&mut second, &format!("again{n}"), "cam1");
        expect_answer(&mut second, &format!("again{n}"));
    }
}

#[test]
fn a_name_is_free_for_a_new_connection_though_nobody_saw_the_old_one_go() {
    let (release, held) = crossbeam_channel::bounded::<()>(0);
    let (busy, is_busy) = mpsc::sync_channel(1);
    // The thread of the connection that asks for a picture is held up for so long.
    let take_snapshot: TakeSnapshot = Arc::new(move |_: &str, _: SnapshotReply| {
        busy.send(()).unwrap();
        let _ = held.recv_timeout(LIMIT);
    });
    let edge = Edge::start(Options { take_snapshot, ..Options::default() });
    let mut old = WsClient::hello(edge.address());
    publish(&mut old, "m1", "cam1");
    expect_answer(&mut old, "m1");
    old.say("snapshot", json!({"mediaSessionId": "m9", "name": "cam1"}));
    is_busy.recv_timeout(LIMIT).unwrap();
    drop(old);
    let mut new = WsClient::hello(edge.address());
    publish(&mut new, "m2", "cam1");
    // By the time that others were served, the new connection has found the name taken.
    for _ in 0..5 {
        WsClient::hello(edge.address()).close();
    }
    drop(release);
    expect_answer(&mut new, "m2");
    assert_eq!(edge.registry.len(), 1);
}

#[test]
fn a_publication_that_cannot_be_is_told_why_and_leaves_nothing() {
    let edge = Edge::start(Options { ice_timeout: Duration::from_millis(50), ..Options::default() });
    let mut client = WsClient::hello(edge.address());
    let without_h264 = OFFER.replace("H264", "H265").replace("opus", "speex");
    for (sdp, info) in [
        ("nonsense".to_owned(), "Failed to add stream to proxy"),
        (format!("{OFFER}{}", "a=x\r\n".repeat(5000)), "Failed to add stream to proxy"),
        (without_h264, "No common codecs"),
    ] {
        client.say("publishStream", json!({"mediaSessionId": "m1", "name": "cam1", "sdp": sdp}));
        assert_eq!(client.expect_status("m1"), ("FAILED".into(), info.into()));
        assert!(edge.registry.is_empty());
    }
    publish(&mut client, "m1", "cam1");
    expect_answer(&mut client, "m1");
    assert_eq!(client.expect_status("m1"), ("FAILED".into(), "Failed by ICE timeout".into()));
    assert!(edge.registry.is_empty());
    let ended = &edge.metrics.publications_ended_total;
    assert_eq!(ended.with_label_values(&["ice_timeout"]).get(), 1);

    client.say("playStream", json!({"mediaSessionId": "m2", "name": "cam1", "sdp": "v=0"}));
    assert_eq!(client.expect_status("m2"), ("FAILED".into(), "Stream not found".into()));
}
