use super::*;

/// What `createOffer` gave in Chromium 156 with transceivers that only receive.
const CHROMIUM: &str = include_str!("../../../tests/data/sdp/chromium_156_play_offer.sdp");

const HIGH: H264Profile = H264Profile { idc: 100, constraints: 0, level: 31 };
const MAIN: H264Profile = H264Profile { idc: 77, constraints: 0x40, level: 31 };

fn h264(profile: H264Profile) -> Option<SendableVideo> {
    Some(SendableVideo::H264 { profile: Some(profile) })
}

fn stream(video: Option<SendableVideo>, audio: Option<SendableAudio>) -> Sendable {
    Sendable { video, audio: audio.into_iter().collect() }
}

fn answer_to(text: &str, stream: &Sendable) -> Result<String, NegotiationError> {
    let offer = Offer::parse(text)?;
    let candidates = ["203.0.113.7:31002".parse().unwrap()];
    let local = Local {
        session_name: "Stillcast",
        session_id: 1,
        candidates: &candidates,
        ice_ufrag: "u7QxAAAA",
        ice_pwd: "9mZr3v0kXwq2LtY8sBn5Hd1c",
        fingerprint: &Fingerprint::sha256_of(b"certificate"),
        bitrate_start_kbps: 0,
    };
    let sender = SenderLines {
        stream: "cam 1:äß",
        cname: "abcd",
        video: Sources { ssrc: 11, rtx: 12 },
        audio: Sources { ssrc: 21, rtx: 22 },
    };
    let answer = ViewerNegotiated::new(&offer, stream)?.answer(&offer, &local, &sender)?;
    assert!(answer.ends_with("\r\n") && !answer.replace("\r\n", "").contains(['\r', '\n']));
    Ok(answer)
}

fn has(answer: &str, line: &str) -> bool {
    answer.lines().any(|found| found == line)
}

#[test]
fn both_tracks_of_a_stream_are_answered_in_one_media_stream() {
    let answer = answer_to(CHROMIUM, &stream(h264(CONSTRAINED_BASELINE), Some(SendableAudio::Opus))).unwrap();
    for line in [
        "a=group:BUNDLE 0 1",
        "m=audio 31002 UDP/TLS/RTP/SAVPF 111",
        "m=video 31002 UDP/TLS/RTP/SAVPF 108 109",
        "a=msid:cam1 cam1-a",
        "a=msid:cam1 cam1-v",
        "a=rtpmap:111 opus/48000/2",
        "a=rtpmap:108 H264/90000",
        "a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        "a=rtcp-fb:108 nack",
        "a=rtcp-fb:108 goog-remb",
        "a=rtpmap:109 rtx/90000",
        "a=fmtp:109 apt=108",
        "a=ssrc-group:FID 11 12",
        "a=ssrc:11 cname:abcd",
        "a=ssrc:12 cname:abcd",
        "a=ssrc:21 cname:abcd",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
    ] {
        assert!(has(&answer, line), "{line} in {answer}");
    }
    assert_eq!(answer.matches("a=sendonly\r\n").count(), 2);
    assert!(!answer.contains("transport-cc") && !answer.contains("recvonly"), "{answer}");
}

