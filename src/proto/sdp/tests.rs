use std::net::SocketAddr;

use super::answer::{ABS_SEND_TIME, KnownCodec, Local, MID, VIDEO_ORIENTATION};
use super::offer::{Direction, Setup};
use super::*;
use crate::proto::dtls::Fingerprint;

/// What `createOffer` gave in Chromium 156 with a camera and a microphone, `bundlePolicy` "max-compat".
const CHROMIUM: &str = include_str!("../../../tests/data/sdp/chromium_156_publish_offer.sdp");

fn codecs() -> Vec<String> {
    ["opus", "alaw", "telephone-event", "h264", "vp8", "mpv"].map(str::to_owned).to_vec()
}

fn answer_to(text: &str) -> Result<String, NegotiationError> {
    answer_with(text, 0)
}

fn answer_with(text: &str, bitrate_start_kbps: u64) -> Result<String, NegotiationError> {
    let offer = Offer::parse(text)?;
    let candidates: [SocketAddr; 2] =
        ["203.0.113.7:31002".parse().unwrap(), "[2001:db8::7]:31002".parse().unwrap()];
    let local = Local {
        session_name: "Stillcast\r\na=evil",
        session_id: 1,
        candidates: &candidates,
        ice_ufrag: "u7QxAAAA",
        ice_pwd: "9mZr3v0kXwq2LtY8sBn5Hd1c",
        fingerprint: &Fingerprint::sha256_of(b"certificate"),
        bitrate_start_kbps,
    };
    let answer = Negotiated::publisher(&offer, &codecs())?.answer(&offer, &local)?;
    assert!(answer.ends_with("\r\n") && !answer.replace("\r\n", "").contains(['\r', '\n']));
    Ok(answer)
}

/// The sections of a description, each from its `m=` line on.
fn sections(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|n| lines[*n].starts_with("m=")).collect();
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    starts.iter().zip(ends).map(|(start, end)| lines[*start..end].join("\n")).collect()
}

/// The offer without the lines that a condition picks.
fn without(text: &str, condition: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| !condition(line)).map(|line| format!("{line}\r\n")).collect()
}

/// What the old client library does for `stripCodecs`: drops the `rtpmap` lines of codecs that match, and then every
/// line about a payload type whose number begins with one of those, and the numbers themselves from this section's
/// `m=` line only (prefix and all).
fn strip_codecs(text: &str, name: &str) -> String {
    let numbers: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("a=rtpmap:") && line.contains(name))
        .map(|line| line["a=rtpmap:".len()..].split(' ').next().unwrap())
        .collect();
    let about = |line: &str| {
        numbers.iter().any(|n| {
            line.starts_with(&format!("a=rtpmap:{n} "))
                || line.starts_with(&format!("a=fmtp:{n}"))
                || line.starts_with(&format!("a=rtcp-fb:{n}"))
        })
    };
    without(text, about)
}

#[test]
fn chromiums_offer_is_read_whole() {
    let offer = Offer::parse(CHROMIUM).unwrap();
    assert_eq!(offer.bundle.as_deref(), Some(&["0".to_owned(), "1".to_owned()][..]));
    let [audio, video] = &offer.sections[..] else { panic!("{}", offer.sections.len()) };
    assert_eq!((audio.media.as_str(), video.media.as_str()), ("audio", "video"));
    assert!(video.direction == Direction::SendOnly && video.setup == Some(Setup::ActPass));
    assert_eq!((video.ice_ufrag.as_deref(), video.fingerprints.len()), (Some("xaPC"), 1));
    assert_eq!((audio.codecs.len(), video.codecs.len()), (8, 23));
    assert_eq!(audio.ssrcs, [633_412_711]);
    assert_eq!(video.ssrcs.len(), 1, "the second source of the FID group only repairs the first");
    let h264 = video.codecs.iter().find(|codec| codec.payload_type == 102).unwrap();
    assert_eq!(h264.parameter("Profile-Level-Id"), Some("42001f"));
    assert!(h264.offers_feedback("nack pli") && h264.offers_feedback("goog-remb"));
    assert_eq!((video.extension(MID), audio.extension(ABS_SEND_TIME)), (Some(4), Some(2)));
}

