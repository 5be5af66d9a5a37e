//! The call flows of the manual and the pitfalls of the protocol document's appendix D, without a socket.

mod player;

use serde_json::{Value, json};

use super::*;
use crate::base::clock::Clock;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> SignalSettings {
    SignalSettings {
        ping_interval: 5 * SECOND,
        ping_probes: 10,
        connection_limit: 10 * SECOND,
        streams_max: 3,
        snapshots_max: 2,
        bad_messages_max: 3,
    }
}

/// A client and its session; frames are seen as JSON, as a client sees them.
struct Call {
    session: Session,
    clock: Clock,
    frames: Vec<Value>,
    actions: Vec<Action>,
}

impl Call {
    fn new() -> Self {
        let clock = Clock::manual();
        let ids = SessionIds { session_id: "s1".into(), auth_token: Hidden("token".into()) };
        let session = Session::new(settings(), ids, clock.now());
        Self { session, clock, frames: Vec::new(), actions: Vec::new() }
    }

    fn open() -> Self {
        let mut call = Self::new();
        call.say(json!({"message": "connection", "data": [{"appKey": "defaultApp"}]}));
        assert_eq!(call.take()[0]["message"], "getUserData");
        call
    }

    fn drain(&mut self) -> Option<Instant> {
        loop {
            match self.session.poll_output() {
                Output::Send(message) => {
                    let frame: Value = serde_json::from_str(&message.to_json()).unwrap();
                    assert!(frame["data"].is_array(), "data is always an array: {frame}");
                    assert_ne!(frame["message"], "registered");
                    assert!(frame["data"][0].get("available").is_none(), "{frame}");
                    if frame["message"] == "notifyStreamEvent" {
                        assert!(
                            frame["data"][0]["type"].is_string() && frame["data"][0]["payload"].is_object()
                        );
                    }
                    self.frames.push(frame);
                }
                Output::Do(action) => self.actions.push(action),
                Output::Timeout(at) => return at,
            }
        }
    }

    fn say(&mut self, frame: Value) {
        match FromClient::parse(&frame.to_string()) {
            Ok(message) => self.session.handle_message(self.clock.now(), message),
            Err(error) => self.session.handle_bad_message(error),
        }
        self.drain();
    }

    fn hear(&mut self, event: Event) {
        self.session.handle_event(event);
        self.drain();
    }

    /// Lets the session's own deadlines pass for this long, one after the other.
    fn pass(&mut self, time: Duration) {
        let end = self.clock.now() + time;
        while let Some(at) = self.drain().filter(|at| *at <= end) {
            self.clock.advance(at.saturating_duration_since(self.clock.now()));
            self.session.handle_timeout(self.clock.now());
        }
        self.clock.advance(end.saturating_duration_since(self.clock.now()));
    }

    fn take(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.frames)
    }

    fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn publish(&mut self, id: &str, name: &str) {
        self.say(json!({"message": "publishStream", "data": [{"mediaSessionId": id, "name": name,
            "hasVideo": true, "hasAudio": true, "sdp": "v=0", "mediaProvider": "WebRTC", "bitrate": "700"}]}));
    }

    /// A publication that is up.
    fn publishing(id: &str, name: &str) -> Self {
        let mut call = Self::open();
        call.publish(id, name);
        call.hear(answered(id));
        call.hear(Event::Up { media_session_id: key(id) });
        assert_eq!(call.take().len(), 2);
        call.take_actions();
        call
    }

    fn snapshot(&mut self, id: &str, name: &str) -> u64 {
        self.say(json!({"message": "snapshot", "data": [{"name": name, "mediaSessionId": id}]}));
        match self.take_actions().as_slice() {
            [Action::TakeSnapshot { ticket, name: asked, .. }] if asked == name => *ticket,
            other => panic!("{other:?}"),
        }
    }

    fn closed(&self) -> Option<CloseReason> {
        self.actions.iter().find_map(|action| match action {
            Action::Close(reason) => Some(*reason),
            _ => None,
        })
    }
}

