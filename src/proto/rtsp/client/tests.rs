//! Sessions with a server that is played by the test.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::base::clock::Clock;
use crate::media::h264::tests::{PPS, SPS_640X360};
use crate::proto::rtp::pack_h264::{PAYLOAD_BYTES_MAX, pack};
use crate::proto::rtp::rtcp::RtcpWriter;
use crate::proto::rtp::test_source::{Source, number_of};
use crate::proto::rtsp::message::Request;

const URL: &str = "rtsp://cam.example/ch1?x=1";
const BOTH: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\na=control:*\r\nt=0 0\r\n\
    m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:trackID=1\r\n\
    m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:trackID=2\r\n\
    m=audio 0 RTP/AVP 8\r\na=control:trackID=3\r\n";
const VIDEO: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n";

fn settings(transport: Wanted) -> ClientSettings {
    ClientSettings {
        user_agent: "test".into(),
        answer_limit: Duration::from_secs(5),
        silence_limit: Duration::from_secs(20),
        datagram_limit: Duration::from_secs(3),
        transport,
        media: MediaSettings { pixels_max: u64::MAX, hold_back: None, ssrc: 7, cname: "us".into() },
    }
}

/// A client and what came out of it.
struct Played {
    client: Client,
    now: Instant,
    /// Answers that wait for their request: the newest request.
    request: Option<Request>,
    requests: u32,
    others: Vec<Output>,
}

impl Played {
    fn new(transport: Wanted, login: Option<(&str, &str)>) -> Self {
        let now = Clock::manual().now();
        let login = login.map(|(user, password)| Login { user: user.into(), password: password.into() });
        let client = Client::new(settings(transport), URL, login, now);
        let mut played = Self { client, now, request: None, requests: 0, others: Vec::new() };
        played.drain();
        played
    }

    fn tcp() -> Self {
        Self::new(Wanted::Interleaved([None, None]), None)
    }

    fn drain(&mut self) -> Instant {
        loop {
            match self.client.poll_output() {
                Output::Timeout(at) => return at,
                Output::Send(bytes) if bytes.first() == Some(&b'$') => self.others.push(Output::Send(bytes)),
                Output::Send(bytes) => {
                    let mut reader = Reader::new();
                    reader.push(&bytes);
                    match reader.incoming().unwrap() {
                        Some(Incoming::Request(request)) => {
                            self.requests += 1;
                            self.request = Some(request);
                        }
                        _ => self.others.push(Output::Send(bytes)),
                    }
                }
                other => self.others.push(other),
            }
        }
    }

    /// The newest request, which must be this one.
    fn asked(&mut self, method: &str) -> Request {
        let request = self.request.take().unwrap_or_else(|| panic!("no {method}: {:?}", self.others));
        let name: &str = request.method().into();
        assert_eq!(name, method);
        request
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.client.room();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.client.filled(self.now, count);
            bytes = &bytes[count..];
            self.drain();
        }
    }

    fn answer(&mut self, request: &Request, status: &str, headers: &str, body: &str) {
        let cseq = request.cseq().unwrap();
        let length = body.len();
        self.feed(
            format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
                .as_bytes(),
        );
    }

    fn ok(&mut self, method: &str, headers: &str, body: &str) -> Request {
        let request = self.asked(method);
        self.answer(&request, "200 OK", headers, body);
        request
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        self.drain();
    }

    /// Up to PLAY, which is asked and not answered.
    fn up_to_play(&mut self, description: &str, public: &str) {
        self.ok("OPTIONS", &format!("Public: {public}\r\n"), "");
        self.ok("DESCRIBE", "Content-Base: rtsp://cam.example/ch1/\r\n", description);
        while self
            .request
            .as_ref()
            .is_some_and(|request| *request.method() == super::super::message::Method::Setup)
        {
            self.ok("SETUP", "Session: ab12;timeout=30\r\n", "");
        }
    }

    fn playing(public: &str) -> Self {
        let mut played = Self::tcp();
        played.up_to_play(VIDEO, public);
        played.ok("PLAY", "", "");
        played
    }

    fn over(&self) -> ClientError {
        match self.others.last() {
            Some(Output::Over(error)) => error.clone(),
            other => panic!("not over: {other:?}"),
        }
    }
}

