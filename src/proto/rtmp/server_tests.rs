use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::base::clock::Clock;
use crate::media::h264::tests::{PPS, SPS_640X360};
use crate::media::time::Timestamp;
use crate::media::track::{AudioCodec, AudioParams, Colour, Rotation, VideoCodec, VideoParams};
use crate::media::unit::{AccessUnit, AudioFrame};
use crate::proto::rtmp::amf0;
use crate::proto::rtmp::chunk::{ChunkReader, ChunkWriter};
use crate::proto::rtmp::client::{Client, ClientCause, ClientOutput, ClientSettings};
use crate::proto::rtmp::handshake::PART_BYTES;
use crate::proto::rtmp::url::RtmpUrl;

const IDLE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);

fn session(clock: &Clock) -> ServerSession {
    let settings = ServerSettings { pixels_max: u64::MAX, idle_limit: IDLE, silence_limit: Some(SILENCE) };
    ServerSession::new(settings, &mut StdRng::seed_from_u64(1), clock.now())
}

/// A client that says what a test wants said, chunk by chunk.
struct Talker {
    session: ServerSession,
    clock: Clock,
    writer: ChunkWriter,
    reader: ChunkReader,
    /// In how large pieces its bytes reach the session.
    step: usize,
    /// Bytes of the handshake that it has not read yet.
    handshake_left: usize,
}

impl Talker {
    /// With the handshake behind it.
    fn new(step: usize) -> Self {
        let clock = Clock::manual();
        let mut talker = Self {
            session: session(&clock),
            clock,
            writer: ChunkWriter::new(),
            reader: ChunkReader::new(),
            step,
            handshake_left: 1 + 2 * PART_BYTES,
        };
        talker.bytes(&[[3].as_slice(), &[0; PART_BYTES], &[0; PART_BYTES]].concat());
        talker
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.step) {
            self.session.handle_bytes(self.clock.now(), piece);
        }
    }

    fn message(&mut self, kind: u8, stream_id: u32, timestamp: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        self.writer.write(&mut bytes, 3, (kind, stream_id, timestamp), &[payload]);
        self.bytes(&bytes);
    }

    fn command(&mut self, stream_id: u32, name: &str, call: f64, rest: &[Value]) {
        let values = [&[Value::text(name), Value::Number(call)], rest].concat();
        self.message(kind::COMMAND_AMF0, stream_id, 0, &amf0::encode(&values));
    }

    fn connect(&mut self, object: Value) {
        self.command(0, "connect", 1.0, &[object]);
    }

    /// connect and createStream.
    fn connected(step: usize) -> Self {
        let mut talker = Self::new(step);
        talker.connect(Value::object([("app", Value::text("live"))]));
        talker.command(0, "createStream", 2.0, &[Value::Null]);
        talker.heard();
        talker
    }

    fn publishing() -> Self {
        let mut talker = Self::connected(10_000);
        talker.command(1, "publish", 5.0, &[Value::Null, Value::text("cam"), Value::text("live")]);
        talker.outputs();
        talker.session.accept_publish(talker.clock.now());
        talker.heard();
        talker
    }

    /// The messages that the session sent.
    fn messages(&mut self) -> Vec<Message> {
        let bytes = self.session.output().to_vec();
        self.session.sent(bytes.len());
        let skipped = self.handshake_left.min(bytes.len());
        self.handshake_left -= skipped;
        let mut rest = &bytes[skipped..];
        let mut messages = Vec::new();
        while let Some(message) = self.reader.next(&mut rest, self.clock.now()).unwrap() {
            if message.kind == kind::SET_CHUNK_SIZE {
                self.reader
                    .set_chunk_size(u32::from_be_bytes(message.payload[..].try_into().unwrap()))
                    .unwrap();
            }
            messages.push(message);
        }
        messages
    }

    /// The commands that it sent, each as its name, call and code.
    fn heard(&mut self) -> Vec<String> {
        let commands = self.messages();
        commands
            .iter()
            .filter_map(|message| link::command_values(message).unwrap())
            .map(|values| {
                let code = values.iter().find_map(|value| value.get("code")).and_then(Value::as_str);
                let (name, call) = (values[0].as_str().unwrap(), values[1].as_number().unwrap());
                format!("{name} {call} {}", code.unwrap_or_default()).trim().to_owned()
            })
            .collect()
    }

    fn outputs(&mut self) -> Vec<ServerOutput> {
        let mut outputs = Vec::new();
        loop {
            match self.session.poll_output() {
                ServerOutput::Timeout(_) => return outputs,
                output => outputs.push(output),
            }
        }
    }

    fn cause(&mut self) -> Option<ServerCause> {
        self.outputs().into_iter().find_map(|output| match output {
            ServerOutput::Closed(cause) => Some(cause),
            _ => None,
        })
    }
}

