//! RTMP: values, tag bodies, and both ends of a connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::PIXELS_MAX;
use crate::base::clock::Clock;
use crate::media::h264::framing;
use crate::media::unit::MediaUnit;
use crate::proto::rtmp::MediaOutput;
use crate::proto::rtmp::amf0::{self, VALUES_MAX};
use crate::proto::rtmp::client::{Client, ClientOutput, ClientSettings};
use crate::proto::rtmp::handshake::PART_BYTES;
use crate::proto::rtmp::media_reader::MediaReader;
use crate::proto::rtmp::server::{ServerOutput, ServerSession, ServerSettings};
use crate::proto::rtmp::url::{RtmpUrl, split_parameters};

/// Values in AMF 0: what is read can be written and read again.
pub fn amf0(data: &[u8]) {
    if let Ok(values) = amf0::decode(data) {
        assert!(values.len() <= VALUES_MAX);
        let written = amf0::encode(&values);
        let again = amf0::decode(&written).expect("values of ours");
        // Compared as bytes: a number may be none, which equals nothing.
        assert_eq!(amf0::encode(&again), written);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = RtmpUrl::parse(text);
        let _ = split_parameters(text);
    }
}

/// Checks what comes out of a reader: decodable from the first unit on, times that never run backwards.
#[derive(Default)]
struct Checked {
    begun: bool,
    last: Option<i64>,
}

impl Checked {
    fn check(&mut self, output: &MediaOutput) {
        match output {
            MediaOutput::Video(unit) => {
                assert!(unit.key || self.begun, "a unit without what it refers to");
                assert!(framing::avcc_units(&unit.data).all(|nal| nal.is_ok()));
                assert!(unit.pts.ticks >= unit.dts.ticks);
                assert!(self.last.is_none_or(|last| unit.dts.ticks >= last), "time runs backwards");
                self.last = Some(unit.dts.ticks);
                self.begun = true;
            }
            MediaOutput::Gap => self.begun = false,
            _ => {}
        }
    }
}

/// A run of tag bodies, each after a byte for kind and length and two for its time.
pub fn flv_tags(data: &[u8]) {
    let mut reader = MediaReader::new(PIXELS_MAX);
    let (now, mut out, mut checked) = (Clock::manual().now(), VecDeque::new(), Checked::default());
    let mut rest = data;
    while let Some(([head, high, low], after)) = rest.split_first_chunk::<3>() {
        let (body, after) = after.split_at(usize::from(head & 0x7F).min(after.len()));
        rest = after;
        let timestamp = u32::from_be_bytes([*high, 0, 0, *low]);
        let body = Bytes::copy_from_slice(body);
        if head & 0x80 != 0 {
            reader.audio(timestamp, now, body, &mut out);
        } else {
            reader.video(timestamp, now, body, &mut out);
        }
        out.drain(..).for_each(|output| checked.check(&output));
    }
}

/// What a client sends after the handshake; whatever it asks for is granted. A player is given what was published before.
pub fn rtmp_server(data: &[u8]) {
    let clock = Clock::manual();
    let settings = ServerSettings {
        pixels_max: PIXELS_MAX,
        idle_limit: Duration::from_secs(10),
        silence_limit: Some(Duration::from_secs(60)),
    };
    let mut session = ServerSession::new(settings, &mut StdRng::seed_from_u64(0), clock.now());
    session.handle_bytes(clock.now(), &[[3].as_slice(), &[0; PART_BYTES], &[0; PART_BYTES]].concat());
    let (mut checked, mut units) = (Checked::default(), Vec::new());
    for piece in data.chunks(97) {
        session.handle_bytes(clock.now(), piece);
        loop {
            match session.poll_output() {
                ServerOutput::Publish(_) => {
                    checked = Checked::default();
                    session.accept_publish(clock.now());
                }
                ServerOutput::Play(_) => {
                    session.accept_play(clock.now());
                    units.iter().for_each(|unit| session.write(unit));
                }
                ServerOutput::Media(output) => {
                    checked.check(&output);
                    match output {
                        MediaOutput::Video(unit) => units.push(MediaUnit::Video(unit.into())),
                        MediaOutput::Audio(frame) => units.push(MediaUnit::Audio(frame.into())),
                        _ => {}
                    }
                    units.truncate(8);
                }
                ServerOutput::Ended => {}
                ServerOutput::Closed(_) => return,
                ServerOutput::Timeout(at) => {
                    assert!(at > clock.now());
                    break;
                }
            }
        }
        // Answers are in proportion to what asks for them.
        assert!(session.output().len() < 64 * 1024);
        session.sent(session.output().len());
    }
}

/// What a server sends, handshake included, to our client.
pub fn rtmp_client(data: &[u8]) {
    let clock = Clock::manual();
    let settings = ClientSettings {
        url: RtmpUrl::parse("rtmp://h/live/cam").expect("an address of ours"),
        pixels_max: PIXELS_MAX,
        answer_limit: Duration::from_secs(10),
        silence_limit: None,
    };
    let mut client = Client::new(settings, &mut StdRng::seed_from_u64(0), clock.now());
    client.handle_bytes(clock.now(), &[[3].as_slice(), &[0; PART_BYTES], &[0; PART_BYTES]].concat());
    let mut checked = Checked::default();
    for piece in data.chunks(97) {
        client.handle_bytes(clock.now(), piece);
        loop {
            match client.poll_output() {
                ClientOutput::Media(output) => checked.check(&output),
                ClientOutput::Playing => {}
                ClientOutput::Closed(_) => return,
                ClientOutput::Timeout(at) => {
                    assert!(at > clock.now());
                    break;
                }
            }
        }
        assert!(client.output().len() < 64 * 1024);
        client.sent(client.output().len());
    }
}
