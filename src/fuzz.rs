//! Each parser of outside bytes as a function of bytes, for `tests/fuzz` and for the ordinary test over its corpora.
//!
//! A function here panics when the parser breaks its promise, and for no other reason. Not part of the API.

mod rtmp;
mod rtsp;

mod sender;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::conf::written;
use crate::edge::http::body::BodyCollector;
use crate::edge::http::{HttpSettings, head};
use crate::media::h264::assemble::{UnitBuilder, UnitTimes, annex_b_pictures};
use crate::media::h264::coding::{Coding, Interlaced};
use crate::media::h264::decode_time::DecodeTimes;
use crate::media::h264::slice::{SliceStart, is_field};
use crate::media::h264::sps::Sps;
use crate::media::h264::undelayed::undelayed;
use crate::media::h264::{framing, sei};
use crate::media::time::Timestamp;
use crate::media::track::AudioCodec;
use crate::media::unit::AccessUnit;
use crate::media::vp8::{FrameHeader, FrameUnits};
use crate::proto::dtls::record;
use crate::proto::rtp::depack::{Depacketized, VideoDepacketizer};
use crate::proto::rtp::depack_h264::H264Depacketizer;
use crate::proto::rtp::depack_vp8::Vp8Depacketizer;
use crate::proto::rtp::header::RtpPacket;
use crate::proto::rtp::jitter::{Inserted, JitterBuffer};
use crate::proto::rtp::receiver::{
    HOLD_BACK_DEFAULT, KEYFRAME_INTERVAL_DEFAULT, Receiver, ReceiverOutput, ReceiverSettings, TrackKind,
    TrackSettings, VideoPayload,
};
use crate::proto::rtp::{pack_h264, rtcp};
use crate::proto::sdp::offer::Offer;
use crate::proto::signal::message::FromClient;
use crate::proto::stun::Binding;
use crate::services::decode::{DecodeError, StreamDecoder};
use crate::services::vod::{Demuxer, picture_at};

pub use rtmp::{amf0, flv_tags, rtmp_client, rtmp_server};
pub use rtsp::{depack_aac, rtsp_client, rtsp_message, rtsp_sdp, rtsp_server};

pub use self::sender::sender;

/// Most pixels of a picture in fuzzing: the default of the configuration.
const PIXELS_MAX: u64 = 8192 * 4352;

/// The same where pictures are decoded: small ones, so that much is tried.
const VP8_PIXELS_MAX: u64 = 320 * 240;

/// A target: its name, which is also the folder of its corpus, and what it does with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("amf0", amf0),
    ("avcc", avcc),
    ("decode_h264", decode_h264),
    ("decode_times", decode_times),
    ("depack_aac", depack_aac),
    ("depack_h264", depack_h264),
    ("depack_vp8", depack_vp8),
    ("dtls_records", dtls_records),
    ("flv_tags", flv_tags),
    ("h264_units", h264_units),
    ("http_body", http_body),
    ("http_head", http_head),
    ("jitter", jitter),
    ("mp4", mp4),
    ("properties", properties),
    ("receiver", receiver),
    ("roundtrip_h264", roundtrip_h264),
    ("rtcp", rtcp),
    ("rtmp_client", rtmp_client),
    ("rtmp_server", rtmp_server),
    ("rtp_header", rtp_header),
    ("rtsp_client", rtsp_client),
    ("rtsp_message", rtsp_message),
    ("rtsp_sdp", rtsp_sdp),
    ("rtsp_server", rtsp_server),
    ("sdp_offer", sdp_offer),
    ("sender", sender),
    ("signal_message", signal_message),
    ("sps", sps),
    ("stun", stun),
    ("vp8_frame", vp8_frame),
];