#[test]
fn an_encoder_is_answered_as_it_expects_however_its_bytes_are_cut() {
    for step in [1, 3, 128, 129, 10_000] {
        let mut talker = Talker::new(step);
        // OBS Studio's sequence.
        talker.message(kind::SET_CHUNK_SIZE, 0, 0, &4096_u32.to_be_bytes());
        talker.writer.set_chunk_size(4096);
        talker.connect(Value::object([
            ("app", Value::text("live?user=7")),
            ("type", Value::text("nonprivate")),
            ("flashVer", Value::text("FMLE/3.0 (compatible; FMSc/1.0)")),
            ("swfUrl", Value::text("rtmp://h/live")),
            ("tcUrl", Value::text("rtmp://h/live?user=7")),
        ]));
        assert_eq!(talker.heard(), ["_result 1 NetConnection.Connect.Success"]);
        talker.command(0, "releaseStream", 2.0, &[Value::Null, Value::text("cam?k=v")]);
        talker.command(0, "FCPublish", 3.0, &[Value::Null, Value::text("cam?k=v")]);
        talker.command(0, "createStream", 4.0, &[Value::Null]);
        talker.command(0, "_checkbw", 5.0, &[Value::Null]);
        assert_eq!(
            talker.heard(),
            ["_result 2", "_result 3", "onFCPublish 0 NetStream.Publish.Start", "_result 4", "_result 5"]
        );
        talker.command(1, "publish", 5.0, &[Value::Null, Value::text("cam?k=v"), Value::text("live")]);
        let outputs = talker.outputs();
        let [ServerOutput::Publish(request)] = outputs.as_slice() else { panic!("{outputs:?}") };
        let custom = serde_json::json!({"connect": {"user": "7"}, "stream": {"k": "v"}});
        assert_eq!(*request, Request { app: "live".into(), name: "cam".into(), custom });
        talker.session.accept_publish(talker.clock.now());
        assert_eq!(talker.heard(), ["onStatus 0 NetStream.Publish.Start"]);
        talker.command(0, "FCUnpublish", 6.0, &[Value::Null, Value::text("cam")]);
        talker.command(0, "deleteStream", 7.0, &[Value::Null, Value::Number(1.0)]);
        assert_eq!(
            talker.heard(),
            [
                "_result 6",
                "onFCUnpublish 0 NetStream.Unpublish.Success",
                "onStatus 0 NetStream.Unpublish.Success"
            ]
        );
        assert!(matches!(talker.outputs()[..], [ServerOutput::Ended]));
    }
}

#[test]
fn enhanced_rtmp_is_answered_to_who_speaks_it() {
    let four_ccs = |talker: &mut Talker| {
        let messages = talker.messages();
        let values = messages.iter().find_map(|message| link::command_values(message).unwrap()).unwrap();
        values.iter().find_map(|value| value.get("fourCcList")).map(|list| list.elements().len())
    };
    let mut talker = Talker::new(1000);
    talker.connect(Value::object([("app", Value::text("live"))]));
    assert_eq!(four_ccs(&mut talker), None);
    let mut talker = Talker::new(1000);
    let list = Value::StrictArray(vec![Value::text("hvc1"), Value::text("avc1")]);
    talker.connect(Value::object([("app", Value::text("live")), ("fourCcList", list)]));
    assert_eq!(four_ccs(&mut talker), Some(3));
}

#[test]
fn a_taken_name_is_refused_with_its_status_and_the_connection_closed() {
    let mut talker = Talker::connected(10_000);
    talker.command(1, "publish", 5.0, &[Value::Null, Value::text("cam")]);
    talker.session.refuse_publish("Stream name is already in use");
    assert_eq!(talker.heard(), ["onStatus 0 NetStream.Publish.BadName"]);
    assert_eq!(talker.cause(), Some(ServerCause::Refused("Stream name is already in use".into())));
}

#[test]
fn a_codec_that_is_not_taken_is_refused_by_name() {
    let mut talker = Talker::publishing();
    talker.message(kind::VIDEO, 1, 0, b"\x90hvc1record");
    assert_eq!(talker.heard(), ["onStatus 0 NetStream.Publish.Rejected"]);
    assert_eq!(talker.cause(), Some(ServerCause::Unsupported(TagError::Unsupported("HEVC".into()))));
}