#[test]
fn the_answer_mirrors_the_offer_and_promises_only_what_is_done() {
    let answer = answer_to(CHROMIUM).unwrap();
    let head = answer.split("m=").next().unwrap();
    assert!(head.starts_with("v=0\r\no=- 1 1 IN IP4 203.0.113.7\r\ns=Stillcasta=evil\r\n"), "{head}");
    assert!(head.contains("a=group:BUNDLE 0 1\r\n") && head.contains("a=ice-lite\r\n"));
    let [audio, video] = &sections(&answer)[..] else { panic!("{answer}") };
    assert!(
        audio.starts_with("m=audio 31002 UDP/TLS/RTP/SAVPF 111\na=mid:0\na=recvonly\na=rtcp-mux\n"),
        "{audio}"
    );
    assert!(
        video.starts_with("m=video 31002 UDP/TLS/RTP/SAVPF 108\na=mid:1\na=recvonly\na=rtcp-mux\n"),
        "{video}"
    );
    for line in [
        "a=setup:passive",
        "a=ice-ufrag:u7QxAAAA",
        "a=ice-pwd:9mZr3v0kXwq2LtY8sBn5Hd1c",
        "a=candidate:1 1 udp 2130706431 203.0.113.7 31002 typ host",
        "a=candidate:2 1 udp 2130706175 2001:db8::7 31002 typ host",
        "a=end-of-candidates",
    ] {
        assert!(audio.contains(line) && video.contains(line), "{line}");
    }
    assert!(video.contains("a=rtpmap:108 H264/90000\na=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\n"));
    let feedback: Vec<&str> = video.lines().filter(|line| line.starts_with("a=rtcp-fb")).collect();
    assert_eq!(
        feedback,
        ["a=rtcp-fb:108 nack", "a=rtcp-fb:108 nack pli", "a=rtcp-fb:108 ccm fir", "a=rtcp-fb:108 goog-remb"]
    );
    assert!(!answer.contains("transport") && !answer.contains("rtx"));
    assert!(video.contains(&format!("a=extmap:13 {VIDEO_ORIENTATION}")));
    assert!(audio.contains("a=rtpmap:111 opus/48000/2\na=fmtp:111 minptime=10;useinbandfec=1"));
}

#[test]
fn every_profile_and_mode_that_chromium_offers_can_be_answered() {
    let all = [
        (102, "42001f", 1),
        (104, "42001f", 0),
        (108, "42e01f", 1),
        (114, "42e01f", 0),
        (116, "4d001f", 1),
        (39, "4d001f", 0),
    ];
    for (number, profile, mode) in all {
        let others = |line: &str| {
            all.iter().any(|(other, ..)| *other != number && line.starts_with(&format!("a=rtpmap:{other} ")))
        };
        let answer = answer_to(&without(CHROMIUM, others)).unwrap();
        let format = format!(
            "a=fmtp:{number} level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}"
        );
        assert!(answer.contains(&format), "{answer}");
    }
    let one = |profile: &str| {
        let only = without(CHROMIUM, |line| {
            let is_video = line.contains("H264") || line.contains("VP8");
            line.starts_with("a=rtpmap:") && is_video && !line.contains(":102 ")
        });
        answer_to(&only.replace("profile-level-id=42001f", &format!("profile-level-id={profile}")))
    };
    assert!(one("640c1f").is_ok(), "high");
    assert_eq!(one("f4001f"), Err(NegotiationError::NoCommonCodecs), "4:4:4 cannot be decoded");
    assert_eq!(one("nonsense"), Err(NegotiationError::NoCommonCodecs));
}

#[test]
fn offers_of_one_kind_of_media_are_answered_alone() {
    let [audio, video] = &sections(CHROMIUM)[..] else { panic!() };
    let head = |mid| CHROMIUM.split("m=").next().unwrap().replace("BUNDLE 0 1", &format!("BUNDLE {mid}"));
    let text = format!("{}{video}\n", head(1));
    let answer = answer_to(&text).unwrap();
    assert!(sections(&answer).len() == 1 && answer.contains("a=group:BUNDLE 1\r\n"));
    let text = format!("{}{audio}\n", head(0));
    let offer = Offer::parse(&text).unwrap();
    let negotiated = Negotiated::publisher(&offer, &codecs()).unwrap();
    assert_eq!(negotiated.audio.map(|taken| taken.known), Some(KnownCodec::Opus));
    assert_eq!(negotiated.video, None);
}