/// AVCC and Annex B framing: what comes out of one form is found again in the other.
pub fn avcc(data: &[u8]) {
    let units: Vec<_> = framing::avcc_units(data).collect();
    let mut copy = data.to_vec();
    if framing::avcc_to_annex_b(&mut copy).is_ok() {
        assert!(units.iter().all(Result::is_ok));
        assert_eq!(copy.len(), data.len());
    }
    for nal in framing::annex_b_units(data) {
        assert!(nal.len() <= data.len());
        let _ = SliceStart::parse(nal);
        let _ = sei::recovery_point(nal);
        let interlaced = Interlaced { adaptive: false, frame_num_bits: 4, separate_planes: false };
        let _ = is_field(nal, &interlaced);
    }
}

/// A stream of access units through the decoders: what comes out has the size that its parameters say.
pub fn decode_h264(data: &[u8]) {
    const SMALL: u64 = 256 * 256;
    let mut builder = UnitBuilder::new(SMALL);
    let mut decoder = StreamDecoder::new(SMALL, Metrics::new());
    let now = Clock::manual().now();
    for (nals, seq) in annex_b_pictures(data).into_iter().zip(0..) {
        nals.into_iter().for_each(|nal| builder.push(nal));
        let time = Timestamp::video(seq * 3000);
        let Ok(Some(unit)) = builder.finish(UnitTimes { arrived: now, pts: time, dts: time }) else {
            continue;
        };
        let unit = AccessUnit { seq: seq.unsigned_abs(), ..unit };
        if let Ok(Some(picture)) = decoder.step(&unit, true) {
            let (width, height) = (picture.params.width as usize, picture.params.height as usize);
            assert_eq!(picture.y.len(), width * height);
            assert_eq!(picture.u.len(), width.div_ceil(2) * picture.sampling.rows(height));
            assert_eq!(picture.v.len(), picture.u.len());
        }
    }
}

/// Pictures of a byte stream behind a parameter set, with showing times out of the bytes: decoding times rise and are
/// never behind the showing times.
pub fn decode_times(data: &[u8]) {
    let mut builder = UnitBuilder::new(PIXELS_MAX);
    let (now, mut times, mut last) = (Clock::manual().now(), DecodeTimes::new(), i64::MIN);
    for nal in framing::annex_b_units(data) {
        builder.push(nal);
        let ticks = i64::from(nal.last().copied().unwrap_or_default()) * 1000;
        let pts = Timestamp::video(ticks);
        let Ok(Some(mut unit)) = builder.finish(UnitTimes { arrived: now, pts, dts: pts }) else { continue };
        times.stamp(&mut unit);
        assert!(unit.dts.ticks > last && unit.pts.ticks >= unit.dts.ticks);
        last = unit.dts.ticks;
        if nal.len() % 7 == 0 {
            times.reset();
        }
    }
}

/// A run of packets, each one length byte and its payload; the length's high bits are marker, loss and new time.
pub fn depack_h264(data: &[u8]) {
    let mut depacketizer = H264Depacketizer::new(PIXELS_MAX);
    let (now, mut out) = (Clock::manual().now(), VecDeque::new());
    let (mut rest, mut timestamp, mut waits) = (data, 0_u32, true);
    while let Some((&head, after)) = rest.split_first() {
        let (payload, after) = after.split_at(usize::from(head & 0x1F).min(after.len()));
        rest = after;
        if head & 0x20 != 0 {
            depacketizer.mark_lost(&mut out);
        }
        timestamp = timestamp.wrapping_add(u32::from(head & 0x40) << 6);
        let bytes = pack_h264::packet(96, head & 0x80 != 0, 0, timestamp, 1, payload);
        let packet = RtpPacket::parse(&bytes).expect("a packet of ours");
        depacketizer.push(&packet, now, None, &mut out);
        for output in out.drain(..) {
            match output {
                Depacketized::Gap => waits = true,
                Depacketized::Unit(unit) => {
                    assert!(unit.key || !waits, "a unit without what it refers to");
                    assert!(framing::avcc_units(&unit.data).all(|nal| nal.is_ok()));
                    waits = false;
                }
            }
        }
    }
}

