//! The RTP packet: fixed header, contributing sources, header extensions, padding (RFC 3550 section 5.1, RFC 8285).

use thiserror::Error;

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 12;

/// `defined by profile` of one-byte extension headers (RFC 8285 section 4.2).
const PROFILE_ONE_BYTE: u16 = 0xBEDE;
/// The same of two-byte headers, without the four application bits (RFC 8285 section 4.3).
const PROFILE_TWO_BYTE: u16 = 0x1000;

/// Why a packet cannot be read as RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Fewer bytes than the header says there are.
    #[error("rtp packet of {0} bytes is cut short")]
    Short(usize),
    /// The two version bits are not 2.
    #[error("rtp version {0}")]
    Version(u8),
    /// The padding count is zero or larger than what is there.
    #[error("rtp padding of {0} bytes")]
    Padding(u8),
}

/// A packet that was checked: every length in it lies inside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpPacket<'a> {
    /// The last packet of a frame of video, the first after silence for sound (RFC 3551).
    pub marker: bool,
    /// Payload type, 7 bits.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Time in ticks of the payload's clock.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// Payload without padding; may be empty.
    pub payload: &'a [u8],
    extension_profile: u16,
    extension: &'a [u8],
}

impl<'a> RtpPacket<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// When it is not RTP version 2 or a length leads out of it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let mut packet = Self::parse_header(bytes)?;
        if bytes.first().is_some_and(|flags| flags & 0x20 != 0) {
            let &count = packet.payload.last().ok_or(HeaderError::Padding(0))?;
            let kept = packet.payload.len().checked_sub(usize::from(count)).filter(|_| count > 0);
            let payload = kept.and_then(|kept| packet.payload.get(..kept));
            packet.payload = payload.ok_or(HeaderError::Padding(count))?;
        }
        Ok(packet)
    }

    /// Reads what is in clear in an encrypted packet (RFC 3711 section 3.1): `payload` is then cipher text, padding
    /// and authentication tag.
    ///
    /// # Errors
    /// As [`RtpPacket::parse`], without what concerns padding.
    pub fn parse_header(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let short = HeaderError::Short(bytes.len());
        let (&[flags, second, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3], mut rest) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        if flags >> 6 != 2 {
            return Err(HeaderError::Version(flags >> 6));
        }
        let contributors_bytes = usize::from(flags & 0x0F) * 4;
        rest = rest.get(contributors_bytes..).ok_or(short)?;
        let (mut extension_profile, mut extension): (u16, &[u8]) = (0, &[]);
        if flags & 0x10 != 0 {
            let (&[p0, p1, l0, l1], after) = rest.split_first_chunk::<4>().ok_or(short)?;
            let extension_bytes = usize::from(u16::from_be_bytes([l0, l1])) * 4;
            extension_profile = u16::from_be_bytes([p0, p1]);
            (extension, rest) = after.split_at_checked(extension_bytes).ok_or(short)?;
        }
        Ok(Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7F,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([r0, r1, r2, r3]),
            payload: rest,
            extension_profile,
            extension,
        })
    }

    /// The value of a header extension element; `None` where the packet does not carry it. Damaged elements end
    /// the search: what lies behind them cannot be found.
    #[must_use]
    pub fn extension(&self, id: u8) -> Option<&'a [u8]> {
        self.extensions().find(|element| element.0 == id).map(|element| element.1)
    }

    /// All header extension elements as (identifier, value).
    pub fn extensions(&self) -> Extensions<'a> {
        let form = match self.extension_profile {
            PROFILE_ONE_BYTE => Form::OneByte,
            profile if profile & 0xFFF0 == PROFILE_TWO_BYTE => Form::TwoByte,
            _ => Form::Unknown,
        };
        Extensions { rest: self.extension, form }
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
    Unknown,
}

/// Walks the header extension elements of a packet.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    rest: &'a [u8],
    form: Form,
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&first, after) = self.rest.split_first()?;
            if first == 0 {
                // A padding byte, in either form.
                self.rest = after;
                continue;
            }
            let (id, size, after) = match self.form {
                // Identifier 15 ends the list (RFC 8285 section 4.2).
                Form::OneByte if first >> 4 == 15 => return None,
                Form::OneByte => (first >> 4, usize::from(first & 0x0F) + 1, after),
                Form::TwoByte => {
                    let (&size, after) = after.split_first()?;
                    (first, usize::from(size), after)
                }
                Form::Unknown => return None,
            };
            let (value, rest) = after.split_at_checked(size)?;
            self.rest = rest;
            return Some((id, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(extension: &[u8], payload: &[u8]) -> Vec<u8> {
        let flags = if extension.is_empty() { 0x80 } else { 0x90 };
        let mut bytes = vec![flags, 0xE0, 0x12, 0x34, 0, 0, 0, 9, 0, 0, 0, 7];
        bytes.extend_from_slice(extension);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn extensions_are_found_in_both_forms() {
        let one = packet(&[0xBE, 0xDE, 0, 2, 0x10, 0xAA, 0, 0x32, 1, 2, 3, 0], b"x");
        let read = RtpPacket::parse(&one).unwrap();
        assert_eq!((read.extension(1), read.extension(3)), (Some(&[0xAA][..]), Some(&[1, 2, 3][..])));
        assert_eq!((read.extension(2), read.payload), (None, &b"x"[..]));
        assert!(read.marker && read.payload_type == 96 && read.sequence == 0x1234);
        assert_eq!((read.timestamp, read.ssrc), (9, 7));

        let two = packet(&[0x10, 0x05, 0, 2, 20, 1, 0xBB, 0, 21, 0, 0, 0], b"");
        let read = RtpPacket::parse(&two).unwrap();
        assert_eq!((read.extension(20), read.extension(21)), (Some(&[0xBB][..]), Some(&[][..])));
    }

    #[test]
    fn an_extension_that_runs_over_ends_the_search() {
        let bytes = packet(&[0xBE, 0xDE, 0, 1, 0x10, 0xAA, 0x2F, 1], b"x");
        let read = RtpPacket::parse(&bytes).unwrap();
        assert_eq!(read.extensions().count(), 1);
        let ended = packet(&[0xBE, 0xDE, 0, 1, 0xF0, 0x10, 0x10, 1], b"x");
        assert_eq!(RtpPacket::parse(&ended).unwrap().extensions().count(), 0, "identifier 15 ends the list");
    }

    #[test]
    fn lengths_that_lead_out_of_the_packet_are_refused() {
        assert_eq!(RtpPacket::parse(&[0x80; 11]), Err(HeaderError::Short(11)));
        assert_eq!(RtpPacket::parse(&[0x40; 12]), Err(HeaderError::Version(1)));
        let mut contributors = packet(&[], &[0; 8]);
        contributors[0] |= 3;
        assert!(RtpPacket::parse(&contributors).is_err());
        assert!(RtpPacket::parse(&packet(&[0xBE, 0xDE, 0, 9, 0, 0, 0, 0], b"")).is_err());
        let padded = |payload: &[u8]| {
            let mut bytes = packet(&[], payload);
            bytes[0] |= 0x20;
            RtpPacket::parse(&bytes).map(|p| p.payload.len())
        };
        assert_eq!(padded(&[0, 0, 3]), Ok(0), "nothing but padding");
        assert_eq!(padded(&[1, 2, 2]), Ok(1));
        assert_eq!(
            (padded(&[0, 0, 4]), padded(&[0])),
            (Err(HeaderError::Padding(4)), Err(HeaderError::Padding(0)))
        );
        assert_eq!(padded(&[]), Err(HeaderError::Padding(0)));
    }
}
