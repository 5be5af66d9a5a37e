use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::super::message::Method;
use super::*;
use crate::base::clock::Clock;
use crate::media::h264::tests::{PPS, SPS_640X360};
use crate::proto::rtp::pack_h264::{pack, packet};
use crate::proto::rtp::test_source::Source as Pictures;

const URL: &str = "rtsp://host:8554/live/cam?a=b";
const SDP: &str = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
    a=control:streamid=0\r\nm=audio 0 RTP/AVP 8\r\na=control:streamid=1\r\n";

struct Client {
    server: Server,
    now: Instant,
    cseq: u32,
    session: Option<String>,
    /// What came out beside answers.
    outputs: Vec<String>,
    units: usize,
    answer: fn(&ServerOutput) -> Option<Answer>,
}

impl Client {
    fn new() -> Self {
        let settings = ServerSettings {
            setup_limit: Duration::from_secs(10),
            session_timeout: Duration::from_secs(60),
            silence_limit: Some(Duration::from_secs(30)),
            hold_back: Duration::from_millis(100),
            pixels_max: u64::MAX,
            product: "test".into(),
        };
        let now = Clock::manual().now();
        let server = Server::new(settings, &mut StdRng::seed_from_u64(1), now);
        Self { server, now, cseq: 0, session: None, outputs: Vec::new(), units: 0, answer: usual_answer }
    }

    fn send(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(7000) {
            let room = self.server.room();
            room[..piece.len()].copy_from_slice(piece);
            self.server.handle_read(self.now, piece.len());
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            let output = self.server.poll_output();
            if let Some(answer) = (self.answer)(&output) {
                self.server.answer(self.now, answer);
                continue;
            }
            match output {
                ServerOutput::Timeout(_) => return,
                ServerOutput::Media(MediaOutput::Video(_) | MediaOutput::Audio(_)) => self.units += 1,
                ServerOutput::Close(cause) => self.outputs.push(format!("close: {cause}")),
                ServerOutput::Report { track, .. } => self.outputs.push(format!("report {track}")),
                other => self.outputs.push(format!("{other:?}")),
            }
        }
    }

    fn responses(&mut self) -> Vec<Response> {
        let mut reader = Reader::new();
        reader.push(&std::mem::take(self.server.out()));
        let mut responses = Vec::new();
        while let Some(incoming) = reader.incoming().unwrap() {
            if let Incoming::Response(response) = incoming {
                responses.push(response);
            }
        }
        responses
    }

