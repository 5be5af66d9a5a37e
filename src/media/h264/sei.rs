//! Supplemental enhancement information (H.264 7.3.2.3 and annex D), as far as it tells where decoding may begin.

use h264_reader::rbsp::{BitRead as _, BitReader, decode_nal};

/// `payloadType` of a recovery point (D.1.8).
const RECOVERY_POINT: usize = 6;
/// Largest SEI that is looked at: what tells of recovery points comes first and is small; captions may be large.
const SEI_BYTES_MAX: usize = 4096;

/// A recovery point: who begins to decode here gets right pictures some time later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// `recovery_frame_cnt`: so many frames later, in decoding order; 0: this one.
    pub after_frames: u32,
    /// `exact_match_flag`: the pictures are then exact, rather than about right.
    pub exact: bool,
}

/// The recovery point in a NAL unit of type 6, header byte included; `None` when there is none, or the unit is damaged.
#[must_use]
pub fn recovery_point(nal: &[u8]) -> Option<RecoveryPoint> {
    let nal = nal.get(..SEI_BYTES_MAX).unwrap_or(nal);
    // The crate takes a header byte for granted.
    let rbsp = (!nal.is_empty()).then(|| decode_nal(nal).ok())??;
    let mut rest: &[u8] = &rbsp;
    // The last byte holds the stop bit.
    while rest.len() > 2 {
        let (kind, after) = number(rest)?;
        let (size, after) = number(after)?;
        if kind == RECOVERY_POINT {
            let mut bits = BitReader::new(after.get(..size)?);
            let after_frames = bits.read_ue("recovery_frame_cnt").ok()?;
            return Some(RecoveryPoint { after_frames, exact: bits.read_bit("exact_match_flag").ok()? });
        }
        rest = after.get(size..)?;
    }
    None
}

/// A number of bytes 0xFF, each worth 255, and a last one (7.3.2.3.1).
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let full = bytes.iter().take_while(|byte| **byte == 0xFF).count();
    let (last, after) = bytes.get(full..)?.split_first()?;
    Some((255 * full + usize::from(*last), after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_recovery_point_is_found_behind_other_messages() {
        // Payload 5 of 3 bytes, then payload 6: 1 | 1 | 0 | 00 and padding.
        let nal = [0x06, 5, 3, 9, 9, 9, 6, 1, 0b1100_0100, 0x80];
        assert_eq!(recovery_point(&nal), Some(RecoveryPoint { after_frames: 0, exact: true }));
        // 00100 is 3; not exact.
        let nal = [0x06, 6, 1, 0b0010_0000, 0x80];
        assert_eq!(recovery_point(&nal), Some(RecoveryPoint { after_frames: 3, exact: false }));
        assert_eq!(recovery_point(&[0x06, 5, 1, 9, 0x80]), None);
        assert_eq!(recovery_point(&[0x06, 5, 200, 9, 0x80]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(nal in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = recovery_point(&nal);
        }
    }
}
