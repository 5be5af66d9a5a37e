//! H.264 into RTP payloads (RFC 6184, packetization mode 1): single NAL unit packets, FU-A for large ones, and the
//! parameter sets in a STAP-A before an IDR picture.

use crate::media::h264::framing::{FramingError, avcc_units};
use crate::media::track::VideoCodec;
use crate::media::unit::AccessUnit;

/// Payload bytes that pass everywhere: an IPv6 path of 1280 bytes less the headers of IP, UDP, RTP with extensions,
/// and the SRTP tag.
pub const PAYLOAD_BYTES_MAX: usize = 1200;

const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Cuts an access unit into payloads of at most `payload_bytes_max` bytes, in sending order. The last one takes the
/// marker bit. An IDR picture brings its parameter sets.
///
/// # Errors
/// When the unit's lengths do not add up.
///
/// # Panics
/// Never; a `payload_bytes_max` below 16 counts as 16.
pub fn pack(unit: &AccessUnit, payload_bytes_max: usize) -> Result<Vec<Vec<u8>>, FramingError> {
    let most = payload_bytes_max.max(16);
    let mut payloads = Vec::with_capacity(unit.data.len() / most + 2);
    if unit.key {
        let VideoCodec::H264 { sps, pps } = &unit.params.codec;
        let sets: Vec<&[u8]> = sps.iter().chain(pps).map(AsRef::as_ref).collect();
        pack_together(&sets, most, &mut payloads);
    }
    for nal in avcc_units(&unit.data) {
        pack_nal(nal?, most, &mut payloads);
    }
    Ok(payloads)
}

/// Aggregates small NAL units; those that do not fit go on their own.
fn pack_together(nals: &[&[u8]], most: usize, payloads: &mut Vec<Vec<u8>>) {
    let mut stap = Vec::new();
    let mut count = 0;
    let mut importance = 0;
    let mut flush = |stap: &mut Vec<u8>, count: &mut usize, importance: &mut u8| {
        if *count == 1 {
            // Alone it needs no aggregation: without type byte and size it is the NAL unit.
            payloads.push(stap.split_off(3));
        } else if *count > 1 {
            if let Some(head) = stap.first_mut() {
                *head = *importance | STAP_A;
            }
            payloads.push(std::mem::take(stap));
        }
        stap.clear();
        (*count, *importance) = (0, 0);
    };
    for nal in nals {
        if stap.len() + 3 + nal.len() > most {
            flush(&mut stap, &mut count, &mut importance);
        }
        let Ok(size) = u16::try_from(nal.len()) else { continue };
        if stap.is_empty() {
            stap.push(0);
        }
        stap.extend_from_slice(&size.to_be_bytes());
        stap.extend_from_slice(nal);
        importance = importance.max(nal.first().map_or(0, |head| head & 0x60));
        count += 1;
    }
    flush(&mut stap, &mut count, &mut importance);
}

fn pack_nal(nal: &[u8], most: usize, payloads: &mut Vec<Vec<u8>>) {
    if nal.len() <= most {
        payloads.push(nal.to_vec());
        return;
    }
    let Some((&head, body)) = nal.split_first() else { return };
    // Pieces of nearly equal size: a last one of a few bytes costs as much as a full one.
    let pieces = body.len().div_ceil(most - 2);
    let piece_bytes = body.len().div_ceil(pieces);
    for (position, piece) in body.chunks(piece_bytes).enumerate() {
        let start = if position == 0 { 0x80 } else { 0 };
        let end = if (position + 1) * piece_bytes >= body.len() { 0x40 } else { 0 };
        let mut payload = Vec::with_capacity(piece.len() + 2);
        payload.extend_from_slice(&[head & 0xE0 | FU_A, start | end | head & 0x1F]);
        payload.extend_from_slice(piece);
        payloads.push(payload);
    }
}

/// Writes an RTP header with no extension in front of a payload.
#[must_use]
pub fn packet(
    payload_type: u8,
    marker: bool,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(super::header::HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&[0x80, u8::from(marker) << 7 | payload_type & 0x7F]);
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&timestamp.to_be_bytes());
    bytes.extend_from_slice(&ssrc.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