/// The same for VP8.
pub fn depack_vp8(data: &[u8]) {
    let mut depacketizer = Vp8Depacketizer::new(PIXELS_MAX);
    let (now, mut out) = (Clock::manual().now(), VecDeque::new());
    let (mut rest, mut timestamp, mut waits) = (data, 0_u32, true);
    while let Some((&head, after)) = rest.split_first() {
        let (payload, after) = after.split_at(usize::from(head & 0x1F).min(after.len()));
        rest = after;
        if head & 0x20 != 0 {
            depacketizer.mark_lost(&mut out);
        }
        timestamp = timestamp.wrapping_add(u32::from(head & 0x40) << 6);
        let bytes = pack_h264::packet(96, head & 0x80 != 0, 0, timestamp, 1, payload);
        let packet = RtpPacket::parse(&bytes).expect("a packet of ours");
        depacketizer.push(&packet, now, None, &mut out);
        for output in out.drain(..) {
            match output {
                Depacketized::Gap => waits = true,
                Depacketized::Unit(unit) => {
                    assert!(unit.key || !waits, "a unit without what it refers to");
                    let header = FrameHeader::parse(&unit.data).expect("only good frames");
                    assert_eq!((header.key.is_some(), header.shown), (unit.key, !unit.hidden));
                    waits = false;
                }
            }
        }
    }
}

/// A datagram of DTLS records.
pub fn dtls_records(data: &[u8]) {
    let bytes: usize = record::records(data).map(|record| record.bytes.len()).sum();
    assert!(bytes <= data.len());
    let mut sieve = record::Sieve::default();
    for datagram in [data, data.get(data.len() / 2..).unwrap_or_default()] {
        let sifted = sieve.sift(datagram);
        assert_eq!(record::records(&sifted.kept).count(), sifted.records, "what is kept is whole records");
    }
}

/// A stream of NAL units into access units.
pub fn h264_units(data: &[u8]) {
    let mut builder = UnitBuilder::new(PIXELS_MAX);
    let now = Clock::manual().now();
    for nal in framing::annex_b_units(data) {
        builder.push(nal);
        let times = UnitTimes { arrived: now, pts: Timestamp::video(0), dts: Timestamp::video(0) };
        if nal.len() % 3 == 0
            && let Ok(Some(unit)) = builder.finish(times)
        {
            assert!(framing::avcc_units(&unit.data).all(|nal| nal.is_ok()));
        }
    }
}

/// The body of an HTTP request in chunks: never more than the bound.
pub fn http_body(data: &[u8]) {
    const BYTES_MAX: usize = 1000;
    for length in [head::BodyLength::Chunked, head::BodyLength::Fixed(data.len() as u64)] {
        let Ok(mut body) = BodyCollector::new(length, BYTES_MAX) else { continue };
        for piece in data.chunks(7) {
            if body.is_done() || body.push(piece).is_err() {
                break;
            }
        }
        assert!(body.into_body().len() <= BYTES_MAX);
    }
}

/// The head of an HTTP request.
pub fn http_head(data: &[u8]) {
    if let Some(end) = head::find_end(data, 0) {
        let _ = head::parse(&data[..end], HttpSettings::usual().head);
    }
}

/// Sequence numbers in any order, with time going on: what leaves is in order, once, and within bounds.
pub fn jitter(data: &[u8]) {
    let clock = Clock::manual();
    let mut buffer = JitterBuffer::new(Duration::from_millis(100));
    for bytes in data.chunks_exact(3) {
        let sequence = u16::from_be_bytes([bytes[0], bytes[1]]);
        let inserted = buffer.insert(clock.now(), sequence, &bytes[..2]);
        while let Some(popped) = buffer.pop(clock.now()) {
            assert_eq!(popped.packet.len(), 2);
        }
        assert!(buffer.held() <= 4096 || inserted != Inserted::Held);
        assert!(buffer.take_asks(clock.now(), 16).len() <= 16);
        clock.advance(Duration::from_millis(u64::from(bytes[2])));
        let _ = buffer.deadline(true);
    }
}

