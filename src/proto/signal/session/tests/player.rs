//! A player from its request to its end, and what it is told in between.

use std::sync::Arc;

use super::*;
use crate::proto::signal::message::{Bandwidths, SharedJson};

/// A player that is up, of a publisher whose microphone is off.
fn playing(id: &str) -> Call {
    let mut call = Call::open();
    call.say(json!({"message": "playStream", "data": [{"mediaSessionId": id, "name": "cam1", "sdp": "v=0",
        "width": "640", "bitrate": 300, "custom": {"token": "x"}}]}));
    let actions = call.take_actions();
    let [Action::StartPlay(start)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((start.size, start.bitrates_kbps), ([640, 0], [300, 0, 0]));
    assert_eq!(start.custom, json!({"token": "x"}));
    call.hear(Event::Muted { media_session_id: key(id), audio: Some(true), video: Some(false) });
    assert!(call.take().is_empty(), "nothing is said before the first status");
    call.hear(answered(id));
    call.hear(Event::Up { media_session_id: key(id) });
    let frames = call.take();
    assert_eq!(frames[0]["message"], "setRemoteSDP");
    let status = &frames[1]["data"][0];
    assert_eq!((&status["status"], &status["published"]), (&json!("PLAYING"), &json!(false)));
    assert_eq!(
        (&status["audioState"], &status["videoState"]),
        (&json!({"muted": true}), &json!({"muted": false}))
    );
    call
}

fn events(frames: &[Value]) -> Vec<(&str, &Value)> {
    let events = frames.iter().filter(|frame| frame["message"] == "notifyStreamEvent");
    events.map(|frame| (frame["data"][0]["type"].as_str().unwrap(), &frame["data"][0]["payload"])).collect()
}

#[test]
fn a_player_hears_of_its_publisher_and_only_of_what_changed() {
    let mut call = playing("m2");
    let muted = |audio, video| Event::Muted { media_session_id: key("m2"), audio, video };
    call.hear(muted(Some(true), Some(false)));
    assert!(call.take().is_empty(), "it knows");
    call.hear(muted(Some(false), None));
    call.hear(muted(None, Some(true)));
    let payload = SharedJson(Arc::new(json!({"count": 23})));
    call.hear(Event::Data { media_session_id: key("m2"), payload });
    let frames = call.take();
    let empty = json!({});
    assert_eq!(
        events(&frames),
        [("audioUnmuted", &empty), ("videoMuted", &empty), ("data", &json!({"count": 23}))]
    );
    assert!(frames.iter().all(|frame| frame["data"][0]["mediaSessionId"] == "m2"));
    // Clients of a certain age forget what a status does not repeat, the status of a picture included.
    let ticket = call.snapshot("m2", "cam1");
    call.hear(Event::Snapshot { ticket, result: Ok("iVBOR".into()) });
    let frames = call.take();
    assert_eq!(frames[0]["data"][0]["status"], "SNAPSHOT_COMPLETE");
    assert_eq!(frames[0]["data"][0]["videoState"], json!({"muted": true}));
}

#[test]
fn size_and_bandwidth_are_told_to_both_generations_of_clients() {
    let mut call = playing("m2");
    call.hear(Event::Resized { media_session_id: key("m2"), size: (640, 360) });
    let rates = Bandwidths { stream_bps: 1_500_000, available_bps: 800_000 };
    call.hear(Event::NotEnoughBandwidth { media_session_id: key("m2"), rates });
    let frames = call.take();
    let resize = &frames[0]["data"][0];
    assert_eq!(frames[0]["message"], "notifyStreamStatusEvent");
    assert_eq!((&resize["status"], &resize["streamerVideoWidth"]), (&json!("RESIZE"), &json!(640)));
    assert_eq!((&resize["playerVideoHeight"], &resize["audioState"]), (&json!(360), &json!({"muted": true})));
    let narrow = &frames[2]["data"][0];
    assert_eq!(
        (&narrow["status"], &narrow["info"]),
        (&json!("NOT_ENOUGH_BANDWIDTH"), &json!("1500000/800000"))
    );
    assert_eq!(
        events(&frames),
        [
            ("resize", &json!({"streamerVideoWidth": 640, "streamerVideoHeight": 360})),
            ("notEnoughBandwidth", &json!({"info": "1500000/800000"})),
        ]
    );
    call.hear(Event::VideoRate { media_session_id: key("m2"), bps: 734_000 });
    assert_eq!(
        call.take(),
        [json!({"message": "outboundVideoRate", "data": [{"mediaSessionId": "m2", "videoRate": 734_000}]})]
    );
    let mut publisher = Call::publishing("m1", "cam1");
    publisher.hear(Event::VideoRate { media_session_id: key("m1"), bps: 5 });
    publisher.hear(Event::Resized { media_session_id: key("m1"), size: (640, 360) });
    let frames = publisher.take();
    assert_eq!(frames.len(), 1, "sizes are for players");
    assert_eq!(frames[0]["message"], "inboundVideoRate");
}

#[test]
fn nothing_is_said_to_a_player_after_it_asked_for_the_end_but_the_end() {
    let mut call = playing("m2");
    call.say(json!({"message": "stopStream", "data": [{"mediaSessionId": "m2"}]}));
    assert!(matches!(call.take_actions().as_slice(), [Action::StopPlay { .. }]));
    call.hear(Event::Resized { media_session_id: key("m2"), size: (640, 360) });
    call.hear(Event::VideoRate { media_session_id: key("m2"), bps: 1 });
    call.hear(Event::Muted { media_session_id: key("m2"), audio: Some(false), video: None });
    call.hear(ended("m2", EndStatus::Failed, "Stopped by publisher stop"));
    call.hear(Event::Resized { media_session_id: key("m2"), size: (640, 360) });
    let frames = call.take();
    assert_eq!(statuses(&frames), [("STOPPED", "Stopped by user")]);
    assert_eq!(frames.len(), 1);
}

#[test]
fn data_that_is_too_large_for_many_viewers_is_not_passed_on() {
    let mut call = Call::publishing("m1", "cam1");
    let say = |call: &mut Call, payload: &str| {
        call.say(json!({"message": "sendStreamEvent", "data": [{"mediaSessionId": "m1", "type": "data", "payload": payload}]}));
        call.take_actions()
    };
    assert!(matches!(say(&mut call, "small").as_slice(), [Action::ShareData { .. }]));
    let large = "x".repeat(70_000);
    assert!(matches!(say(&mut call, &large).as_slice(), [Action::CountBadInput("data_too_large")]));
}