    /// Sends a request and returns its status.
    fn ask(
        &mut self,
        method: Method,
        url: &str,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> (u16, Response) {
        self.cseq += 1;
        let mut request = Request::new(method, url).with_header("CSeq", &self.cseq.to_string());
        if let Some(session) = &self.session {
            request = request.with_header("Session", session);
        }
        for (name, value) in headers {
            request = request.with_header(name, value);
        }
        if !body.is_empty() {
            request = request.with_body("application/sdp", body.into());
        }
        let mut bytes = Vec::new();
        request.write(&mut bytes);
        self.send(&bytes);
        let responses = self.responses();
        let [response] = responses.as_slice() else { panic!("{responses:?}") };
        assert_eq!(response.cseq(), Some(self.cseq));
        if let Some(session) = response.session() {
            self.session = Some(session.to_owned());
        }
        (u16::from(response.status()), response.clone())
    }

    fn setup(&mut self, url: &str, transport: &str) -> (u16, String) {
        let (status, response) = self.ask(Method::Setup, url, &[("Transport", transport)], "");
        (status, response.header("Transport").unwrap_or_default().to_owned())
    }

    fn status(&mut self, method: Method) -> u16 {
        self.ask(method, URL, &[], "").0
    }
}

fn usual_answer(output: &ServerOutput) -> Option<Answer> {
    match output {
        ServerOutput::Announce { name, .. } if name == "taken" => Some(Answer::Refused(Refusal::new(
            StatusCode::MethodNotValidInThisState,
            "Stream name is already in use",
        ))),
        ServerOutput::Announce { .. } => Some(Answer::Done),
        ServerOutput::Find { name } if name == "live/cam" => {
            let mut described = Description::parse(SDP.as_bytes()).unwrap();
            described.control = "*".into();
            for (number, track) in described.tracks.iter_mut().enumerate() {
                track.control = format!("trackID={number}");
            }
            Some(Answer::Found(described, "cam".into()))
        }
        ServerOutput::Find { .. } => Some(Answer::Refused(StatusCode::NotFound.into())),
        ServerOutput::OpenPorts { .. } => Some(Answer::Ports(31_000, 31_001)),
        ServerOutput::Play => {
            Some(Answer::Playing(vec![FirstPacket { track: 0, sequence: 7, rtp_time: Some(9) }]))
        }
        _ => None,
    }
}

fn track_url(track: usize) -> String {
    format!("{URL}/streamid={track}")
}

/// A publisher of pictures on channels 4 and 5.
fn recording() -> Client {
    let mut client = Client::new();
    assert_eq!(client.ask(Method::Announce, URL, &[], SDP).0, 200);
    let (status, transport) = client.setup(&track_url(0), "RTP/AVP/TCP;unicast;interleaved=4-5;mode=record");
    assert_eq!((status, transport.as_str()), (200, "RTP/AVP/TCP;unicast;interleaved=4-5;mode=record"));
    assert_eq!(client.status(Method::Record), 200);
    client
}

fn frames(channel: u8, count: usize) -> Vec<u8> {
    let mut pictures = Pictures::new(1, 10);
    let now = Clock::manual().now();
    let (mut bytes, mut sequence) = (Vec::new(), 0);
    for _ in 0..count {
        let unit = pictures.next(now, false);
        let payloads = pack(&unit, 1200).unwrap();
        for (at, payload) in payloads.iter().enumerate() {
            let packet = packet(96, at + 1 == payloads.len(), sequence, unit.pts.ticks as u32, 5, payload);
            write_frame_head(channel, packet.len(), &mut bytes).unwrap();
            bytes.extend_from_slice(&packet);
            sequence += 1;
        }
    }
    bytes
}

#[test]
fn a_publisher_announces_sets_up_records_and_tears_down() {
    let mut client = recording();
    assert_eq!(client.outputs, ["Record"]);
    client.send(&frames(4, 20));
    assert_eq!(client.units, 20);
    assert_eq!((client.status(Method::Options), client.status(Method::GetParameter)), (200, 200));
    client.send(&frames(6, 20));
    assert_eq!(
        (client.units, client.server.bad_packets()),
        (20, 0),
        "a channel that was not set up says nothing"
    );
    assert_eq!((client.status(Method::Teardown), client.outputs.pop().unwrap()), (200, "Teardown".into()));
    client.session = None;
    assert_eq!(client.status(Method::Record), 455);
    assert_eq!(client.ask(Method::Announce, URL, &[], SDP).0, 200, "and may begin anew");
}

#[test]
fn a_pause_of_a_publisher_takes_nothing_and_record_goes_on() {
    let mut client = recording();
    assert_eq!(client.status(Method::Pause), 200);
    client.send(&frames(4, 5));
    assert_eq!(client.units, 0);
    assert_eq!(client.status(Method::Record), 200);
    client.send(&frames(4, 5));
    assert_eq!(client.units, 5);
}

#[test]
fn a_player_describes_sets_up_and_plays() {
    let mut client = Client::new();
    let (status, described) = client.ask(Method::Describe, URL, &[("Accept", "application/sdp")], "");
    assert_eq!((status, described.header("Content-Base")), (200, Some("rtsp://host:8554/live/cam?a=b/")));
    assert_eq!(Description::parse(described.body()).unwrap().tracks.len(), 2);
    let track = |number: usize| format!("{URL}/trackID={number}");
    let (status, transport) = client.setup(&track(0), "RTP/AVP;unicast;client_port=5000-5001");
    assert_eq!(
        (status, transport.as_str()),
        (200, "RTP/AVP;unicast;client_port=5000-5001;server_port=31000-31001")
    );
    assert_eq!(client.setup(&track(1), "RTP/AVP/TCP;interleaved=0-1").0, 461, "one session, one way");
    assert_eq!(client.setup(&track(0), "RTP/AVP;client_port=5002-5003").0, 455, "it is set up already");
    assert_eq!(client.setup(&track(2), "RTP/AVP;client_port=5002-5003").0, 404);
    assert_eq!(client.status(Method::Record), 455);
    let (status, playing) = client.ask(Method::Play, URL, &[], "");
    assert_eq!(status, 200);
    let info = "url=rtsp://host:8554/live/cam?a=b/trackID=0;seq=7;rtptime=9";
    assert_eq!((playing.header("RTP-Info"), playing.header("Range")), (Some(info), Some("npt=now-")));
    assert_eq!(client.setup(&track(1), "RTP/AVP;client_port=5002-5003").0, 455, "not while it plays");
    assert_eq!((client.status(Method::Play), client.status(Method::Pause)), (200, 200));
    assert_eq!((client.status(Method::Play), client.status(Method::Teardown)), (200, 200));
    assert_eq!(client.outputs, ["Pause", "Teardown"]);
}

#[test]
fn one_session_takes_no_more_than_a_few_ports() {
    let mut client = Client::new();
    let tracks: String =
        (0..16).map(|n| format!("m=audio 0 RTP/AVP 0\r\na=control:streamid={n}\r\n")).collect();
    assert_eq!(client.ask(Method::Announce, URL, &[], &format!("v=0\r\n{tracks}")).0, 200);
    let statuses: Vec<u16> = (0..16)
        .map(|n| client.setup(&track_url(n), "RTP/AVP;unicast;client_port=5000-5001;mode=record").0)
        .collect();
    assert_eq!(statuses, [[200; 6].as_slice(), &[453; 10]].concat());
}

#[test]
fn packets_of_a_player_leave_on_its_channels() {
    let mut client = Client::new();
    assert_eq!(
        client.setup(&format!("{URL}/trackID=1"), "RTP/AVP/TCP;unicast").1,
        "RTP/AVP/TCP;unicast;interleaved=2-3"
    );
    assert_eq!(client.status(Method::Play), 200, "a player that was told the tracks elsewhere");
    assert!(client.server.send(1, false, b"rtp") && client.server.send(1, true, b"rtcp"));
    assert!(!client.server.send(0, false, b"not set up"));
    assert_eq!(client.server.out().as_slice(), b"$\x02\x00\x03rtp$\x03\x00\x04rtcp");
    client.server.out().resize(OUT_BYTES_MAX, 0);
    assert!(!client.server.send(1, false, b"rtp"), "a client that does not read costs no more than that");
}

#[test]
fn ways_that_cannot_be_are_refused() {
    let with = |transport: &str| {
        let mut client = Client::new();
        assert_eq!(client.ask(Method::Announce, URL, &[], SDP).0, 200);
        assert_eq!(client.setup(&track_url(0), "RTP/AVP/TCP;interleaved=0-1;mode=record").0, 200);
        client.setup(&track_url(1), transport).0
    };
    for bad in [
        "RTP/AVP/TCP;interleaved=0-1",
        "RTP/AVP/TCP;interleaved=1-2",
        "RTP/AVP/TCP;interleaved=5-5",
        "RTP/AVP;unicast;client_port=5000-5001",
        "RTP/AVP;multicast;port=5000-5001",
        "RTP/SAVP/TCP;interleaved=2-3",
        "",
    ] {
        assert_eq!(with(bad), 461, "{bad}");
    }
    assert_eq!(with("RTP/AVP/TCP;interleaved=9-8;mode=record"), 200);
    let alone = |transport: &str| Client::new().setup(&format!("{URL}/trackID=0"), transport).0;
    for bad in [
        "RTP/AVP;client_port=0-0",
        "RTP/AVP;client_port=53-54",
        "RTP/AVP;client_port=5000-80",
        "RTP/AVP;unicast",
    ] {
        assert_eq!(alone(bad), 461, "{bad}");
    }
    assert_eq!(alone("RTP/AVP;multicast, RTP/AVP/TCP;unicast;interleaved=0-1"), 200, "the second will do");
    assert_eq!(alone("RTP/AVP/TCP;interleaved=0-1;mode=record"), 461);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_reason_and_the_connection_goes_on() {
    let mut client = Client::new();
    let h265 = SDP.replace("H264", "H265").replace("AVP 8", "AVP 13");
    let (status, response) = client.ask(Method::Announce, URL, &[], &h265);
    assert_eq!((status, response.reason().contains("H265")), (415, true), "{}", response.reason());
    let (status, response) = client.ask(Method::Announce, "rtsp://h/taken", &[], SDP);
    assert_eq!((status, response.reason()), (455, "Stream name is already in use"));
    assert_eq!(client.ask(Method::Announce, URL, &[], "<html>").0, 400);
    assert_eq!(client.ask(Method::Describe, "rtsp://h/none", &[], "").0, 404);
    assert_eq!(client.ask(Method::Describe, URL, &[("Accept", "text/html")], "").0, 406);
    let (status, response) = client.ask(Method::Options, "*", &[("Require", "implicit-play")], "");
    assert_eq!((status, response.header("Unsupported")), (551, Some("implicit-play")));
    assert_eq!(client.ask(Method::Play, URL, &[("Session", "1234")], "").0, 454);
    assert_eq!(client.status(Method::Redirect), 501);
    assert_eq!(client.ask(Method::SetParameter, URL, &[], "x: y").0, 451);
    assert_eq!(client.status(Method::Play), 455);
    client.send(b"OPTIONS * RTSP/1.0\r\n\r\nOPTIONS * RTSP/2.0\r\nCSeq: 1\r\n\r\n");
    let statuses: Vec<u16> = client.responses().iter().map(|response| response.status().into()).collect();
    assert_eq!(statuses, [400, 505]);
    assert!(client.outputs.is_empty());
    client.send(b"\x16\x03\x01\x00");
    assert_eq!(client.outputs, ["close: byte 0x16 where a message should begin"]);
}

#[test]
fn requests_in_one_piece_are_answered_in_order_though_a_question_is_open() {
    let mut client = Client::new();
    client.answer = |_| None;
    client.send(
        format!("DESCRIBE {URL} RTSP/1.0\r\nCSeq: 1\r\n\r\nOPTIONS * RTSP/1.0\r\nCSeq: 2\r\n\r\n").as_bytes(),
    );
    assert!(client.server.is_asking() && client.responses().is_empty());
    let answer = usual_answer(&ServerOutput::Find { name: "live/cam".into() }).unwrap();
    client.server.answer(client.now, answer);
    let cseqs: Vec<_> = client.responses().iter().map(Response::cseq).collect();
    assert_eq!(cseqs, [Some(1), Some(2)]);
}

#[test]
fn whoever_is_silent_is_given_up_in_time() {
    let silent = |mut client: Client, seconds: u64| {
        let start = client.now;
        client.outputs.clear();
        client.server.handle_timeout(start + Duration::from_secs(seconds) - Duration::from_millis(1));
        client.drain();
        client.outputs.retain(|output| !output.starts_with("report"));
        assert!(client.outputs.is_empty(), "{:?}", client.outputs);
        client.server.handle_timeout(start + Duration::from_secs(seconds));
        client.drain();
        client.outputs.pop().unwrap_or_default()
    };
    assert_eq!(silent(Client::new(), 10), "close: no session in time");
    let mut announced = Client::new();
    assert_eq!(announced.ask(Method::Announce, URL, &[], SDP).0, 200);
    assert_eq!(silent(announced, 10), "close: no session in time");
    assert_eq!(silent(recording(), 30), "close: publisher is silent");
    let mut player = Client::new();
    assert_eq!(player.setup(&format!("{URL}/trackID=0"), "RTP/AVP;client_port=5000-5001").0, 200);
    assert_eq!(player.status(Method::Play), 200);
    player.now += Duration::from_secs(80);
    player.server.handle_datagram(player.now, 0, true, b"a report");
    assert_eq!(silent(player, 90), "close: player is silent");
    let mut interleaved = Client::new();
    assert_eq!(interleaved.setup(&format!("{URL}/trackID=0"), "RTP/AVP/TCP").0, 200);
    assert_eq!(interleaved.status(Method::Play), 200);
    assert_eq!(silent(interleaved, 100_000), "", "whether it reads is seen elsewhere");
}

#[test]
fn datagrams_of_a_publisher_are_taken_and_reported_on() {
    let mut client = Client::new();
    let sets = [SPS_640X360, PPS];
    assert!(!sets.is_empty() && client.ask(Method::Announce, URL, &[], SDP).0 == 200);
    assert_eq!(client.setup(&track_url(0), "RTP/AVP;unicast;client_port=5000-5001;mode=record").0, 200);
    assert_eq!(client.status(Method::Record), 200);
    let bytes = frames(0, 20);
    let mut rest = bytes.as_slice();
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let (packet, next) = after.split_at(usize::from(u16::from_be_bytes([head[2], head[3]])));
        client.server.handle_datagram(client.now, 0, false, packet);
        rest = next;
    }
    client.server.handle_timeout(client.now + Duration::from_secs(6));
    client.drain();
    assert_eq!((client.units, client.outputs.clone()), (20, vec!["Record".into(), "report 0".into()]));
}