#[test]
fn aggregates_are_taken_apart_and_their_times_moved() {
    let mut talker = Talker::publishing();
    let mut payload = Vec::new();
    for (time, kind, body) in [(500_u32, kind::AUDIO, b"\x7Fone".as_slice()), (520, kind::AUDIO, b"\x7Ftwo")]
    {
        payload.push(kind);
        payload.extend(&(body.len() as u32).to_be_bytes()[1..]);
        payload.extend(&time.to_be_bytes()[1..]);
        payload.extend([0, 0, 0, 0]);
        payload.extend(body);
        payload.extend((11 + body.len() as u32).to_be_bytes());
    }
    talker.message(kind::AGGREGATE, 1, 1000, &payload);
    let times: Vec<i64> = talker
        .outputs()
        .iter()
        .filter_map(|output| match output {
            ServerOutput::Media(MediaOutput::Audio(frame)) => Some(frame.pts.ticks / 8),
            _ => None,
        })
        .collect();
    assert_eq!(times, [1000, 1020]);
    talker.message(kind::AGGREGATE, 1, 1000, &payload[..payload.len() - 6]);
    assert_eq!(talker.cause(), Some(ServerCause::Protocol(RtmpError::Malformed("aggregate message"))));
}

#[test]
fn an_aggregate_of_countless_parts_is_refused_before_they_are_taken() {
    let mut talker = Talker::publishing();
    // Eleven bytes of header, a picture of one byte, no size behind it but in front of the next.
    let part = [kind::VIDEO, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x17, 0, 0, 0, 12];
    talker.message(kind::AGGREGATE, 1, 0, &part.repeat(100_000));
    let outputs = talker.outputs();
    assert!(outputs.len() < 3000, "{} outputs", outputs.len());
    assert!(matches!(outputs.last(), Some(ServerOutput::Closed(ServerCause::Protocol(_)))));
}

#[test]
fn a_picture_that_is_given_up_half_way_ends_the_connection_and_sound_does_not() {
    for (kind, ends) in [(kind::AUDIO, false), (kind::VIDEO, true)] {
        let mut talker = Talker::publishing();
        let mut bytes = Vec::new();
        talker.writer.write(&mut bytes, 6, (kind, 1, 0), &[&[0x27; 300]]);
        talker.bytes(&bytes[..12 + 128]);
        talker.message(kind::ABORT, 0, 0, &6_u32.to_be_bytes());
        assert_eq!(talker.cause().is_some(), ends, "kind {kind}");
    }
}

#[test]
fn bytes_are_acknowledged_by_the_window_asked_for_and_pings_answered() {
    let mut talker = Talker::publishing();
    talker.message(kind::WINDOW_ACK_SIZE, 0, 0, &1000_u32.to_be_bytes());
    talker.message(kind::USER_CONTROL, 0, 0, &[0, 6, 1, 2, 3, 4]);
    let answers = talker.messages();
    assert!(answers.iter().any(|m| m.kind == kind::USER_CONTROL && m.payload[..] == [0, 7, 1, 2, 3, 4]));
    talker.message(kind::AUDIO, 1, 0, &[0x7F; 2000]);
    let answers = talker.messages();
    let acknowledged = answers.iter().find(|message| message.kind == kind::ACKNOWLEDGEMENT).unwrap();
    assert_eq!(acknowledged.payload[..], (talker.session.received() as u32).to_be_bytes());
}

#[test]
fn who_neither_publishes_nor_plays_and_who_falls_silent_is_let_go() {
    let mut talker = Talker::connected(10_000);
    talker.clock.advance(IDLE);
    talker.session.handle_timeout(talker.clock.now());
    assert_eq!(talker.cause(), Some(ServerCause::Idle));
    let mut talker = Talker::publishing();
    talker.clock.advance(SILENCE / 2);
    talker.message(kind::AUDIO, 1, 0, &[0x7F; 10]);
    talker.clock.advance(SILENCE / 2);
    talker.session.handle_timeout(talker.clock.now());
    assert_eq!(talker.cause(), None);
    talker.clock.advance(SILENCE / 2);
    talker.session.handle_timeout(talker.clock.now());
    assert_eq!(talker.cause(), Some(ServerCause::Silent));
}