#[test]
fn the_payload_type_is_that_of_the_streams_codec_and_profile() {
    let number = |offer: &str, video| {
        let negotiated = ViewerNegotiated::new(&Offer::parse(offer).unwrap(), &stream(video, None)).unwrap();
        let sent = negotiated.video.unwrap();
        (sent.codec.payload_type, sent.rtx)
    };
    assert_eq!(number(CHROMIUM, Some(SendableVideo::Vp8)), (96, Some(97)));
    assert_eq!(number(CHROMIUM, h264(MAIN)), (116, Some(117)));
    assert_eq!(number(CHROMIUM, h264(HIGH)), (41, Some(42)), "4:4:4 decodes High, main need not");
    let baseline = H264Profile { constraints: 0, ..CONSTRAINED_BASELINE };
    assert_eq!(number(CHROMIUM, h264(baseline)), (102, Some(103)));
    // A viewer that names constrained baseline alone gets what there is.
    let lines = CHROMIUM.lines().filter(|line| !line.contains("f4001f") && !line.contains("4d001f"));
    let poor: String =
        lines.filter(|line| !line.contains("42001f")).map(|line| format!("{line}\r\n")).collect();
    assert_eq!(number(&poor, h264(HIGH)).0, 108);
    // Without its parameters a payload type is of mode 0, and still better than none.
    let bare: String = CHROMIUM
        .lines()
        .filter(|line| !line.contains("profile-level-id"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    assert_eq!(number(&bare, h264(MAIN)).0, 102);
}

#[test]
fn sections_without_a_common_track_keep_their_place_and_are_refused() {
    let video_only = answer_to(CHROMIUM, &stream(h264(MAIN), None)).unwrap();
    // Chromium with `max-bundle` makes its one transport of the first section, and fails when that is refused.
    assert!(
        has(&video_only, "a=group:BUNDLE 0 1") && has(&video_only, "m=audio 31002 UDP/TLS/RTP/SAVPF 111")
    );
    assert!(has(&video_only, "a=inactive") && has(&video_only, "a=rtpmap:111 opus/48000/2"));
    let audio_only = answer_to(CHROMIUM, &stream(None, Some(SendableAudio::Opus))).unwrap();
    assert!(has(&audio_only, "a=group:BUNDLE 0") && has(&audio_only, "m=video 0 UDP/TLS/RTP/SAVPF 96"));
    let deaf: String =
        CHROMIUM.lines().filter(|line| !line.contains("opus/")).map(|line| format!("{line}\r\n")).collect();
    let answer = answer_to(&deaf, &stream(h264(MAIN), Some(SendableAudio::Opus))).unwrap();
    assert!(has(&answer, "a=inactive") && has(&answer, "a=msid:cam1 cam1-v"), "pictures without sound");
    let alaw = answer_to(CHROMIUM, &stream(h264(MAIN), Some(SendableAudio::Pcma))).unwrap();
    assert!(has(&alaw, "m=audio 31002 UDP/TLS/RTP/SAVPF 8") && has(&alaw, "a=rtpmap:8 PCMA/8000"));
    let either = Sendable { video: None, audio: vec![SendableAudio::Pcma, SendableAudio::Opus] };
    let without: String =
        CHROMIUM.lines().filter(|line| !line.contains("PCMA")).map(|line| format!("{line}\r\n")).collect();
    assert!(has(&answer_to(&without, &either).unwrap(), "m=audio 31002 UDP/TLS/RTP/SAVPF 111"));
}

#[test]
fn what_cannot_be_sent_is_refused_with_its_reason() {
    let refused = |offer: &str, stream: &Sendable| answer_to(offer, stream).unwrap_err();
    let without = |what: &str| -> String {
        CHROMIUM.lines().filter(|line| !line.contains(what)).map(|line| format!("{line}\r\n")).collect()
    };
    let h264_stream = stream(h264(MAIN), Some(SendableAudio::Opus));
    assert_eq!(refused(&without("H264/90000"), &h264_stream), NegotiationError::TranscodingNeeded);
    let neither = without("H264/90000").replace("VP8/90000", "AV9/90000");
    assert_eq!(refused(&neither, &h264_stream), NegotiationError::NoCommonCodecs);
    let sound = stream(None, Some(SendableAudio::Opus));
    assert_eq!(refused(&without("opus/"), &sound), NegotiationError::TranscodingNeeded);
    let sending = CHROMIUM.replace("a=recvonly", "a=sendonly");
    assert_eq!(refused(&sending, &h264_stream), NegotiationError::NothingReceived);
    assert!(matches!(refused(&without("a=fingerprint"), &h264_stream), NegotiationError::BadOffer(_)));
}

#[test]
fn arrival_is_told_by_viewers_that_do_not_estimate_by_themselves() {
    let stream = stream(h264(CONSTRAINED_BASELINE), None);
    let feedback = "a=rtcp-fb:108 transport-cc";
    let extension = format!("a=extmap:3 {TRANSPORT_WIDE}");
    let answer = answer_to(CHROMIUM, &stream).unwrap();
    assert!(has(&answer, "a=rtcp-fb:108 goog-remb") && !has(&answer, feedback) && !has(&answer, &extension));
    let without_remb = CHROMIUM.replace("goog-remb", "goog-other");
    let answer = answer_to(&without_remb, &stream).unwrap();
    assert!(has(&answer, feedback) && has(&answer, &extension), "{answer}");
    let without_numbers = without_remb.replace("transport-wide-cc-extensions-01", "other");
    assert!(!has(&answer_to(&without_numbers, &stream).unwrap(), feedback));
}