/// An MP4 file: its units come in order, and no more of them than the bounds of the reader.
pub fn mp4(data: &[u8]) {
    let now = Clock::manual().now();
    let Ok(mut demuxer) = Demuxer::open(data.to_vec().into_boxed_slice(), PIXELS_MAX) else { return };
    let (mut last, mut units) = (Duration::ZERO, 0);
    while let Ok(Some(due)) = demuxer.next(now) {
        assert!(due.at >= last || units == 0);
        (last, units) = (due.at, units + 1);
    }
    demuxer.seek(demuxer.duration() / 2);
    let _ = demuxer.next(now);
    // The picture of a moment, of small ones: what comes out has the size that its parameters say.
    const SMALL: u64 = 320 * 240;
    let Ok(mut demuxer) = Demuxer::open(data.to_vec().into_boxed_slice(), SMALL) else { return };
    let (half, left) = (demuxer.duration() / 2, std::cell::Cell::new(200_u32));
    let goes_on = || left.replace(left.get().saturating_sub(1)) > 0;
    let mut decoder = StreamDecoder::new(SMALL, Metrics::new());
    if let Ok((picture, _)) = picture_at(&mut demuxer, &mut decoder, half, now, &goes_on) {
        assert_eq!(picture.y.len(), picture.params.width as usize * picture.params.height as usize);
    }
}

/// A properties file.
pub fn properties(data: &[u8]) {
    if let Ok(entries) = written::parse_file(Path::new("fuzz.properties"), data) {
        for entry in entries {
            let _ = written::nearest(&entry.name);
        }
    }
}

/// A run of packets into the receiver of a bundle, each after a byte for its length and one for the time before it.
pub fn receiver(data: &[u8]) {
    let clock = Clock::manual();
    let track = |kind, payload_type, mid: &str| TrackSettings {
        kind,
        payload_types: vec![payload_type],
        ssrcs: Vec::new(),
        mid: mid.into(),
        nack: true,
        pli: true,
        fir: true,
        remb: true,
        cvo_extension: Some(13),
    };
    let opus = TrackKind::Audio {
        codec: AudioCodec::Opus,
        clock_rate: NonZeroU32::new(48_000).expect("not 0"),
        channels: 2,
    };
    let settings = ReceiverSettings {
        local_ssrc: 1,
        cname: "us".into(),
        tracks: vec![track(TrackKind::Video { codec: VideoPayload::H264 }, 102, "1"), track(opus, 111, "0")],
        mid_extension: Some(4),
        abs_send_time_extension: Some(2),
        pixels_max: PIXELS_MAX,
        bitrate_max_bps: 4_000_000,
        hold_back: HOLD_BACK_DEFAULT,
        keyframe_interval: KEYFRAME_INTERVAL_DEFAULT,
    };
    let mut receiver = Receiver::new(settings, clock.now());
    let mut rest = data;
    while let Some(([size, pause], after)) = rest.split_first_chunk::<2>() {
        let (packet, after) = after.split_at(usize::from(*size).min(after.len()));
        rest = after;
        clock.advance(Duration::from_millis(u64::from(*pause)));
        if receiver.accepts(packet) {
            let _ = receiver.handle_rtp(clock.now(), packet);
        } else {
            let _ = receiver.handle_rtcp(clock.now(), packet);
        }
        // What is due is done in a few rounds, or the thread that drives the receiver would never sleep.
        assert!((0..100).any(|_| {
            receiver.handle_timeout(clock.now());
            drain(&mut receiver) > clock.now()
        }));
    }
}

/// Takes what a receiver gives, looks at it, and returns when it wants to be called again.
fn drain(receiver: &mut Receiver) -> Instant {
    loop {
        match receiver.poll_output() {
            ReceiverOutput::Timeout(at) => return at,
            ReceiverOutput::Rtcp(compound) => assert!(rtcp::parse(&compound).is_ok(), "RTCP of our own"),
            ReceiverOutput::Video(unit) => assert!(framing::avcc_units(&unit.data).all(|nal| nal.is_ok())),
            ReceiverOutput::Audio(_) | ReceiverOutput::Gap => {}
        }
    }
}

