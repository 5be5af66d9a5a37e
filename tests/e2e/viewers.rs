//! Who plays what, as REST and the statistics show it, and ending and telling players.

use serde_json::json;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::hub::{EndReason, Notice, Publisher, ViewerPlace, Viewing};

use crate::support::rest::HttpClient;
use crate::support::site::{Options, TestSite};

const FIND: &str = "/rest-api/stream/find";
const TERMINATE: &str = "/rest-api/stream/terminate";
const SEND: &str = "/rest-api/stream/event/send";

/// A player of `publisher`'s stream.
fn play(
    site: &TestSite,
    publisher: &Publisher,
    id: &str,
    media_provider: &'static str,
) -> (ViewerPlace, crossbeam_channel::Receiver<Notice>) {
    let stream = publisher.stream();
    let viewing = Viewing {
        name: StreamName::new(stream.publication().name.as_str()).unwrap(),
        media_session_id: MediaSessionId::new(id).unwrap(),
        app_key: "defaultApp".into(),
        session_id: format!("session of {id}"),
        created: site.clock.wall(),
        media_provider,
        transport: "UDP",
        video_codec: "H264".into(),
        audio_codec: String::new(),
        sdp: "v=0\r\na=ice-pwd:secret\r\n".into(),
        size: [640, 360],
        bitrates_kbps: [0; 3],
        custom: json!({"seat": 7}),
    };
    site.registry.viewers().enter(viewing, stream.clone(), None).unwrap()
}

#[test]
fn players_are_found_beside_publishers_and_counted() {
    let site = TestSite::start(Options::default());
    let (cam, _) = site.publish_cards("cam", (320, 240), 2);
    let (first, _heard) = play(&site, &cam, "p1", "WebRTC");
    let (_second, _) = play(&site, &cam, "p2", "Flash");
    let mut client = HttpClient::connect(site.address);
    let mut ids = |query: &str| -> Vec<String> {
        let found = client.post(FIND, query);
        if found.status == 404 {
            return Vec::new();
        }
        let id = |stream: &serde_json::Value| stream["mediaSessionId"].as_str().unwrap().to_owned();
        found.json().as_array().unwrap().iter().map(id).collect()
    };
    assert_eq!(ids(r#"{"name":"cam"}"#), ["session of cam", "p1", "p2"]);
    assert_eq!(ids(r#"{"published":true}"#), ["session of cam"]);
    assert!(ids(r#"{"status":"PLAYING"}"#).is_empty(), "its media is not up yet");
    first.viewer().set_playing();
    assert_eq!(ids(r#"{"status":"PLAYING"}"#), ["p1"]);
    assert_eq!(ids(r#"{"mediaProvider":"Flash","mediaType":"play"}"#), ["p2"]);

    let found = client.post(FIND, r#"{"mediaSessionId":"p1"}"#).json();
    let player = &found[0];
    let want = json!([false, true, false, 640, 360, "session of p1", {"seat": 7}, "v=0\r\n"]);
    let keys = ["published", "hasVideo", "hasAudio", "width", "height", "sessionId", "custom", "sdp"];
    assert_eq!(json!(keys.map(|key| &player[key])), want);

    let statistics = client.get("/?action=stat&format=json").json()["streams_stats"].clone();
    let counts = ["streams_webrtc_out", "streams_rtmp_out", "streams_rtsp_out", "streams_viewers"];
    assert_eq!(json!(counts.map(|key| &statistics[key])), json!([1, 1, 0, "cam/2"]));
    assert_eq!(client.get("/rest-api/stream/list").json()["streams"][0]["viewers"], 2);
}

#[test]
fn one_player_can_be_ended_without_its_publisher() {
    let site = TestSite::start(Options::default());
    let cam = site.publish("cam", |_| {}, None);
    let (first, _) = play(&site, &cam, "p1", "WebRTC");
    let (second, _) = play(&site, &cam, "p2", "WebRTC");
    let mut client = HttpClient::connect(site.address);
    assert_eq!(client.post(TERMINATE, r#"{"mediaSessionId":"p1"}"#).status, 200);
    assert_eq!(first.viewer().asked_to_end(), Some(EndReason::Terminated));
    assert_eq!((second.viewer().asked_to_end(), cam.asked_to_end()), (None, None));
    assert_eq!(client.post(TERMINATE, r#"{"name":"cam","published":false}"#).status, 200);
    assert_eq!((second.viewer().asked_to_end(), cam.asked_to_end()), (Some(EndReason::Terminated), None));
}

#[test]
fn data_reaches_the_players_of_one_stream() {
    let site = TestSite::start(Options::default());
    let (cam, other) = (site.publish("cam", |_| {}, None), site.publish("other", |_| {}, None));
    let (_first, heard) = play(&site, &cam, "p1", "WebRTC");
    let (_second, not_heard) = play(&site, &other, "p2", "WebRTC");
    let mut client = HttpClient::connect(site.address);
    let sent = client.post(SEND, r#"{"streamName":"cam","payload":{"count":23}}"#);
    assert_eq!((sent.status, sent.body.len()), (200, 0));
    assert!(matches!(heard.try_recv(), Ok(Notice::Data(data)) if *data == json!({"count": 23})));
    assert!(not_heard.try_recv().is_err());
    client.post(SEND, r#"{"streamName":"none","payload":{}}"#).error(404, SEND);
    client.post(SEND, r#"{"payload":{}}"#).error(400, SEND);
    // A player that hears nothing is not waited for, and whoever sends too much is told.
    let refused = std::iter::repeat_with(|| client.post(SEND, r#"{"streamName":"cam","payload":{}}"#))
        .take(1000)
        .find(|answer| answer.status != 200)
        .expect("a bound");
    refused.error(503, SEND);
}