fn key(id: &str) -> MediaSessionId {
    MediaSessionId::new(id).unwrap()
}

fn answered(id: &str) -> Event {
    Event::Answered {
        media_session_id: key(id),
        sdp: Hidden("answer".into()),
        video_codec: Some("H264".into()),
        audio_codec: None,
    }
}

fn ended(id: &str, status: EndStatus, info: &str) -> Event {
    Event::Ended { media_session_id: key(id), status, info: info.into() }
}

/// Status and info of each status frame.
fn statuses(frames: &[Value]) -> Vec<(&str, &str)> {
    let text = |value: &'static str| move |frame: &Value| frame["data"][0][value].as_str().map(str::to_owned);
    frames
        .iter()
        .filter(|frame| frame["message"] == "notifyStreamStatusEvent")
        .map(|frame| {
            assert!(text("status")(frame).is_some());
            let field = |name: &str| frame["data"][0][name].as_str().unwrap_or("");
            (field("status"), field("info"))
        })
        .collect()
}

#[test]
fn a_connection_is_echoed_with_its_token_and_without_secrets() {
    let mut call = Call::new();
    call.say(json!({"message": "connection", "data": [{
        "appKey": "myApp", "mediaProviders": ["WebRTC", "MSE"], "clientVersion": "0.5.28", "custom": {"a": [1]},
        "authToken": "forged", "sipPassword": "secret", "webRTCMetricsServerDescription": {"collect": "on"},
    }]}));
    assert_eq!(
        call.take(),
        [json!({"message": "getUserData", "data": [{
            "appKey": "myApp", "mediaProviders": ["WebRTC", "MSE"], "clientVersion": "0.5.28",
            "custom": {"a": [1]}, "authToken": "token", "sessionId": "s1", "status": "ESTABLISHED"}]})]
    );
    assert_eq!(call.session.app_key(), "myApp");
}

#[test]
fn a_connection_without_a_usable_key_is_refused_and_closed() {
    let mut call = Call::new();
    call.say(json!({"message": "connection", "data": [{"appKey": "a\nb"}]}));
    assert_eq!(
        call.take(),
        [json!({"message": "fail", "data": [{"apiMethod": "ConnectionStatusEvent", "status": "FAILED",
            "info": "Forbidden"}]})]
    );
    assert_eq!(call.closed(), Some(CloseReason::Refused));
}

#[test]
fn a_client_that_does_not_say_connection_in_time_is_closed() {
    let mut call = Call::new();
    call.pass(10 * SECOND - Duration::from_millis(1));
    call.say(json!({"message": "ping", "data": [null]}));
    assert_eq!(call.closed(), None);
    call.pass(Duration::from_millis(1));
    assert_eq!(call.closed(), Some(CloseReason::NoConnection), "a ping does not buy time");
    assert_eq!(call.drain(), None);
}

#[test]
fn nothing_is_served_before_connection_and_every_request_is_answered() {
    let mut call = Call::new();
    call.publish("m1", "cam1");
    call.say(json!({"message": "playStream", "data": [{"mediaSessionId": "m2", "name": "cam1"}]}));
    call.say(json!({"message": "availableStream", "data": [{"mediaSessionId": "m3", "name": "cam1"}]}));
    call.say(json!({"message": "snapshot", "data": [{"mediaSessionId": "m4", "name": "cam1"}]}));
    assert!(call.take_actions().is_empty());
    let frames = call.take();
    assert_eq!(statuses(&frames), [("FAILED", "Session not ready"); 3]);
    assert_eq!(frames[2]["data"], json!([{"id": "m3", "status": "false", "info": "Session not ready"}]));
}

#[test]
fn pings_go_out_every_interval_and_silence_closes_after_the_probes() {
    let mut call = Call::open();
    call.pass(49 * SECOND);
    assert_eq!(call.take(), vec![json!({"message": "ping", "data": []}); 9]);
    call.say(json!({"message": "pong"}));
    call.pass(SECOND + 49 * SECOND);
    assert_eq!((call.take().len(), call.closed()), (10, None), "the pong counted");
    call.pass(5 * SECOND);
    assert_eq!((call.take().len(), call.closed()), (0, Some(CloseReason::KeepAlive)));
}