/// Pictures as RTP packets on a channel.
struct Camera {
    source: Source,
    sequence: u16,
    channel: u8,
}

impl Camera {
    fn new(channel: u8) -> Self {
        Self { source: Source::new(1, 5), sequence: 65_530, channel }
    }

    /// The next picture's packets, each as RTP without a frame.
    fn packets(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let unit = self.source.next(now, false);
        let payloads = pack(&unit, PAYLOAD_BYTES_MAX).unwrap();
        let last = payloads.len() - 1;
        let packets = payloads.into_iter().enumerate().map(|(n, payload)| {
            self.sequence = self.sequence.wrapping_add(1);
            let marker = if n == last { 0x80 } else { 0 };
            let mut packet = vec![0x80, 96 | marker];
            packet.extend_from_slice(&self.sequence.to_be_bytes());
            packet.extend_from_slice(&(unit.pts.ticks as u32).to_be_bytes());
            packet.extend_from_slice(&9_u32.to_be_bytes());
            packet.extend_from_slice(&payload);
            packet
        });
        packets.collect()
    }

    fn frames(&mut self, now: Instant) -> Vec<u8> {
        self.packets(now).iter().flat_map(|packet| frame(self.channel, packet)).collect()
    }
}

fn frame(channel: u8, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'$', channel];
    frame.extend_from_slice(&(packet.len() as u16).to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

fn numbers(outputs: &[Output]) -> Vec<u32> {
    let numbers = outputs.iter().filter_map(|output| match output {
        Output::Video(unit) => Some(number_of(unit)),
        _ => None,
    });
    numbers.collect()
}

#[test]
fn a_camera_is_asked_in_order_and_its_media_comes_out() {
    let mut played = Played::tcp();
    let options = played.ok("OPTIONS", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER\r\n", "");
    assert_eq!((options.uri(), options.header("User-Agent")), (URL, Some("test")));
    let describe = played.ok("DESCRIBE", "", BOTH);
    assert_eq!((describe.uri(), describe.header("Accept")), (URL, Some("application/sdp")));
    // No Content-Base: relative controls are appended to what was asked for, behind its query too.
    let setup = played.asked("SETUP");
    assert_eq!(setup.uri(), "rtsp://cam.example/ch1?x=1/trackID=1");
    assert_eq!(setup.header("Transport"), Some("RTP/AVP/TCP;unicast;interleaved=0-1"));
    assert_eq!(setup.session(), None);
    // The server may choose other channels.
    let agreed = "Session: ab 12 ; timeout=30\r\nTransport: RTP/AVP/TCP;unicast;interleaved=8-9;ssrc=1\r\n";
    played.answer(&setup, "200 OK", agreed, "");
    let second = played.ok("SETUP", "Session: ab 12\r\n", "");
    assert_eq!(second.uri(), "rtsp://cam.example/ch1?x=1/trackID=3", "metadata is passed over");
    assert_eq!(
        (second.session(), second.header("Transport")),
        (Some("ab 12"), Some("RTP/AVP/TCP;unicast;interleaved=2-3"))
    );
    let play = played.asked("PLAY");
    assert_eq!((play.uri(), play.session()), (URL, Some("ab 12")));
    // Media may be faster than the answer.
    let mut camera = Camera::new(8);
    let first = camera.frames(played.now);
    played.feed(&first);
    assert!(played.others.is_empty(), "{:?}", played.others);
    played.answer(&play, "200 OK", "Session: ab 12\r\nRTP-Info: url=x;seq=1\r\n", "");
    for _ in 0..3 {
        let frames = camera.frames(played.now);
        played.feed(&frames);
    }
    played.feed(&frame(2, &[&[0x80, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5][..], &[0xD5; 160][..]].concat()));
    assert!(matches!(played.others.first(), Some(Output::Playing { video: true, audio: true })));
    assert_eq!(numbers(&played.others), [0, 1, 2, 3]);
    assert!(matches!(played.others.last(), Some(Output::Audio(frame)) if frame.data.len() == 160));
    let Some(Output::Video(unit)) = played.others.get(1) else { panic!("{:?}", played.others) };
    assert_eq!((unit.params.width, unit.key), (640, true), "parameter sets came with the picture alone");

    played.client.close(played.now);
    played.drain();
    assert_eq!(played.asked("TEARDOWN").session(), Some("ab 12"));
    assert_eq!(played.over(), ClientError::Closed);
}

#[test]
fn channels_can_be_pinned() {
    let mut played = Played::new(Wanted::Interleaved([Some((0, 1)), Some((4, 5))]), None);
    played.ok("OPTIONS", "", "");
    played.ok("DESCRIBE", "", BOTH);
    assert!(played.ok("SETUP", "", "").header("Transport").unwrap().ends_with("interleaved=4-5"));
    assert!(played.ok("SETUP", "", "").header("Transport").unwrap().ends_with("interleaved=0-1"));
    let mut played = Played::new(Wanted::Interleaved([Some((0, 1)), None]), None);
    played.ok("OPTIONS", "", "");
    played.ok("DESCRIBE", "", BOTH);
    assert!(played.ok("SETUP", "", "").header("Transport").unwrap().ends_with("interleaved=2-3"));
}

fn parameter(header: &str, name: &str) -> String {
    let at = header.find(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {header}"));
    let rest = &header[at + name.len() + 1..];
    rest.split(',').next().unwrap().trim().trim_matches('"').to_owned()
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a request carries the right digest for this nonce (RFC 7616 section 3.4.1).
fn is_answered(request: &Request, nonce: &str, password: &str) -> bool {
    let header = request.header("Authorization").unwrap();
    let get = |name| parameter(header, name);
    let method: &str = request.method().into();
    assert_eq!((get("uri").as_str(), get("nonce").as_str()), (request.uri(), nonce));
    let (a1, a2) = (sha256(&format!("me:door:{password}")), sha256(&format!("{method}:{}", request.uri())));
    let expected = sha256(&format!("{a1}:{nonce}:{}:{}:{}:{a2}", get("nc"), get("cnonce"), get("qop")));
    get("response") == expected
}

#[test]
fn a_digest_of_sha_256_is_answered_and_a_stale_nonce_replaced() {
    let challenge = |nonce: &str, stale: &str| {
        format!(
            "WWW-Authenticate: Basic realm=\"door\"\r\nWWW-Authenticate: Digest realm=\"door\", nonce=\"{nonce}\", \
             qop=\"auth\", algorithm=SHA-256{stale}\r\n"
        )
    };
    let mut played = Played::new(Wanted::Interleaved([None, None]), Some(("me", "se:cr\"et")));
    let options = played.asked("OPTIONS");
    assert_eq!(options.header("Authorization"), None, "nobody asked");
    played.answer(&options, "401 Unauthorized", &challenge("n1", ""), "");
    let options = played.ok("OPTIONS", "Public: GET_PARAMETER\r\n", "");
    assert!(is_answered(&options, "n1", "se:cr\"et"));
    played.ok("DESCRIBE", "", VIDEO);
    let setup = played.asked("SETUP");
    assert!(is_answered(&setup, "n1", "se:cr\"et"));
    assert_eq!(parameter(setup.header("Authorization").unwrap(), "nc"), "00000003");
    played.answer(&setup, "401 Unauthorized", &challenge("n2", ", stale=true"), "");
    let setup = played.ok("SETUP", "Session: 1\r\n", "");
    assert!(is_answered(&setup, "n2", "se:cr\"et"));
    played.ok("PLAY", "", "");
    played.pass(Duration::from_secs(15));
    played.feed(&frame(0, &Camera::new(0).packets(played.now)[0]));
    played.pass(Duration::from_secs(15));
    let alive = played.asked("GET_PARAMETER");
    played.answer(&alive, "401 Unauthorized", &challenge("n3", ", stale=true"), "");
    assert!(is_answered(&played.asked("GET_PARAMETER"), "n3", "se:cr\"et"));
}

#[test]
fn a_wrong_password_is_tried_once_and_no_password_not_at_all() {
    for (login, tries) in [(Some(("me", "wrong")), 2), (None, 1)] {
        let mut played = Played::new(Wanted::Interleaved([None, None]), login);
        for _ in 0..tries {
            let request = played.asked("OPTIONS");
            played.answer(&request, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", "");
            if let Some(header) = request.header("Authorization") {
                assert_eq!(header, format!("Basic {}", STANDARD.encode("me:wrong")));
            }
        }
        assert_eq!((played.over(), played.requests), (ClientError::Password, tries));
    }
    let mut played = Played::new(Wanted::Interleaved([None, None]), Some(("me", "x")));
    let request = played.asked("OPTIONS");
    played.answer(
        &request,
        "401 Unauthorized",
        "WWW-Authenticate: Digest realm=\"x\", algorithm=FOO\r\n",
        "",
    );
    assert_eq!(played.over(), ClientError::Password);
}

#[test]
fn redirections_and_refusals_are_told_apart() {
    let mut played = Played::tcp();
    played.ok("OPTIONS", "", "");
    let describe = played.asked("DESCRIBE");
    played.answer(&describe, "302 Moved", "Location: rtsp://other.example/2\r\n", "");
    assert!(matches!(played.others.last(), Some(Output::Redirect(to)) if to == "rtsp://other.example/2"));

    for (status, error) in [
        ("404 Not Found", ClientError::NotFound),
        ("503 Busy", ClientError::Refused { method: "DESCRIBE", status: 503 }),
        ("301 Moved", ClientError::Refused { method: "DESCRIBE", status: 301 }),
    ] {
        let mut played = Played::tcp();
        // A camera that does not know OPTIONS may know the rest.
        let options = played.asked("OPTIONS");
        played.answer(&options, "501 Not Implemented", "", "");
        let describe = played.asked("DESCRIBE");
        played.answer(&describe, status, "", "");
        assert_eq!(played.over(), error);
    }
    for body in ["", "v=0\r\n", "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n", "\0\0"] {
        let mut played = Played::tcp();
        played.ok("OPTIONS", "", "");
        played.ok("DESCRIBE", "", body);
        assert!(matches!(played.over(), ClientError::Description(_)), "{body:?}");
    }
    let mut played = Played::tcp();
    played.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(matches!(played.over(), ClientError::Invalid(_)));
}

#[test]
fn answers_may_be_late_doubled_unnumbered_and_not_for_ever() {
    let mut played = Played::tcp();
    // Not even OPTIONS is answered: some cameras answer everything but that, and some answer it late.
    let options = played.asked("OPTIONS");
    played.pass(Duration::from_secs(5));
    let describe = played.asked("DESCRIBE");
    played.answer(&options, "200 OK", "Public: TEARDOWN\r\n", "");
    played.answer(&describe, "100 Continue", "", "");
    played.pass(Duration::from_secs(4));
    assert!(played.others.is_empty());
    let body = VIDEO.len();
    played.feed(format!("RTSP/1.0 200 OK\r\nContent-Length: {body}\r\n\r\n{VIDEO}").as_bytes());
    let setup = played.asked("SETUP");
    played.answer(&describe, "200 OK", "", VIDEO);
    assert!(played.request.is_none(), "an answer that was given already");
    played.pass(Duration::from_secs(5));
    assert_eq!(played.over(), ClientError::NoAnswer("SETUP"));
    played.answer(&setup, "200 OK", "", "");
    assert!(played.request.is_none(), "over is over");
}

#[test]
fn a_session_is_kept_alive_by_what_the_server_knows() {
    for (public, methods) in [
        ("OPTIONS, GET_PARAMETER, SET_PARAMETER", ["GET_PARAMETER", "OPTIONS"]),
        ("OPTIONS, DESCRIBE", ["OPTIONS", "OPTIONS"]),
        ("describe, set_parameter", ["SET_PARAMETER", "OPTIONS"]),
    ] {
        let mut played = Played::playing(public);
        let mut camera = Camera::new(0);
        for method in methods {
            // Half of thirty seconds.
            played.pass(Duration::from_millis(14_900));
            assert!(played.request.is_none());
            let frames = camera.frames(played.now);
            played.feed(&frames);
            played.pass(Duration::from_millis(100));
            let alive = played.asked(method);
            assert_eq!((alive.session(), alive.uri()), (Some("ab12"), "rtsp://cam.example/ch1/"));
            if methods[0] != methods[1] {
                // It says so and does not know it: the next one is tried at once.
                played.answer(&alive, "501 Not Implemented", "", "");
                played.pass(Duration::ZERO);
                played.request.take();
                break;
            }
            played.answer(&alive, "200 OK", "", "");
        }
        // Whether they are answered does not matter as long as media comes.
        for _ in 0..8 {
            played.pass(Duration::from_secs(10));
            let frames = camera.frames(played.now);
            played.feed(&frames);
        }
        assert!(!played.others.iter().any(|output| matches!(output, Output::Over(_))), "{public}");
        assert!(played.requests >= 9, "{} requests", played.requests);
        played.pass(Duration::from_secs(20));
        assert_eq!(played.over(), ClientError::Silence);
    }
    let mut played = Played::playing("GET_PARAMETER");
    played.pass(Duration::from_secs(15));
    let alive = played.asked("GET_PARAMETER");
    played.answer(&alive, "454 Session Not Found", "", "");
    assert_eq!(played.over(), ClientError::Ended);
}

#[test]
fn a_server_may_ask_and_end_too() {
    let mut played = Played::playing("");
    played.feed(b"OPTIONS * RTSP/1.0\r\nCSeq: 77\r\n\r\nPAUSE * RTSP/1.0\r\nCSeq: 78\r\n\r\n");
    let said: Vec<String> = played
        .others
        .iter()
        .filter_map(|output| match output {
            Output::Send(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        })
        .collect();
    assert!(said[0].starts_with("RTSP/1.0 200") && said[0].contains("CSeq: 77"), "{said:?}");
    assert!(said[1].starts_with("RTSP/1.0 501"), "{said:?}");
    played.feed(b"TEARDOWN * RTSP/1.0\r\nCSeq: 79\r\n\r\n");
    assert_eq!(played.over(), ClientError::Ended);

    let mut played = Played::playing("");
    played.feed(b"REDIRECT * RTSP/1.0\r\nCSeq: 1\r\nLocation: rtsp://b/\r\n\r\n");
    assert!(matches!(played.others.last(), Some(Output::Redirect(to)) if to == "rtsp://b/"));

    let mut played = Played::playing("");
    let mut goodbye = RtcpWriter::new();
    goodbye.receiver_report(9, &[]);
    goodbye.goodbye(9);
    played.feed(&frame(1, &goodbye.finish()));
    assert_eq!(played.over(), ClientError::Ended);
}

#[test]
fn by_udp_ports_are_told_and_opened_and_silence_means_the_other_way() {
    let udp = || Played::new(Wanted::Udp([(5000, 5001), (5002, 5003)]), None);
    let begin = |played: &mut Played| {
        played.ok("OPTIONS", "", "");
        played.ok("DESCRIBE", "", VIDEO);
        let setup = played.asked("SETUP");
        assert_eq!(setup.header("Transport"), Some("RTP/AVP;unicast;client_port=5000-5001"));
        setup
    };
    let agreed = "Session: 1\r\nTransport: RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001\r\n";
    let mut played = udp();
    let setup = begin(&mut played);
    played.answer(&setup, "200 OK", agreed, "");
    let opened: Vec<_> = played
        .others
        .iter()
        .filter_map(|output| match output {
            Output::Datagram { pair, is_rtcp, port, .. } => Some((*pair, *is_rtcp, *port)),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [(0, false, 6000), (0, true, 6001)]);
    played.ok("PLAY", "", "");
    let mut camera = Camera::new(0);
    for _ in 0..2 {
        for packet in camera.packets(played.now) {
            played.client.handle_datagram(played.now, 0, false, &packet);
        }
        played.drain();
    }
    played.client.handle_datagram(played.now, 1, false, &[0x80; 40]);
    assert_eq!((numbers(&played.others), played.client.stats().1), (vec![0, 1], 1));
    played.pass(Duration::from_secs(10));
    let report = played.others.last();
    assert!(matches!(report, Some(Output::Datagram { is_rtcp: true, port: 6001, .. })), "{report:?}");
    played.pass(Duration::from_secs(10));
    assert_eq!(played.over(), ClientError::Silence, "media came by UDP, so that is not it");

    let mut played = udp();
    let setup = begin(&mut played);
    played.answer(&setup, "200 OK", agreed, "");
    played.ok("PLAY", "", "");
    played.pass(Duration::from_millis(2900));
    assert!(!matches!(played.others.last(), Some(Output::Over(_))));
    played.pass(Duration::from_millis(100));
    assert!(matches!(played.over(), ClientError::Transport(_)));

    for answer in ["Transport: RTP/AVP/TCP;interleaved=0-1\r\n", "Transport: RTP/AVP;multicast;port=1-2\r\n"]
    {
        let mut played = udp();
        let setup = begin(&mut played);
        played.answer(&setup, "200 OK", answer, "");
        assert!(matches!(played.over(), ClientError::Transport(_)), "{answer}");
    }
    let mut played = udp();
    let setup = begin(&mut played);
    played.answer(&setup, "461 Unsupported Transport", "", "");
    assert!(matches!(played.over(), ClientError::Transport(_)));
}

#[test]
fn parameter_sets_may_be_wrong_in_the_description_and_change_later() {
    let wrong = STANDARD.encode([0x67, 0x42, 0xC0, 0x0A, 0xD9, 0x00]);
    let sets = format!("{wrong},{}", STANDARD.encode(PPS));
    let description =
        VIDEO.replace("a=control", &format!("a=fmtp:96 sprop-parameter-sets={sets}\r\na=control"));
    let mut played = Played::tcp();
    played.up_to_play(&description, "");
    played.ok("PLAY", "", "");
    let mut camera = Camera::new(0);
    for _ in 0..2 {
        let frames = camera.frames(played.now);
        played.feed(&frames);
    }
    assert_eq!(numbers(&played.others), [0, 1]);
    let Some(Output::Video(unit)) = played.others.last() else { panic!() };
    assert_eq!((unit.params.width, unit.params.height), (640, 360));
    assert_eq!(unit.params.codec.h264_sets().unwrap().0[0].as_ref(), SPS_640X360);
}

#[test]
fn media_before_the_agreement_is_kept_within_a_bound() {
    let mut played = Played::tcp();
    played.up_to_play(VIDEO, "");
    let mut camera = Camera::new(0);
    for _ in 0..3000 {
        let frames = camera.frames(played.now);
        played.feed(&frames);
    }
    played.feed(&frame(99, &[0; 20]));
    let (media, unknown) = played.client.stats();
    assert!(media.packets <= 2048 && unknown == 1, "{media:?}");

    let mut played = Played::tcp();
    played.up_to_play(VIDEO, "");
    let mut packet = Camera::new(0).packets(played.now)[0].clone();
    packet.resize(60_000, 0x55);
    for _ in 0..300 {
        played.feed(&frame(0, &packet));
    }
    let (media, _) = played.client.stats();
    assert!(media.packets > 0 && media.bytes <= 8 << 20, "{media:?}");
}
