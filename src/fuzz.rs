//! Each parser of outside bytes as a function of bytes, for `tests/fuzz` and for the ordinary test over its corpora.
//!
//! A function here panics when the parser breaks its promise, and for no other reason. Not part of the API.

use std::path::Path;

use crate::conf::written;
use crate::edge::http::body::BodyCollector;
use crate::edge::http::{HttpSettings, head};
use crate::media::h264::assemble::UnitBuilder;
use crate::media::h264::sps::Sps;
use crate::media::h264::undelayed::undelayed;
use crate::media::h264::{framing, slice::SliceStart};
use crate::proto::rtp::header::RtpPacket;
use crate::proto::sdp::offer::Offer;
use crate::proto::signal::message::FromClient;
use crate::proto::stun::Binding;

/// Most pixels of a picture in fuzzing: the default of the configuration.
const PIXELS_MAX: u64 = 8192 * 4352;

/// A target: its name, which is also the folder of its corpus, and what it does with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("avcc", avcc),
    ("h264_units", h264_units),
    ("http_body", http_body),
    ("http_head", http_head),
    ("properties", properties),
    ("rtp_header", rtp_header),
    ("sdp_offer", sdp_offer),
    ("signal_message", signal_message),
    ("sps", sps),
    ("stun", stun),
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
    }
}

/// A stream of NAL units into access units.
pub fn h264_units(data: &[u8]) {
    let mut builder = UnitBuilder::new(PIXELS_MAX);
    for (number, nal) in framing::annex_b_units(data).enumerate() {
        builder.push(nal);
        if number % 3 == 2 {
            builder.discard();
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

/// A properties file.
pub fn properties(data: &[u8]) {
    if let Ok(entries) = written::parse_file(Path::new("fuzz.properties"), data) {
        for entry in entries {
            let _ = written::nearest(&entry.name);
        }
    }
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
