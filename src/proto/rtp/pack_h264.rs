//! H.264 into RTP payloads (RFC 6184, packetization mode 1): single NAL unit packets, FU-A for large ones, and the
//! parameter sets in a STAP-A before an IDR picture, and before any other with which they change.

use std::sync::Arc;

use bytes::Bytes;
use webrtc_util::marshal::Marshal as _;

use super::payload::Payload;
use crate::media::h264::framing::{FramingError, avcc_units};
use crate::media::track::VideoParams;
use crate::media::unit::AccessUnit;

/// Payload bytes that pass everywhere: an IPv6 path of 1280 bytes less the headers of IP, UDP, RTP with extensions,
/// and the SRTP tag.
pub const PAYLOAD_BYTES_MAX: usize = 1200;

/// What a picture's last packet has more of header extensions than the others: the orientation, filled up to a word.
const LAST_EXTENSION_BYTES: usize = 4;

const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Cuts the pictures of one stream for one receiver, and knows which parameter sets it has.
#[derive(Debug, Default)]
pub struct H264Packer {
    told: Option<Arc<VideoParams>>,
}

impl H264Packer {
    /// As [`cut`]; parameter sets go before a picture, too, with which they differ from those sent before. Picture parameter sets may
    /// come and change at any picture (H.264 7.4.1.2.1).
    ///
    /// # Errors
    /// As [`cut`].
    pub fn cut(&mut self, unit: &AccessUnit, payload_bytes_max: usize) -> Result<Vec<Payload>, FramingError> {
        let is_told =
            |told: &Arc<VideoParams>| Arc::ptr_eq(told, &unit.params) || told.codec == unit.params.codec;
        let needs_sets = unit.key || !self.told.as_ref().is_some_and(is_told);
        let payloads = cut_behind_sets(unit, needs_sets, payload_bytes_max)?;
        self.told = Some(unit.params.clone());
        Ok(payloads)
    }
}

/// [`cut`], with the bytes of each payload in one piece.
///
/// # Errors
/// As [`cut`].
pub fn pack(unit: &AccessUnit, payload_bytes_max: usize) -> Result<Vec<Vec<u8>>, FramingError> {
    Ok(cut(unit, payload_bytes_max)?.iter().map(Payload::to_vec).collect())
}

/// Cuts an access unit into payloads of at most `payload_bytes_max` bytes, in sending order. The last one takes the
/// marker bit. An IDR picture brings its parameter sets. The picture is not copied.
///
/// # Errors
/// When the unit's lengths do not add up.
///
/// # Panics
/// Never; a `payload_bytes_max` below 16 counts as 16, one above 65535 as that.
pub fn cut(unit: &AccessUnit, payload_bytes_max: usize) -> Result<Vec<Payload>, FramingError> {
    cut_behind_sets(unit, unit.key, payload_bytes_max)
}

fn cut_behind_sets(
    unit: &AccessUnit,
    needs_sets: bool,
    payload_bytes_max: usize,
) -> Result<Vec<Payload>, FramingError> {
    let most = payload_bytes_max.clamp(16, usize::from(u16::MAX));
    let mut payloads = Vec::with_capacity(unit.data.len() / most + 2);
    if needs_sets && let Some((sps, pps)) = unit.params.codec.h264_sets() {
        let sets: Vec<Bytes> = sps.iter().chain(pps).cloned().collect();
        pack_together(&sets, most, &mut payloads);
    }
    for nal in avcc_units(&unit.data) {
        pack_nal(&unit.data.slice_ref(nal?), most, &mut payloads);
    }
    Ok(payloads)
}

/// Aggregates NAL units as long as they fit into one payload.
fn pack_together(nals: &[Bytes], most: usize, payloads: &mut Vec<Payload>) {
    let mut group: Vec<&Bytes> = Vec::new();
    let mut group_bytes = 1;
    for nal in nals {
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
fn pack_group(group: &[&Bytes], most: usize, payloads: &mut Vec<Payload>) {
    if let [nal] = group {
        pack_nal(nal, most, payloads);
    } else if !group.is_empty() {
        let importance = group.iter().filter_map(|nal| nal.first()).map(|head| head & 0x60).max();
        let mut units = Vec::new();
        for nal in group {
            units.extend_from_slice(&(nal.len() as u16).to_be_bytes());
            units.extend_from_slice(nal);
        }
        payloads.push(Payload::new(&[importance.unwrap_or(0) | STAP_A], units.into()));
    }
}

fn pack_nal(nal: &Bytes, most: usize, payloads: &mut Vec<Payload>) {
    if nal.len() <= most {
        payloads.push(Payload::new(&[], nal.clone()));
        return;
    }
    let Some((&head, body)) = nal.split_first() else { return };
    let piece_bytes = piece_bytes(body.len(), most - 2);
    for (position, piece) in body.chunks(piece_bytes).enumerate() {
        let start = if position == 0 { 0x80 } else { 0 };
        let end = if (position + 1) * piece_bytes >= body.len() { 0x40 } else { 0 };
        let front = [head & 0xE0 | FU_A, start | end | head & 0x1F];
        payloads.push(Payload::new(&front, nal.slice_ref(piece)));
    }
}

/// How large the pieces of `bytes` are, of at most `most` each: nearly equal, since a last one of a few bytes costs as much as a
/// full one. The last one is shorter by what it bears alone of header extensions ([`LAST_EXTENSION_BYTES`]), so that its
/// packet is no larger than the others: then all of them leave in one system call.
pub(super) fn piece_bytes(bytes: usize, most: usize) -> usize {
    match bytes.div_ceil(most) {
        0 | 1 => bytes.max(1),
        // Where a few bytes more would make another piece, they are not worth it.
        pieces => (bytes + LAST_EXTENSION_BYTES).div_ceil(pieces).min(most),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fit_and_the_last_one_has_room_for_its_extension() {
        for most in [12, 100, 1198] {
            for bytes in 1..6000 {
                let size = piece_bytes(bytes, most);
                assert!((1..=most).contains(&size), "{bytes} in pieces of {size}");
                let pieces = bytes.div_ceil(size);
                assert_eq!(pieces, bytes.div_ceil(most), "{bytes} in pieces of {size}");
                let last = bytes - (pieces - 1) * size;
                let is_tight = pieces * most < bytes + LAST_EXTENSION_BYTES;
                assert!(
                    pieces == 1 || is_tight || last + LAST_EXTENSION_BYTES <= size,
                    "{bytes} end with {last}"
                );
            }
        }
    }
}
