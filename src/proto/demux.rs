//! Which protocol a datagram on a WebRTC port belongs to.
//!
//! STUN, DTLS, RTP and RTCP share one port. The first byte tells them apart (RFC 7983 section 7, which keeps the
//! ranges of RFC 5764 section 5.1.2), and the second one RTP from RTCP (RFC 5761 section 4).

/// What a datagram is, judged by its first two bytes. Nothing else of it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// STUN: first byte 0–3.
    Stun,
    /// DTLS: first byte 20–63.
    Dtls,
    /// RTP or SRTP: first byte 128–191, second byte outside 192–223.
    Rtp,
    /// RTCP or SRTCP: first byte 128–191, second byte (the packet type) 192–223. RTP payload types 64–95 with the
    /// marker set would look the same, so an answer never takes them.
    Rtcp,
}

/// Tells what a datagram is; `None` for ranges that we do not serve (ZRTP, TURN channels, QUIC, nothing at all).
#[must_use]
pub fn kind(datagram: &[u8]) -> Option<Kind> {
    match datagram {
        [0..=3, ..] => Some(Kind::Stun),
        [20..=63, ..] => Some(Kind::Dtls),
        [128..=191, 192..=223, ..] => Some(Kind::Rtcp),
        [128..=191, _, ..] => Some(Kind::Rtp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_belongs_to_one_protocol_or_to_none() {
        let of = |first: u8| kind(&[first, 96]);
        for (range, expected) in [
            (0..=3, Some(Kind::Stun)),
            (4..=19, None),
            (20..=63, Some(Kind::Dtls)),
            (64..=127, None),
            (128..=191, Some(Kind::Rtp)),
            (192..=255, None),
        ] {
            for first in range {
                assert_eq!(of(first), expected, "{first}");
            }
        }
    }

    #[test]
    fn a_payload_type_with_marker_is_not_taken_for_a_report() {
        assert_eq!(kind(&[0x80, 0x80 | 63]), Some(Kind::Rtp));
        assert_eq!(kind(&[0x80, 0x80 | 96]), Some(Kind::Rtp));
        assert_eq!(kind(&[0x80, 200]), Some(Kind::Rtcp));
        assert_eq!(kind(&[0x80]), None, "too short to tell");
        assert_eq!(kind(&[]), None);
    }
}