#[test]
fn sections_that_are_not_taken_keep_their_place_with_port_0() {
    let [audio, video] = &sections(CHROMIUM)[..] else { panic!() };
    let head = CHROMIUM.split("m=").next().unwrap().replace("BUNDLE 0 1", "BUNDLE 0 1 2 3");
    let second = video.replace("a=mid:1", "a=mid:2");
    let data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\na=mid:3\na=sctp-port:5000";
    let answer = answer_to(&format!("{head}{audio}\n{video}\n{second}\n{data}\n")).unwrap();
    assert!(answer.contains("a=group:BUNDLE 0 1\r\n"));
    let answered = sections(&answer);
    assert_eq!(answered[2], "m=video 0 UDP/TLS/RTP/SAVPF 96\na=mid:2\na=inactive");
    assert_eq!(answered[3], "m=application 0 UDP/DTLS/SCTP webrtc-datachannel\na=mid:3\na=inactive");
}

#[test]
fn a_player_is_not_a_publisher() {
    let player = CHROMIUM.replace("a=sendonly", "a=recvonly");
    assert_eq!(answer_to(&player), Err(NegotiationError::NothingSent));
    let muted = CHROMIUM.replacen("a=sendonly", "a=inactive", 1);
    let answer = answer_to(&muted).unwrap();
    assert!(answer.contains("m=audio 31002 ") && answer.contains("a=inactive\r\n"), "the bundle hangs on it");
    assert!(answer.contains("m=video 31002 ") && answer.contains("BUNDLE 0 1\r\n"));
    assert!(answer_to(&CHROMIUM.replace("a=sendonly", "a=sendrecv")).unwrap().contains("a=recvonly"));
}

