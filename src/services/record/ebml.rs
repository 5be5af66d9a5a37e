//! Elements of EBML (RFC 8794): what little WebM files need of it.

pub(super) const SEGMENT: &[u8] = &[0x18, 0x53, 0x80, 0x67];
pub(super) const INFO: &[u8] = &[0x15, 0x49, 0xA9, 0x66];
pub(super) const TIMESTAMP_SCALE: &[u8] = &[0x2A, 0xD7, 0xB1];
pub(super) const DURATION: &[u8] = &[0x44, 0x89];
pub(super) const DATE_UTC: &[u8] = &[0x44, 0x61];
pub(super) const MUXING_APP: &[u8] = &[0x4D, 0x80];
pub(super) const WRITING_APP: &[u8] = &[0x57, 0x41];
pub(super) const TRACKS: &[u8] = &[0x16, 0x54, 0xAE, 0x6B];
pub(super) const TRACK_ENTRY: &[u8] = &[0xAE];
pub(super) const TRACK_NUMBER: &[u8] = &[0xD7];
pub(super) const TRACK_UID: &[u8] = &[0x73, 0xC5];
pub(super) const TRACK_TYPE: &[u8] = &[0x83];
pub(super) const FLAG_LACING: &[u8] = &[0x9C];
pub(super) const CODEC_ID: &[u8] = &[0x86];
pub(super) const CODEC_PRIVATE: &[u8] = &[0x63, 0xA2];
pub(super) const CODEC_DELAY: &[u8] = &[0x56, 0xAA];
pub(super) const SEEK_PRE_ROLL: &[u8] = &[0x56, 0xBB];
pub(super) const VIDEO: &[u8] = &[0xE0];
pub(super) const PIXEL_WIDTH: &[u8] = &[0xB0];
pub(super) const PIXEL_HEIGHT: &[u8] = &[0xBA];
pub(super) const PROJECTION: &[u8] = &[0x76, 0x70];
pub(super) const PROJECTION_TYPE: &[u8] = &[0x76, 0x71];
pub(super) const PROJECTION_ROLL: &[u8] = &[0x76, 0x75];
pub(super) const AUDIO: &[u8] = &[0xE1];
pub(super) const SAMPLING_FREQUENCY: &[u8] = &[0xB5];
pub(super) const CHANNELS: &[u8] = &[0x9F];
pub(super) const CLUSTER: &[u8] = &[0x1F, 0x43, 0xB6, 0x75];
pub(super) const TIMESTAMP: &[u8] = &[0xE7];
pub(super) const SIMPLE_BLOCK: &[u8] = &[0xA3];
pub(super) const CUES: &[u8] = &[0x1C, 0x53, 0xBB, 0x6B];
const VOID: u8 = 0xEC;

/// A size that is not known: up to the end of the file.
pub(super) const UNKNOWN_SIZE: [u8; 8] = [0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];

/// Makes elements.
pub(super) struct Element;

impl Element {
    /// An element of these bytes.
    pub(super) fn binary(id: &[u8], body: &[u8]) -> Vec<u8> {
        let mut bytes = id.to_vec();
        let size = body.len() as u64;
        // The shortest of the lengths in use; all ones means unknown.
        match size {
            0..0x7F => bytes.push(0x80 | size as u8),
            0x7F..0x0FFF_FFFF => bytes.extend_from_slice(&(0x1000_0000 | size as u32).to_be_bytes()),
            _ => bytes.extend_from_slice(&size_in_eight(size)),
        }
        bytes.extend_from_slice(body);
        bytes
    }

    /// An element of a number, in as few bytes as it needs.
    pub(super) fn uint(id: &[u8], value: u64) -> Vec<u8> {
        let bytes = value.to_be_bytes();
        let zeros = (value.leading_zeros() / 8).min(7) as usize;
        Self::binary(id, bytes.get(zeros..).unwrap_or_default())
    }
}

/// A size in eight bytes.
pub(super) fn size_in_eight(size: u64) -> [u8; 8] {
    (0x0100_0000_0000_0000 | size).to_be_bytes()
}

/// An element that means nothing, of so many bytes in all, 9 at least.
pub(super) fn void(bytes: usize) -> Vec<u8> {
    let mut void = vec![VOID];
    void.extend_from_slice(&size_in_eight((bytes as u64).saturating_sub(9)));
    void.resize(bytes.max(9), 0);
    void
}

/// Id, length of the body and length of the head of the element at the beginning of `bytes`; `None` where there is none.
pub(super) fn element_head(bytes: &[u8]) -> Option<(&[u8], u64, usize)> {
    let id_length = bytes.first()?.leading_zeros() as usize + 1;
    let (id, rest) = bytes.split_at_checked(id_length).filter(|_| id_length <= 4)?;
    let first = *rest.first()?;
    let length = first.leading_zeros() as usize + 1;
    let size = rest.get(..length).filter(|_| length <= 8)?;
    let marker = 0x80_u8 >> (length - 1);
    let value =
        size[1..].iter().fold(u64::from(first & !marker), |value, byte| value << 8 | u64::from(*byte));
    Some((id, value, id_length + length))
}

/// The children of an element; it ends where one does not fit.
pub(super) fn children(body: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (id, length, head) = element_head(rest)?;
        let end = usize::try_from(length).ok()?.checked_add(head)?;
        let child = rest.get(head..end)?;
        rest = rest.get(end..)?;
        Some((id, child))
    })
}
