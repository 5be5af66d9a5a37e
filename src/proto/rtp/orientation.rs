//! Coordination of video orientation: header extension `urn:3gpp:video-orientation` (3GPP TS 26.114 section 7.4.5).

use crate::media::track::Rotation;

/// Reads the extension's value, one byte `0000 C F R1 R0`.
///
/// The direction: a picture turned counter-clockwise by 90 degrees on its way is announced as 1, and the receiver turns
/// it back, clockwise. So the two lowest bits count the clockwise quarter turns to apply before showing, which is how
/// browsers send and read it.
///
/// Which camera (C) it was does not concern us. Browsers neither set nor heed the mirror bit (F); a mirrored picture
/// stays as it was sent. The form with six bits of angle (`urn:3gpp:video-orientation:6`) is another extension.
#[must_use]
pub fn rotation(value: &[u8]) -> Option<Rotation> {
    Some(match value.first()? & 3 {
        0 => Rotation::None,
        1 => Rotation::Cw90,
        2 => Rotation::Cw180,
        _ => Rotation::Cw270,
    })
}

/// The extension's value for a rotation.
#[must_use]
pub fn value(rotation: Rotation) -> u8 {
    match rotation {
        Rotation::None => 0,
        Rotation::Cw90 => 1,
        Rotation::Cw180 => 2,
        Rotation::Cw270 => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_lowest_bits_turn() {
        assert_eq!(rotation(&[0b0000_1101]), Some(Rotation::Cw90));
        assert_eq!(rotation(&[0b0000_0011]), Some(Rotation::Cw270));
        assert_eq!(rotation(&[]), None);
        for turned in [Rotation::None, Rotation::Cw90, Rotation::Cw180, Rotation::Cw270] {
            assert_eq!(rotation(&[value(turned)]), Some(turned));
        }
    }
}