#[test]
fn pings_go_out_even_while_other_frames_flow() {
    let mut call = Call::open();
    for _ in 0..10 {
        call.pass(SECOND);
        call.say(json!({"message": "ping", "data": [null]}));
    }
    let frames = call.take();
    let count = |name: &str| frames.iter().filter(|frame| frame["message"] == name).count();
    assert_eq!((count("ping"), count("pong")), (2, 10));
    assert_eq!(frames[0], json!({"message": "pong", "data": [null]}));
}

#[test]
fn a_publication_goes_through_all_its_frames_in_order() {
    let mut call = Call::open();
    call.publish("m1", "cam1");
    let actions = call.take_actions();
    let [Action::StartPublish(start)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(
        (start.name.as_str(), start.sdp.0.as_str(), start.bitrates_kbps),
        ("cam1", "v=0", [700, 0, 0])
    );
    assert!(call.take().is_empty());
    call.hear(answered("m1"));
    call.hear(Event::Up { media_session_id: key("m1") });
    // What the client claims of its tracks is a constant; what was negotiated counts.
    call.say(json!({"message": "unPublishStream",
        "data": [{"mediaSessionId": "m1", "name": "other", "hasAudio": true, "status": "PUBLISHING"}]}));
    assert!(matches!(call.take_actions().as_slice(),
        [Action::StopPublish { media_session_id }] if *media_session_id == key("m1")));
    call.hear(ended("m1", EndStatus::Orderly, "Stopped by user"));
    assert_eq!(
        call.take(),
        [
            json!({"message": "setRemoteSDP", "data": ["m1", "answer", false]}),
            json!({"message": "notifyStreamStatusEvent", "data": [{"mediaSessionId": "m1", "name": "cam1",
                "published": true, "hasVideo": true, "hasAudio": false, "status": "PUBLISHING",
                "videoCodec": "H264", "record": false, "mediaProvider": "WebRTC"}]}),
            json!({"message": "notifyStreamStatusEvent", "data": [{"mediaSessionId": "m1", "name": "cam1",
                "published": true, "status": "UNPUBLISHED", "info": "Stopped by user",
                "mediaProvider": "WebRTC"}]}),
        ]
    );
    call.publish("m2", "cam1");
    assert!(matches!(call.take_actions().as_slice(), [Action::StartPublish(_)]), "the name is free again");
}

#[test]
fn a_stop_before_the_answer_ends_unpublished_and_without_an_answer() {
    let mut call = Call::open();
    call.publish("m1", "cam1");
    call.say(json!({"message": "unPublishStream", "data": [{"mediaSessionId": "m1"}]}));
    call.say(json!({"message": "unPublishStream", "data": [{"mediaSessionId": "m1"}]}));
    assert!(matches!(call.take_actions().as_slice(), [Action::StartPublish(_), Action::StopPublish { .. }]));
    call.hear(answered("m1"));
    call.hear(Event::Up { media_session_id: key("m1") });
    call.hear(ended("m1", EndStatus::Failed, "Failed by ICE timeout"));
    let frames = call.take();
    assert_eq!((frames.len(), statuses(&frames)), (1, vec![("UNPUBLISHED", "Stopped by user")]));
}

#[test]
fn a_stream_that_fails_at_any_step_says_so_last() {
    for steps in 0..3 {
        let mut call = Call::open();
        call.publish("m1", "cam1");
        if steps > 0 {
            call.hear(answered("m1"));
        }
        if steps > 1 {
            call.hear(Event::Up { media_session_id: key("m1") });
        }
        call.hear(ended("m1", EndStatus::Failed, "Failed by ICE timeout"));
        let frames = call.take();
        assert_eq!(statuses(&frames).last(), Some(&("FAILED", "Failed by ICE timeout")));
        assert_eq!(frames.len(), steps + 1);
        // Whatever still arrives of it is silent, and so is a late stop.
        call.hear(Event::Up { media_session_id: key("m1") });
        call.hear(answered("m1"));
        call.hear(ended("m1", EndStatus::Orderly, "Stopped by user"));
        call.take_actions();
        call.say(json!({"message": "unPublishStream", "data": [{"mediaSessionId": "m1"}]}));
        assert!(call.take().is_empty() && call.take_actions().is_empty());
    }
}

#[test]
fn publications_that_cannot_be_are_refused_by_name() {
    let mut call = Call::publishing("m1", "cam1");
    let long = "x".repeat(10_000);
    for (id, name, info) in [
        (json!(null), "cam2", "MediaSessionId is null"),
        (json!("m1"), "cam2", "MediaSessionId is already in use"),
        (json!("m2"), long.as_str(), "Failed to add stream to proxy"),
        (json!("m2"), "a\r\nb", "Failed to add stream to proxy"),
        (json!("m\n2"), "cam2", "Failed to add stream to proxy"),
    ] {
        call.say(json!({"message": "publishStream", "data": [{"mediaSessionId": id, "name": name}]}));
        assert!(
            !call.take_actions().iter().any(|action| matches!(action, Action::StartPublish(_))),
            "{info}"
        );
        let frames = call.take();
        assert_eq!(statuses(&frames), [("FAILED", info)]);
        assert_eq!(frames[0]["data"][0]["mediaSessionId"], id);
    }
    call.say(json!({"message": "publishStream",
        "data": [{"mediaSessionId": "m2", "name": "b", "mediaProvider": "Flash"}]}));
    assert_eq!(statuses(&call.take()), [("FAILED", "No common codecs")]);
    assert_eq!(call.session.streams.len(), 1, "the first one is untouched");

    call.publish("m2", "b");
    call.publish("m3", "c");
    call.take_actions();
    call.publish("m4", "d");
    assert_eq!(
        statuses(&call.take()),
        [("FAILED", "Failed to add stream to proxy")],
        "three at once are allowed"
    );
}

#[test]
fn a_player_that_stops_before_its_answer_and_one_that_is_refused_are_told() {
    let mut call = Call::open();
    call.say(
        json!({"message": "playStream", "data": [{"mediaSessionId": "m1", "name": "cam1", "width": "640"}]}),
    );
    let actions = call.take_actions();
    let [Action::StartPlay(start)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(start.size, [640, 0]);
    call.hear(ended("m1", EndStatus::Failed, "Stream not found"));
    call.say(json!({"message": "stopStream", "data": [{"mediaSessionId": "m1"}]}));
    let frames = call.take();
    assert_eq!(statuses(&frames), [("FAILED", "Stream not found")]);
    assert_eq!(frames[0]["data"][0]["published"], false);

    call.say(json!({"message": "playStream", "data": [{"mediaSessionId": "m2", "name": "cam1"}]}));
    call.say(json!({"message": "unPublishStream", "data": [{"mediaSessionId": "m2"}]}));
    call.say(json!({"message": "stopStream", "data": [{"mediaSessionId": "m2"}]}));
    assert!(matches!(call.take_actions().as_slice(), [Action::StartPlay(_), Action::StopPlay { .. }]));
    call.hear(ended("m2", EndStatus::Orderly, "Stopped by user"));
    assert_eq!(statuses(&call.take()), [("STOPPED", "Stopped by user")]);
}

#[test]
fn a_snapshot_succeeds_for_both_generations_of_clients() {
    let mut call = Call::open();
    let ticket = call.snapshot("m3", "cam1");
    call.hear(Event::Snapshot { ticket, result: Ok("iVBORw0KGgo=".into()) });
    assert_eq!(
        call.take(),
        [
            json!({"message": "notifyStreamStatusEvent", "data": [{"mediaSessionId": "m3", "name": "cam1",
                "status": "SNAPSHOT_COMPLETE", "info": "iVBORw0KGgo="}]}),
            json!({"message": "notifyStreamEvent", "data": [{"mediaSessionId": "m3",
                "type": "snapshotCompleted", "payload": {"snapshot": "iVBORw0KGgo="}}]}),
        ]
    );
    call.hear(Event::Snapshot { ticket, result: Ok("again".into()) });
    assert!(call.take().is_empty(), "the id is forgotten");
}

#[test]
fn a_failed_snapshot_sends_its_event_before_the_status() {
    let mut call = Call::open();
    let ticket = call.snapshot("m3", "nobody");
    call.hear(Event::Snapshot { ticket, result: Err("Stream not found".into()) });
    assert_eq!(
        call.take(),
        [
            json!({"message": "notifyStreamEvent", "data": [{"mediaSessionId": "m3",
                "type": "snapshotFailed", "payload": {"info": "Stream not found"}}]}),
            json!({"message": "notifyStreamStatusEvent", "data": [{"mediaSessionId": "m3", "name": "nobody",
                "status": "FAILED", "info": "Stream not found"}]}),
        ]
    );
}

#[test]
fn a_failed_snapshot_never_fails_an_active_stream() {
    let mut call = Call::publishing("m1", "cam1");
    let ticket = call.snapshot("m1", "nobody");
    call.hear(Event::Snapshot { ticket, result: Err("Stream not found".into()) });
    let frames = call.take();
    assert_eq!((frames.len(), statuses(&frames).len()), (1, 0));
    assert_eq!(frames[0]["data"][0]["type"], "snapshotFailed");

    // The id was fresh when the picture was asked for, and is a stream's by now.
    let ticket = call.snapshot("m2", "nobody");
    call.publish("m2", "cam2");
    call.hear(Event::Snapshot { ticket, result: Err("Stream not found".into()) });
    assert_eq!(statuses(&call.take()).len(), 0);
}

#[test]
fn a_picture_that_comes_after_the_terminal_status_is_not_sent() {
    for result in [Ok("iVBORw0KGgo=".into()), Err("Distributor stopped".into())] {
        let mut call = Call::publishing("m1", "cam1");
        let ticket = call.snapshot("m1", "cam1");
        call.hear(ended("m1", EndStatus::Failed, "Failed by RTP activity"));
        call.hear(Event::Snapshot { ticket, result });
        assert_eq!(statuses(&call.take()), [("FAILED", "Failed by RTP activity")]);
    }
}

#[test]
fn snapshots_are_bounded_and_need_an_id() {
    let mut call = Call::open();
    let first = call.snapshot("m1", "cam1");
    call.snapshot("m1", "cam1");
    call.say(json!({"message": "snapshot", "data": [{"name": "cam1", "mediaSessionId": "m3"}]}));
    assert!(matches!(call.take_actions().as_slice(), [Action::CountBadInput(_)]));
    assert_eq!(statuses(&call.take()), [("FAILED", "Snapshot taking error")]);
    call.hear(Event::Snapshot { ticket: first, result: Ok("x".into()) });
    call.take();
    call.snapshot("m3", "cam1");
    call.say(json!({"message": "snapshot", "data": [{"name": "cam1"}]}));
    assert_eq!(statuses(&call.take()), [("FAILED", "MediaSessionId is null")]);
    let long = "m".repeat(100_000);
    call.say(json!({"message": "snapshot", "data": [{"name": "cam1", "mediaSessionId": long}]}));
    assert_eq!(statuses(&call.take()), [("FAILED", "Snapshot taking error")]);
}

#[test]
fn page_data_is_kept_up_to_a_size() {
    let mut call = Call::open();
    for (bytes, is_kept) in [(60_000, true), (70_000, false)] {
        call.say(json!({"message": "publishStream", "data": [{"mediaSessionId": format!("m{bytes}"),
            "name": format!("cam{bytes}"), "sdp": "v=0", "custom": {"data": "x".repeat(bytes)}}]}));
        let begun = call.take_actions().iter().any(|action| matches!(action, Action::StartPublish(_)));
        assert_eq!((begun, call.take().is_empty()), (is_kept, is_kept), "{bytes}");
    }
}

#[test]
fn availability_is_told_by_strings_under_another_key() {
    let mut call = Call::open();
    call.say(json!({"message": "availableStream", "data": [{"mediaSessionId": "m4", "name": "cam1"}]}));
    assert!(matches!(call.take_actions().as_slice(),
        [Action::CheckStream { id, name }] if id == "m4" && name == "cam1"));
    call.hear(Event::Checked { id: "m4".into(), unavailable: None });
    call.hear(Event::Checked { id: "m5".into(), unavailable: Some("Stream not found".into()) });
    assert_eq!(
        call.take(),
        [
            json!({"message": "availableStream", "data": [{"id": "m4", "status": "true"}]}),
            json!({"message": "availableStream",
                "data": [{"id": "m5", "status": "false", "info": "Stream not found"}]}),
        ]
    );
}

#[test]
fn mute_states_and_data_come_from_publishers_only() {
    let mut call = Call::publishing("m1", "cam1");
    let event = |id: &str, kind: &str| {
        json!({"message": "sendStreamEvent",
            "data": [{"mediaSessionId": id, "type": kind, "payload": {"count": 1}}]})
    };
    call.say(event("m1", "audioMuted"));
    call.say(event("m1", "videoUnmuted"));
    call.say(event("m1", "data"));
    assert!(matches!(
        call.take_actions().as_slice(),
        [
            Action::SetMuted { audio: Some(true), video: None, .. },
            Action::SetMuted { audio: None, video: Some(false), .. },
            Action::ShareData { payload, .. },
        ] if *payload == json!({"count": 1})
    ));
    call.say(event("m9", "audioMuted"));
    call.say(event("m1", "explode"));
    assert!(matches!(
        call.take_actions().as_slice(),
        [Action::CountBadInput("stream_event"), Action::CountBadInput("stream_event")]
    ));
    assert!(call.take().is_empty(), "no acknowledgement is expected");
}

#[test]
fn messages_for_others_are_answered_as_little_as_clients_need() {
    let mut call = Call::open();
    call.say(json!({"message": "sendData", "data": [{"operationId": "op1", "payload": {"a": 1}}]}));
    call.say(json!({"message": "sessionDebug", "data": [{"command": "start"}]}));
    assert_eq!(
        call.take(),
        [
            json!({"message": "DataStatusEvent", "data": [{"operationId": "op1", "status": "ACCEPTED"}]}),
            json!({"message": "notifySessionDebugEvent", "data": [{"status": "STOPPED"}]}),
        ]
    );
    for quiet in ["pushLogs", "submitBugReport", "webRTCMetricsBatch", "webRTCMetricsClientDescription"] {
        call.say(json!({"message": quiet, "data": [{"logs": "x"}]}));
    }
    assert!(call.take().is_empty() && call.take_actions().is_empty());
    call.say(json!({"message": "call", "data": [{"callId": "c1"}]}));
    call.say(json!({"message": "dance", "data": []}));
    assert!(matches!(call.take_actions().as_slice(), [Action::CountUnknown(_), Action::CountUnknown(_)]));
    assert!(call.take().is_empty());
}

#[test]
fn frames_that_are_no_messages_are_told_and_too_many_of_them_close() {
    let mut call = Call::open();
    call.say(json!("no object"));
    assert_eq!(call.take()[0]["message"], "fail");
    assert_eq!(call.closed(), None);
    call.say(json!({"data": []}));
    call.say(json!({"message": "snapshot", "data": [5]}));
    assert_eq!((call.take().len(), call.closed()), (2, Some(CloseReason::BadMessages)));
    call.publish("m1", "cam1");
    assert!(call.take().is_empty(), "nothing comes out of a closed session");
}
