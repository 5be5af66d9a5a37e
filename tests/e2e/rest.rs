//! REST calls, pages, statistics, and what clients do wrong.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use stillcast::base::threads;
use stillcast::edge::http::HttpSettings;
use stillcast::edge::rest::access::Credentials;
use stillcast::hub::{Bell, SourceProtocol};

use crate::support::rest::{HttpClient, LIMIT, request_bytes};
use crate::support::site::{Options, TestSite, read_png};

const SNAPSHOT: &str = "/rest-api/stream/snapshot";
const FIND: &str = "/rest-api/stream/find";
const FIND_ALL: &str = "/rest-api/stream/find_all";

#[test]
fn a_snapshot_by_rest_shows_the_newest_frame() {
    let site = TestSite::start(Options::default());
    let (_publisher, _) = site.publish_cards("cam1", (320, 240), 7);
    let mut client = HttpClient::connect(site.address);
    let response = client.post(SNAPSHOT, r#"{"streamName":"cam1","unknown":{"key":[1]}}"#);
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    let base64 = text.strip_prefix("{\"data\":\"").and_then(|rest| rest.strip_suffix("\"}")).unwrap();
    assert_eq!(read_png(&STANDARD.decode(base64).unwrap()), (320, 240, Some(7)));
    assert_eq!(response.header("Access-Control-Allow-Origin"), Some("*"));
}

#[test]
fn failures_have_their_status_and_the_documented_body() {
    let mut options = Options::default();
    options.snapshots.limit = Duration::from_millis(200);
    let site = TestSite::start(options);
    let _silent = site.publish("silent", |_| {}, None);
    let mut client = HttpClient::connect(site.address);
    let mut message = |json: &str, status| client.post(SNAPSHOT, json).error(status, SNAPSHOT);
    assert_eq!(message(r#"{"streamName":"nobody"}"#, 404), "Stream not found");
    assert_eq!(message(r#"{"streamName":"silent"}"#, 500), "Snapshot response timeout");
    assert_eq!(message(r#"{"streamName":"../../etc/passwd"}"#, 404), "Stream not found");
    assert_eq!(message(&json!({"streamName": "x".repeat(10_000)}).to_string(), 404), "Stream not found");
    for bad in
        ["", "{}", r#"{"streamName":""}"#, r#"{"streamName":5}"#, r#"["cam1"]"#, "{", "nonsense", "{}{}"]
    {
        message(bad, 400);
    }
    message(&format!("{}{}", r#"{"a":"#, "[".repeat(30_000)), 400);
    assert_eq!(site.metrics.bad_input_total.with_label_values(&["http_bad_request"]).get(), 9);
    let unknown = client.post("/rest-api/stream/terminator?x=1", "{}");
    unknown.error(404, "/rest-api/stream/terminator");
    assert_eq!(unknown.header("Access-Control-Allow-Origin"), Some("*"), "pages can read errors too");
    let put = client.request("PUT", SNAPSHOT, &[], b"");
    put.error(405, SNAPSHOT);
    assert_eq!(put.header("Allow"), Some("GET, HEAD, POST, OPTIONS"));
}

#[test]
fn streams_are_found_by_either_method_and_described() {
    let site = TestSite::start(Options::default());
    let mut client = HttpClient::connect(site.address);
    client.get(FIND_ALL).error(404, FIND_ALL);
    let (one, _) = site.publish_cards("one", (320, 240), 2);
    let _two = site.publish("two", |publication| publication.has_video = false, None);
    let names = |json: serde_json::Value| -> Vec<String> {
        json.as_array().unwrap().iter().map(|stream| stream["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(client.get(FIND_ALL).json()), ["one", "two"]);
    assert_eq!(names(client.post(FIND_ALL, "").json()), ["one", "two"]);
    assert_eq!(names(client.post(FIND, r#"{"published":true}"#).json()), ["one", "two"]);
    assert_eq!(names(client.post(FIND, r#"{"mediaSessionId":"session of two"}"#).json()), ["two"]);
    client.post(FIND, r#"{"name":"one","published":false}"#).error(404, FIND);
    client.post(FIND, r#"{"name":"one","mediaSessionId":"session of two"}"#).error(404, FIND);

    one.stream().set_muted(Some(true), None);
    let found = client.post(FIND, r#"{"name":"one","display":["metrics"]}"#).json();
    let stream = &found[0];
    let created = one.stream().publication().created.duration_since(std::time::UNIX_EPOCH).unwrap();
    let expected = json!({
        "nodeId": "n".repeat(32) + "@192.0.2.1", "appKey": "defaultApp",
        "sessionId": "/198.51.100.4:52110/203.0.113.7:8443", "mediaSessionId": "session of one", "name": "one",
        "published": true, "hasVideo": true, "hasAudio": false, "status": "PUBLISHING", "info": "",
        "sdp": "v=0\r\na=ice-ufrag:abcd\r\na=mid:0\r\n", "audioCodec": "", "videoCodec": "H264", "record": false,
        "width": 320, "height": 240, "bitrate": 0, "minBitrate": 100, "maxBitrate": 2000, "quality": 0,
        "history": false, "gop": 0, "fps": 0, "audioBitrate": 0, "codecImpl": "", "transport": "UDP",
        "cvoExtension": true, "createDate": created.as_millis() as u64, "mediaType": "publish",
        "audioState": {"muted": true}, "videoState": {"muted": false}, "mediaProvider": "WebRTC",
        "metrics": stream["metrics"],
    });
    assert_eq!(stream, &expected);
    assert_eq!(
        (&stream["metrics"]["VIDEO_WIDTH"], &stream["metrics"]["VIDEO_B_FRAMES"]),
        (&json!(320), &json!(0))
    );
    assert!(stream["metrics"]["VIDEO_FPS"].as_f64().unwrap() > 0.0, "{stream}");
    drop(one);
    assert_eq!(names(client.get(FIND_ALL).json()), ["two"]);
}

#[test]
fn a_page_of_another_origin_may_ask() {
    let site = TestSite::start(Options::default());
    let mut client = HttpClient::connect(site.address);
    let headers = [("Origin", "https://page.example"), ("Access-Control-Request-Method", "POST")];
    let preflight = client.request("OPTIONS", SNAPSHOT, &headers, b"");
    assert_eq!((preflight.status, preflight.body.len()), (200, 0));
    for (name, value) in [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Headers", "content-type,x-requested-with"),
        ("Access-Control-Allow-Methods", "POST"),
    ] {
        assert_eq!(preflight.header(name), Some(value));
    }
}

#[test]
fn a_password_guards_calls_pictures_and_counts_and_not_the_pages() {
    let credentials = Some(Credentials::new("admin", "geheim"));
    let site = TestSite::start(Options { credentials, ..Options::default() });
    let mut client = HttpClient::connect(site.address);
    let right = format!("Basic {}", STANDARD.encode("admin:geheim"));
    let wrong = format!("Basic {}", STANDARD.encode("admin:Geheim"));
    let pictures = ["/snapshots/cam1.png", "/stills/cam1.png"];
    let calls = [FIND_ALL, "/rest-api/stream/list", "/rest-api/no-such-call", "/metrics", "/?action=stat"];
    for path in calls.into_iter().chain(pictures) {
        let plain = path.split('?').next().unwrap();
        let refused = client.get(path);
        refused.error(401, plain);
        assert!(refused.header("WWW-Authenticate").unwrap().starts_with("Basic "));
        client.request("GET", path, &[("Authorization", &wrong)], b"").error(401, plain);
        let let_in = client.request("GET", path, &[("Authorization", &right)], b"");
        assert_ne!(let_in.status, 401, "{path}");
    }
    let preflight = client.request("OPTIONS", SNAPSHOT, &[("Origin", "https://page.example")], b"");
    assert_eq!(preflight.status, 200, "browsers send no password with it");
    assert!(preflight.header("Access-Control-Allow-Headers").unwrap().contains("authorization"));
    assert_eq!((client.get("/health").status, client.get("/").status), (200, 302));
}

#[test]
fn pages_are_served_under_both_prefixes_and_nothing_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret.txt"), "secret").unwrap();
    let web_dir = folder.path().join("package");
    std::fs::create_dir_all(web_dir.join("records")).unwrap();
    std::fs::write(web_dir.join("records/call.mp4"), "video").unwrap();
    std::fs::write(web_dir.join("flashphoner.js"), "// package").unwrap();
    let site = TestSite::start(Options { web_dir: Some(web_dir), ..Options::default() });
    let mut client = HttpClient::connect(site.address);
    let demo = "/client2/examples/demo/streaming/stream-snapshot/stream-snapshot.html";
    let start = "/client2/examples/demo/streaming/streams/streams.html";
    for path in ["/", "/client2/", "/client"] {
        let response = client.get(path);
        assert_eq!((response.status, response.header("Location")), (302, Some(start)), "{path}");
    }
    assert_eq!(client.get(start).status, 200);
    let page = client.get(demo);
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(client.get(&demo.replace("client2", "client")).body, page.body);
    let head = client.request("HEAD", demo, &[], b"");
    assert_eq!(head.header("Content-Length"), Some(page.body.len().to_string().as_str()));
    let part = client.request("GET", demo, &[("Range", "bytes=2-8")], b"");
    assert_eq!((part.status, part.text()), (206, "DOCTYPE"));
    assert_eq!(client.get("/client/flashphoner.js").text(), "// package");
    for path in [
        "/client/../secret.txt",
        "/client/%2e%2e/secret.txt",
        "/client2/..%2fsecret.txt",
        "/client2/..%5csecret.txt",
        "/client/records/call.mp4",
        "/client/Records/call.mp4",
        "/client/records%2fcall.mp4",
        "/client/examples/",
        "/etc/passwd",
        "//etc/passwd",
        "/client2//etc/passwd",
        "/nothing",
    ] {
        client.get(path).error(404, path);
    }
    client.post(demo, "{}").error(405, demo);
}

#[test]
fn the_old_console_can_read_the_statistics() {
    let site = TestSite::start(Options::default());
    let _publisher = site.publish("a=b;c/d", |_| {}, None);
    let by = |name, protocol| site.publish(name, |publication| publication.protocol = protocol, None);
    let _others = [by("encoder", SourceProtocol::Rtmp), by("other server", SourceProtocol::RtmpPull)];
    let _camera = by("rtsp://camera/1", SourceProtocol::RtspPull);
    let mut client = HttpClient::connect(site.address);
    let response = client.get("/?action=stat&preventCache=now");
    assert_eq!(response.header("Content-Type"), Some("text/plain; charset=utf-8"));
    // As the helper of the client library reads it.
    let mut groups = std::collections::BTreeMap::<String, Vec<(String, String)>>::new();
    let mut group = None;
    for line in response.text().lines() {
        assert!(!line.contains('\r'));
        if let Some(title) = line.strip_prefix('-') {
            group = Some(title.trim_matches('-').split(' ').next().unwrap().to_lowercase());
        } else {
            let (key, value) = line.split_once('=').unwrap();
            let group = group.clone().expect("the first line is a group");
            groups.entry(group).or_default().push((key.to_owned(), value.to_owned()));
        }
    }
    let value = |group: &str, key: &str| {
        groups[group]
            .iter()
            .find(|(name, _)| name == key)
            .unwrap_or_else(|| panic!("{key} is missing"))
            .1
            .clone()
    };
    assert_eq!(value("stream", "streams_webrtc_in"), "1");
    assert_eq!(
        (value("stream", "streams_rtmp_in"), value("stream", "streams_rtsp_in")),
        ("2".into(), "1".into())
    );
    for key in ["webrtc_out", "rtmp_out", "rtsp_out", "rtmfp_in", "rtmfp_out"] {
        assert_eq!(value("stream", &format!("streams_{key}")), "0");
    }
    assert_eq!(
        value("stream", "streams_viewers"),
        "a%3Db%3Bc%2Fd/0;encoder/0;other server/0;rtsp:%2F%2Fcamera%2F1/0"
    );
    assert_eq!(
        (value("connection", "connections"), value("connection", "connections_websocket")),
        ("1".into(), "0".into())
    );
    assert_eq!(
        (value("port", "ports_media_free"), value("port", "ports_media_busy")),
        ("100".into(), "0".into())
    );
    assert!(value("system", "system_memory_total").parse::<u64>().unwrap() > 0);
    assert!(value("system", "system_memory_free").parse::<u64>().unwrap() > 0);
    value("system", "system_java_cpu_usage").parse::<f64>().unwrap();
    assert!(value("core", "core_threads").parse::<u64>().unwrap() > 1);

    let json = client.get("/?action=stat&format=json&groups=streams_stats,core_stats").json();
    let names: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(names, ["streams_stats", "core_stats"]);
    assert_eq!(json["streams_stats"]["streams_webrtc_in"], 1);
    assert_eq!(json["streams_stats"]["streams_rtmp_in"], 2);

    let health = client.get("/health").json();
    assert_eq!(health, json!({"status": "ok", "version": env!("CARGO_PKG_VERSION"), "streams": 4}));
    let metrics = client.get("/metrics");
    assert!(metrics.header("Content-Type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in [
        "stillcast_streams 4",
        "stillcast_streams_by_protocol{protocol=\"rtmp\"} 1",
        "stillcast_connections_by_port{port=\"http\"} 1",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} is missing in {}", metrics.text());
    }
}

#[test]
fn requests_that_break_bounds_get_the_same_error_body() {
    let site = TestSite::start(Options::default());
    let exchange = |bytes: &[u8]| {
        let mut client = HttpClient::connect(site.address);
        client.send(bytes);
        let response = client.read_response("GET");
        assert_eq!(response.header("Connection"), Some("close"));
        assert!(client.read_to_end().is_empty());
        response
    };
    let large = exchange(&request_bytes("POST", SNAPSHOT, &[], &[b' '; 64 * 1024 + 1]));
    assert_eq!(large.error(413, SNAPSHOT), "Request body is too large");
    assert_eq!(large.header("Access-Control-Allow-Origin"), Some("*"), "pages can read this too");
    exchange(&request_bytes("GET", "/", &[("X-Long", &"x".repeat(17_000))], b"")).error(431, "");
    exchange(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(17_000)).as_bytes()).error(414, "");
    let two =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    exchange(two.as_bytes()).error(400, "");
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    let message = exchange(&request_bytes("GET", "/", &upgrade, b"")).error(400, "");
    assert!(message.contains("ws.port"), "{message}");
    exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").error(400, "");
    assert_eq!(threads::panics(), 0);
}

#[test]
fn half_requests_hold_up_nobody_and_are_dropped() {
    let http = HttpSettings { head_deadline: Duration::from_millis(500), ..HttpSettings::usual() };
    let site = TestSite::start(Options { http, ..Options::default() });
    let mut slow: Vec<_> = (0..50)
        .map(|_| {
            let mut client = HttpClient::connect(site.address);
            client.send(b"POST /rest-api/stream/find HTTP/1.1\r\nHost: a\r\nX: ");
            client
        })
        .collect();
    let mut client = HttpClient::connect(site.address);
    assert_eq!(client.get("/health").status, 200, "while fifty others say nothing");
    for client in &mut slow {
        client.read_response("GET").error(408, "");
    }
    assert_eq!(site.metrics.bad_input_total.with_label_values(&["http_late"]).get(), 50);
}

#[test]
fn a_stop_answers_who_waits_and_ends_all_connections() {
    let mut site = TestSite::start(Options::default());
    let (bell, rung) = Bell::new(None);
    let publisher = site.publish("silent", |_| {}, Some(bell));
    let _idle = HttpClient::connect(site.address);
    let address = site.address;
    let (sender, answer) = crossbeam_channel::bounded(1);
    let asker = threads::spawn("test-asker", threads::STACK_PROTOCOL_BYTES, move || {
        let mut client = HttpClient::connect(address);
        let response = client.get("/snapshots/silent.png");
        let _ = sender.send((response, client.read_to_end().is_empty()));
    });
    rung.recv_timeout(LIMIT).expect("the request is under way once a keyframe was asked for");
    let began = site.clock.now();
    assert!(site.stop());
    let (response, closed) = answer.recv_timeout(LIMIT).unwrap();
    response.error(503, "/snapshots/silent.png");
    assert!(
        closed && site.clock.now() - began < Duration::from_secs(5),
        "sooner than the request's own limit"
    );
    assert!(asker.unwrap().join(LIMIT));
    drop(publisher);
}
