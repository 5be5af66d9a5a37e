//! H.264 into RTP payloads (RFC 6184, packetization mode 1): single NAL unit packets, FU-A for large ones, and the
//! parameter sets in a STAP-A before an IDR picture.

use webrtc_util::marshal::Marshal as _;

use crate::media::h264::framing::{FramingError, avcc_units};
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
/// Never; a `payload_bytes_max` below 16 counts as 16, one above 65535 as that.
pub fn pack(unit: &AccessUnit, payload_bytes_max: usize) -> Result<Vec<Vec<u8>>, FramingError> {
    let most = payload_bytes_max.clamp(16, usize::from(u16::MAX));
    let mut payloads = Vec::with_capacity(unit.data.len() / most + 2);
    if unit.key
        && let Some((sps, pps)) = unit.params.codec.h264_sets()
    {
        let sets: Vec<&[u8]> = sps.iter().chain(pps).map(AsRef::as_ref).collect();
        pack_together(&sets, most, &mut payloads);
    }
    for nal in avcc_units(&unit.data) {
        pack_nal(nal?, most, &mut payloads);
    }
    Ok(payloads)
}

/// Aggregates NAL units as long as they fit into one payload.
fn pack_together(nals: &[&[u8]], most: usize, payloads: &mut Vec<Vec<u8>>) {
    let mut group: Vec<&[u8]> = Vec::new();
    let mut group_bytes = 1;
    for &nal in nals {
        if group_bytes + 2 + nal.len() > most {
            pack_group(&std::mem::take(&mut group), most, payloads);
            group_bytes = 1;
        }
        group.push(nal);
        group_bytes += 2 + nal.len();
    }
    pack_group(&group, most, payloads);
}

/// A NAL unit that is alone needs no aggregation, and is cut when it is too large by itself.
fn pack_group(group: &[&[u8]], most: usize, payloads: &mut Vec<Vec<u8>>) {
    if let [nal] = group {
        pack_nal(nal, most, payloads);
    } else if !group.is_empty() {
        let importance = group.iter().filter_map(|nal| nal.first()).map(|head| head & 0x60).max();
        let mut payload = vec![importance.unwrap_or(0) | STAP_A];
        for nal in group {
            payload.extend_from_slice(&(nal.len() as u16).to_be_bytes());
            payload.extend_from_slice(nal);
        }
        payloads.push(payload);
    }
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
    let header = ::rtp::header::Header {
        version: 2,
        marker,
        payload_type: payload_type & 0x7F,
        sequence_number: sequence,
        timestamp,
        ssrc,
        ..::rtp::header::Header::default()
    };
    // Only header extensions could be wrong, of which there are none.
    let mut bytes = header.marshal().unwrap_or_default().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}