/// Packets made of an access unit give the same access unit back.
pub fn roundtrip_h264(data: &[u8]) {
    let mut builder = UnitBuilder::new(PIXELS_MAX);
    framing::annex_b_units(data).for_each(|nal| builder.push(nal));
    let now = Clock::manual().now();
    let times = UnitTimes { arrived: now, pts: Timestamp::video(0), dts: Timestamp::video(0) };
    let Ok(Some(unit)) = builder.finish(times) else { return };
    if !unit.key {
        return;
    }
    let payloads = pack_h264::pack(&unit, 100).expect("a unit of ours");
    let (mut depacketizer, mut out) = (H264Depacketizer::new(PIXELS_MAX), VecDeque::new());
    for (number, payload) in payloads.iter().enumerate() {
        assert!(payload.len() <= 100);
        let bytes = pack_h264::packet(96, number + 1 == payloads.len(), number as u16, 0, 1, payload);
        let packet = RtpPacket::parse(&bytes).expect("a packet of ours");
        depacketizer.push(&packet, now, None, &mut out);
    }
    let Some(Depacketized::Unit(back)) = out.pop_front() else { panic!("the unit is lost") };
    assert_eq!((back.data, &back.params.codec), (unit.data, &unit.params.codec));
    assert!(out.is_empty());
}

/// A compound RTCP packet.
pub fn rtcp(data: &[u8]) {
    let _ = rtcp::parse(data);
}

/// An RTP packet's header, extensions and padding.
pub fn rtp_header(data: &[u8]) {
    if let Ok(packet) = RtpPacket::parse(data) {
        assert!(packet.payload.len() <= data.len());
        assert!(packet.extensions().map(|(_, value)| value.len()).sum::<usize>() <= data.len());
    }
}

/// An SDP offer, and the answer to it.
pub fn sdp_offer(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Offer::parse(text);
    }
}

/// A message on the WebSocket.
pub fn signal_message(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = FromClient::parse(text);
    }
}

/// A sequence parameter set, read and rewritten for the decoder.
pub fn sps(data: &[u8]) {
    if let Ok(sps) = Sps::parse(data, PIXELS_MAX) {
        assert!(u64::from(sps.width) * u64::from(sps.height) <= PIXELS_MAX);
        assert_eq!(Coding::of(data).map(|coding| coding.coded_pixels), Some(sps.coded_pixels));
    }
    if let Ok(rewritten) = undelayed(data) {
        assert!(rewritten.nal.len() <= data.len() * 2 + 64);
    }
}

/// A STUN message.
pub fn stun(data: &[u8]) {
    if let Ok(mut binding) = Binding::parse(data) {
        let _ = binding.has_integrity_of("a password of 22 chars");
        let _ = binding.error(400, None);
    }
}

/// Frames of VP8, each after two bytes with its length: what their headers say holds, and the decoder takes them or not.
pub fn vp8_frame(data: &[u8]) {
    let (mut units, mut decoder) = (FrameUnits::new(VP8_PIXELS_MAX), None);
    let (mut rest, mut seq) = (data, 0);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (frame, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        rest = after;
        let Ok(mut unit) = units.unit(frame, Clock::manual().now(), Timestamp::video(0)) else { continue };
        assert!(u64::from(unit.params.width) * u64::from(unit.params.height) <= VP8_PIXELS_MAX);
        unit.seq = seq;
        seq += 1;
        let decoder = decoder.get_or_insert_with(|| StreamDecoder::new(VP8_PIXELS_MAX, Metrics::new()));
        match decoder.step(&unit, true) {
            Ok(picture) => {
                let picture = picture.expect("what is wanted is given");
                assert_eq!(picture.y.len() as u32, unit.params.width * unit.params.height);
            }
            Err(DecodeError::Corrupt { why, .. }) => assert_ne!(why, "the decoder gave up"),
            Err(_) => {}
        }
    }
}