#[test]
fn bombs_and_strangers_are_closed() {
    let mut talker = Talker::connected(10_000);
    talker.message(kind::COMMAND_AMF0, 0, 0, &[3, 0, 1, b'a'].repeat(1000));
    assert_eq!(talker.cause(), Some(ServerCause::Protocol(RtmpError::Amf(amf0::AmfError::Depth))));
    let mut talker = Talker::new(10_000);
    talker.command(1, "publish", 5.0, &[Value::Null, Value::text("cam")]);
    assert!(matches!(talker.cause(), Some(ServerCause::Refused(_))), "before connect");
    let clock = Clock::manual();
    let mut session = session(&clock);
    session.handle_bytes(clock.now(), b"GET / HTTP/1.1\r\n");
    assert!(matches!(
        session.poll_output(),
        ServerOutput::Closed(ServerCause::Protocol(RtmpError::Version(b'G')))
    ));
    assert!(session.output().is_empty());
}

#[test]
fn one_connection_has_one_stream_and_may_have_another_later() {
    let mut talker = Talker::publishing();
    talker.command(2, "publish", 0.0, &[Value::Null, Value::text("two")]);
    talker.command(2, "play", 0.0, &[Value::Null, Value::text("two")]);
    assert_eq!(talker.heard(), ["onStatus 0 NetStream.Publish.BadName", "onStatus 0 NetStream.Play.Failed"]);
    talker.command(1, "closeStream", 0.0, &[Value::Null]);
    talker.command(2, "publish", 0.0, &[Value::Null, Value::text("two")]);
    assert!(matches!(talker.outputs()[..], [ServerOutput::Ended, ServerOutput::Publish(_)]));
    talker.command(0, "shutdown", 9.0, &[Value::Null]);
    assert_eq!(talker.heard().last().unwrap(), "_error 9 NetConnection.Call.Failed");
}

/// A stream of an H.264 publisher with B pictures and sound, as the hub hands it on.
fn units(clock: &Clock, codec: VideoCodec, audio: AudioParams) -> Vec<MediaUnit> {
    let params = Arc::new(VideoParams {
        codec,
        width: 640,
        height: 360,
        sample_aspect_ratio: (1, 1),
        colour: Colour::unsaid(640, 360),
        rotation: Rotation::None,
    });
    let audio = Arc::new(audio);
    let mut units = Vec::new();
    for n in 0..6_i64 {
        let data: &[u8] =
            if n == 0 { &[0, 0, 0, 4, 0x65, 0x88, 0x84, 0] } else { &[0, 0, 0, 4, 0x41, 0x9A, 0x24, 0x6C] };
        let arrived = clock.now() + Duration::from_millis(40 * n as u64);
        let origin = 7_000_000;
        units.push(MediaUnit::Video(Arc::new(AccessUnit {
            seq: n as u64,
            arrived,
            pts: Timestamp::video(origin + n * 3600 + 7200),
            dts: Timestamp::video(origin + n * 3600),
            key: n == 0,
            disposable: false,
            bidirectional: false,
            hidden: false,
            params: params.clone(),
            data: Bytes::copy_from_slice(data),
        })));
        // Sound on a clock of its own, as of a browser.
        let pts =
            Timestamp { ticks: n * i64::from(audio.sample_rate.get()) / 25, timescale: audio.sample_rate };
        let data = Bytes::from_static(b"sound");
        units.push(MediaUnit::Audio(Arc::new(AudioFrame { arrived, pts, params: audio.clone(), data })));
    }
    units
}

fn h264() -> VideoCodec {
    VideoCodec::H264 { sps: vec![Bytes::from_static(SPS_640X360)], pps: vec![Bytes::from_static(PPS)] }
}

fn aac() -> AudioParams {
    crate::media::aac::params(&[0x11, 0x90]).unwrap()
}

fn opus() -> AudioParams {
    AudioParams { codec: AudioCodec::Opus, sample_rate: NonZeroU32::new(48_000).unwrap(), channels: 2 }
}