#[test]
fn codecs_decide() {
    let neither = strip_codecs(&strip_codecs(CHROMIUM, "H264"), "VP8");
    assert_eq!(answer_to(&neither), Err(NegotiationError::NoCommonCodecs));
    let answer = answer_to(&strip_codecs(CHROMIUM, "opus")).unwrap();
    assert!(
        answer.contains("a=mid:0\r\na=inactive") && answer.contains("a=mid:1\r\na=recvonly"),
        "pictures alone are published"
    );
    let offer = Offer::parse(CHROMIUM).unwrap();
    let only = |names: &[&str]| {
        Negotiated::publisher(&offer, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    };
    assert!(only(&["H264"]).unwrap().audio.is_none());
    assert_eq!(only(&["vp9", "opus"]).unwrap_err(), NegotiationError::NoCommonCodecs);
}

#[test]
fn offers_damaged_by_strip_codecs_are_survived() {
    // Payload type 9 goes, and with it the fmtp and rtcp-fb lines of 96–99.
    let text = strip_codecs(CHROMIUM, "G722");
    assert!(!text.contains("a=fmtp:97 apt=96"));
    assert!(answer_to(&text).unwrap().contains("m=video 31002 UDP/TLS/RTP/SAVPF 108"));
    // 10 stands for 102, 104, 108, 109, …: H.264 without formats, and without feedback, is mode 0 by RFC 6184.
    let bare = without(CHROMIUM, |line| {
        line.starts_with("a=fmtp:1") || line.starts_with("a=rtcp-fb:1") || line.contains("rtpmap:39")
    });
    let answer = answer_to(&bare).unwrap();
    let video = &sections(&answer)[1];
    assert!(
        video.starts_with("m=video 31002 UDP/TLS/RTP/SAVPF 102\n") && !video.contains("a=fmtp"),
        "{video}"
    );
    // An m-line with a space at its end, line ends of either kind, payload types that nothing explains.
    let text = CHROMIUM.replace("118 119 120\r\n", "118 119 120 \n").replace("\r\n", "\n");
    assert!(answer_to(&text).is_ok());
    let unexplained =
        without(CHROMIUM, |line| line.starts_with("a=rtpmap:96") || line.starts_with("a=rtpmap:63"));
    assert!(answer_to(&unexplained).is_ok());
}

#[test]
fn what_stands_at_the_session_holds_for_every_section() {
    // As Firefox writes: fingerprint at the session; other sources in other groups; setup and ice in the sections.
    let fingerprint = CHROMIUM.lines().find(|line| line.starts_with("a=fingerprint")).unwrap();
    let moved = without(CHROMIUM, |line| line.starts_with("a=fingerprint"))
        .replace("t=0 0\r\n", &format!("t=0 0\r\n{fingerprint}\r\n"));
    let offer = Offer::parse(&moved).unwrap();
    let negotiated = Negotiated::publisher(&offer, &codecs()).unwrap();
    assert_eq!(
        negotiated.fingerprints,
        [Fingerprint::parse(&fingerprint["a=fingerprint:".len()..]).unwrap()]
    );
    assert_eq!(negotiated.remote_ufrag, "xaPC");
}

#[test]
fn without_a_bundle_one_section_is_taken() {
    let answer = answer_to(&without(CHROMIUM, |line| line.starts_with("a=group"))).unwrap();
    assert!(
        answer.contains("m=audio 0 ") && answer.contains("m=video 31002 ") && !answer.contains("a=group")
    );
}

#[test]
fn what_no_transport_can_come_of_is_refused() {
    let lacking = |prefix: &str| answer_to(&without(CHROMIUM, |line| line.starts_with(prefix))).unwrap_err();
    assert_eq!(lacking("a=ice-ufrag"), SdpError::Missing("a=ice-ufrag").into());
    assert_eq!(lacking("a=ice-pwd"), SdpError::Missing("a=ice-pwd").into());
    assert!(matches!(lacking("a=fingerprint"), NegotiationError::BadOffer(SdpError::Missing(_))));
    assert_eq!(lacking("a=rtcp-mux"), NegotiationError::NothingSent);
    let sha1 = CHROMIUM.replace("sha-256 FD:38", "sha-1 FD:38");
    assert!(matches!(answer_to(&sha1), Err(NegotiationError::BadOffer(SdpError::Missing(_)))));
    let passive = CHROMIUM.replace("a=setup:actpass", "a=setup:passive");
    assert!(matches!(answer_to(&passive), Err(NegotiationError::BadOffer(SdpError::Unsupported(_)))));
    let lite = CHROMIUM.replace("t=0 0\r\n", "t=0 0\r\na=ice-lite\r\n");
    assert!(matches!(answer_to(&lite), Err(NegotiationError::BadOffer(SdpError::Unsupported(_)))));
}

#[test]
fn too_much_of_anything_is_refused() {
    assert_eq!(Offer::parse(""), Err(SdpError::NoMedia));
    assert_eq!(Offer::parse("GET / HTTP/1.1\r\n"), Err(SdpError::NotSdp));
    assert_eq!(Offer::parse("v=0\r\ns=-\r\n"), Err(SdpError::NoMedia));
    assert_eq!(Offer::parse("v=0\nm=video\n"), Err(SdpError::BadMedia { line: 2 }));
    assert_eq!(Offer::parse("v=0\nm=video 99999 RTP/SAVPF 96\n"), Err(SdpError::BadMedia { line: 2 }));
    let more = |line: &dyn Fn(usize) -> String, number: usize| {
        let lines: String = (0..number).map(line).collect();
        Offer::parse(&format!("{CHROMIUM}{lines}")).map(|_| ())
    };
    assert_eq!(more(&|_| "a=x\r\n".into(), 1800), Ok(()));
    assert_eq!(more(&|_| "a=x\r\n".into(), 5000), Err(SdpError::TooManyLines));
    assert_eq!(more(&|_| format!("a={}\r\n", "x".repeat(5000)), 1), Err(SdpError::LineTooLong { line: 162 }));
    assert!(matches!(more(&|_| format!("a={}\r\n", "x".repeat(500)), 1000), Err(SdpError::TooLong(_))));
    let too_many = |result| matches!(result, Err(SdpError::TooMany { .. }));
    assert!(too_many(more(&|_| "m=audio 9 RTP/SAVPF 0\r\n".into(), 20)));
    assert!(too_many(more(&|n| format!("a=ssrc:{n} cname:x\r\n"), 40)));
    assert!(too_many(more(&|n| format!("a=extmap:{n} urn:x\r\n"), 100)));
    assert!(too_many(more(&|_| format!("m=audio 9 RTP/SAVPF{}\r\n", " 0".repeat(200)), 1)));
    let fingerprint = Fingerprint::sha256_of(b"x");
    assert!(too_many(more(&|_| format!("a=fingerprint:{fingerprint}\r\n"), 9)));
}

#[test]
fn no_cut_or_flip_of_an_offer_breaks_the_reader() {
    for end in (0..CHROMIUM.len()).step_by(13) {
        let _ = answer_to(&CHROMIUM[..end]);
    }
    let mut bytes = CHROMIUM.as_bytes().to_vec();
    for (turn, at) in (0..bytes.len()).step_by(7).enumerate() {
        let kept = std::mem::replace(&mut bytes[at], [b'\n', b' ', b':', b'0', 0][turn % 5]);
        let _ = answer_to(std::str::from_utf8(&bytes).unwrap());
        bytes[at] = kept;
    }
}

#[test]
fn a_start_rate_is_told_beside_the_codecs_parameters() {
    let told = answer_with(CHROMIUM, 1500).unwrap();
    assert!(told.contains("profile-level-id=42e01f;x-google-start-bitrate=1500\r\n"));
    assert!(!answer_to(CHROMIUM).unwrap().contains("x-google"));
}

#[test]
fn vp8_is_taken_where_it_stands_first_or_h264_is_not_offered() {
    let answer_by = |text: &str, codecs: [&str; 3]| {
        let offer = Offer::parse(text).unwrap();
        Negotiated::publisher(&offer, &codecs.map(str::to_owned)).map(|agreed| agreed.video.unwrap())
    };
    let h264_first = ["opus", "h264", "vp8"];
    assert_eq!(answer_by(CHROMIUM, h264_first).unwrap().known, KnownCodec::H264);
    let taken = answer_by(CHROMIUM, ["opus", "vp8", "h264"]).unwrap();
    assert_eq!((taken.known, taken.codec.payload_type), (KnownCodec::Vp8, 96));
    let without_h264 = strip_codecs(CHROMIUM, "H264");
    let taken = answer_by(&without_h264, h264_first).unwrap();
    assert_eq!(taken.known, KnownCodec::Vp8);
    assert_eq!(taken.feedback, ["nack", "nack pli", "ccm fir", "goog-remb"]);
    assert_eq!(
        answer_by(&strip_codecs(&without_h264, "VP8"), h264_first),
        Err(NegotiationError::NoCommonCodecs),
        "VP9 and AV1 alone"
    );
}

#[test]
fn an_answer_with_vp8_leaves_repair_out_and_says_how_fast_to_begin() {
    let answer = answer_with(&strip_codecs(CHROMIUM, "H264"), 1500).unwrap();
    let video = &sections(&answer)[1];
    assert!(video.starts_with("m=video 31002 UDP/TLS/RTP/SAVPF 96\n"), "{video}");
    assert!(video.contains("a=rtpmap:96 VP8/90000\na=fmtp:96 x-google-start-bitrate=1500\n"), "{video}");
    assert!(!["rtx", "red", "ulpfec", "flexfec"].iter().any(|repair| answer.contains(repair)), "{answer}");
    let answer = answer_to(&strip_codecs(CHROMIUM, "H264")).unwrap();
    assert!(!answer.contains("a=fmtp:96"), "VP8 has no parameters of its own: {answer}");
}

/// What `createOffer` gave in Firefox 153 with a camera and a microphone, gathered: no H.264, and addresses behind names.
const FIREFOX: &str = include_str!("../../../tests/data/sdp/firefox_153_publish_offer.sdp");

#[test]
fn firefox_is_answered_with_vp8_and_its_hidden_addresses_do_no_harm() {
    assert!(FIREFOX.contains(".local 43126 typ host") && !FIREFOX.contains("H264"));
    let answer = answer_to(FIREFOX).unwrap();
    assert!(answer.contains("a=group:BUNDLE 0 1\r\n"), "{answer}");
    let [audio, video] = &sections(&answer)[..] else { panic!("{answer}") };
    assert!(audio.starts_with("m=audio 31002 UDP/TLS/RTP/SAVPF 109\n"), "{audio}");
    assert!(video.starts_with("m=video 31002 UDP/TLS/RTP/SAVPF 120\n"), "{video}");
    assert!(
        video.contains("a=rtpmap:120 VP8/90000\na=rtcp-fb:120 nack\na=rtcp-fb:120 nack pli\n"),
        "{video}"
    );
    assert!(!answer.contains(".local"), "no address of the peer is repeated");
    let offer = Offer::parse(FIREFOX).unwrap();
    assert_eq!(offer.sections[1].ssrcs.len(), 1, "the source that repairs is no source of pictures");
}