/// Our client plays `units` from our session, bytes cut into pieces of `step`; returns what it gave out.
fn play(units: &[MediaUnit], step: usize, accept: bool) -> (Vec<MediaOutput>, Option<ClientCause>) {
    let clock = Clock::manual();
    let settings = ClientSettings {
        url: RtmpUrl::parse("rtmp://h/live/cam").unwrap(),
        pixels_max: u64::MAX,
        answer_limit: Duration::from_secs(10),
        silence_limit: None,
    };
    let mut client = Client::new(settings, &mut StdRng::seed_from_u64(2), clock.now());
    let mut server = session(&clock);
    let (mut media, mut cause, mut units) = (Vec::new(), None, units.iter());
    for _ in 0..200_000 {
        let bytes: Vec<u8> = client.output().iter().copied().take(step).collect();
        client.sent(bytes.len());
        server.handle_bytes(clock.now(), &bytes);
        let mut plays = false;
        loop {
            match server.poll_output() {
                ServerOutput::Play(request) => {
                    assert_eq!((request.app.as_str(), request.name.as_str()), ("live", "cam"));
                    if accept { server.accept_play(clock.now()) } else { server.refuse_play(true, "no") }
                }
                ServerOutput::Timeout(_) => break,
                ServerOutput::Closed(_) | ServerOutput::Ended => {}
                other => panic!("{other:?}"),
            }
        }
        if matches!(server.activity, Activity::Playing { .. }) && server.output().is_empty() {
            plays = true;
        }
        if plays {
            match units.next() {
                Some(unit) => server.write(unit),
                None => server.end_play(),
            }
        }
        let back: Vec<u8> = server.output().iter().copied().take(step).collect();
        server.sent(back.len());
        client.handle_bytes(clock.now(), &back);
        loop {
            match client.poll_output() {
                ClientOutput::Media(output) => media.push(output),
                ClientOutput::Playing => {}
                ClientOutput::Closed(why) => cause = Some(why),
                ClientOutput::Timeout(_) => break,
            }
        }
        if cause.is_some() {
            break;
        }
    }
    (media, cause)
}

fn words(media: &[MediaOutput]) -> Vec<String> {
    media
        .iter()
        .filter_map(|output| match output {
            MediaOutput::Video(unit) => Some(format!(
                "v{} {}+{}",
                unit.data.len(),
                unit.dts.ticks / 90,
                (unit.pts.ticks - unit.dts.ticks) / 90
            )),
            MediaOutput::Audio(frame) => Some(format!("{} {}", frame.params.codec.name(), frame.pts.ticks)),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_played_is_what_was_published_with_times_from_zero() {
    let clock = Clock::manual();
    for step in [1, 100, 100_000] {
        let (media, cause) = play(&units(&clock, h264(), aac()), step, true);
        assert_eq!(cause, Some(ClientCause::Ended));
        let words = words(&media);
        assert_eq!(words[..4], ["v8 0+80", "mpeg4-generic 0", "v8 40+80", "mpeg4-generic 1920"], "{step}");
        assert_eq!(words.len(), 12);
        let MediaOutput::Video(unit) =
            media.iter().find(|output| matches!(output, MediaOutput::Video(_))).unwrap()
        else {
            unreachable!()
        };
        assert_eq!(unit.params.codec, h264());
    }
    let (media, cause) = play(&units(&clock, h264(), opus()), 1000, true);
    assert_eq!((words(&media)[3].as_str(), cause), ("opus 1920", Some(ClientCause::Ended)));
}

#[test]
fn a_player_hears_that_there_is_no_such_stream_and_that_it_cannot_be_told_its_codec() {
    let clock = Clock::manual();
    assert_eq!(play(&[], 1000, false).1, Some(ClientCause::NotFound));
    let (media, cause) = play(&units(&clock, VideoCodec::Vp8, aac()), 1000, true);
    assert_eq!((words(&media).len(), cause), (0, Some(ClientCause::Refused("NetStream.Play.Failed".into()))));
}

#[test]
fn a_client_gives_up_on_a_server_that_does_not_answer() {
    let clock = Clock::manual();
    let settings = ClientSettings {
        url: RtmpUrl::parse("rtmp://h/live/cam").unwrap(),
        pixels_max: u64::MAX,
        answer_limit: IDLE,
        silence_limit: None,
    };
    let mut client = Client::new(settings, &mut StdRng::seed_from_u64(2), clock.now());
    assert_eq!(client.output().len(), 1 + PART_BYTES);
    let ClientOutput::Timeout(at) = client.poll_output() else { panic!() };
    assert_eq!(at, clock.now() + IDLE);
    client.handle_timeout(at);
    assert!(matches!(client.poll_output(), ClientOutput::Closed(ClientCause::Late)));
}

proptest! {
    #[test]
    fn no_bytes_after_the_handshake_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut talker = Talker::connected(50);
        talker.bytes(&bytes);
        talker.outputs();
    }
}
