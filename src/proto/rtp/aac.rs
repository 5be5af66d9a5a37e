//! AAC in RTP (RFC 3640, modes AAC-hbr and AAC-lbr): payloads into raw data blocks and back.

use thiserror::Error;

/// Samples of one access unit of AAC; all profiles but low delay have it (ISO/IEC 14496-3 section 4.5.1.1).
pub const SAMPLES_PER_UNIT: u32 = 1024;
/// Most access units in one packet; encoders put up to about ten.
const UNITS_MAX: usize = 64;
/// Largest access unit: 6144 bits a channel (ISO/IEC 14496-3 section 4.5.3.1), 48 channels at most; `sizeLength` of AAC-hbr
/// has 13 bits.
pub const AAC_UNIT_BYTES_MAX: usize = 8191;

/// Sizes of the fields of a header, in bits (RFC 3640 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderBits {
    /// `sizeLength`.
    pub size: u8,
    /// `indexLength`.
    pub index: u8,
    /// `indexDeltaLength`.
    pub index_delta: u8,
}

/// Why a payload was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AacError {
    /// Lengths lead out of the payload, or there are none.
    #[error("aac payload is damaged")]
    Damaged,
    /// More than [`AAC_UNIT_BYTES_MAX`].
    #[error("aac access unit of {0} bytes")]
    TooLarge(usize),
    /// A fragment whose beginning is missing or which does not fit it.
    #[error("aac fragment without its beginning")]
    Fragment,
    /// Units in another order than they are played (RFC 3640 section 3.2.3.2), which no encoder for live streams does.
    #[error("interleaved aac is not supported")]
    Interleaved,
}

/// Payloads of one source in sending order in, access units out.
#[derive(Debug)]
pub struct AacDepacketizer {
    bits: HeaderBits,
    /// A unit whose fragments are not all there: its RTP time, its whole size, what came.
    fragment: Option<(u32, usize, Vec<u8>)>,
}

impl AacDepacketizer {
    /// A depacketizer for headers of this layout.
    #[must_use]
    pub fn new(bits: HeaderBits) -> Self {
        Self { bits, fragment: None }
    }

    /// Tells that packets before the next one never came.
    pub fn mark_lost(&mut self) {
        self.fragment = None;
    }

    /// Takes a payload. Each access unit that it completes is given to `take` with its place behind the packet's time,
    /// in samples.
    ///
    /// # Errors
    /// When the payload cannot be used; units before the damaged one were taken.
    pub fn push(
        &mut self,
        timestamp: u32,
        payload: &[u8],
        mut take: impl FnMut(u32, &[u8]),
    ) -> Result<(), AacError> {
        let (&[l0, l1], after) = payload.split_first_chunk::<2>().ok_or(AacError::Damaged)?;
        let header_bits = usize::from(u16::from_be_bytes([l0, l1]));
        let (headers, mut data) = after.split_at_checked(header_bits.div_ceil(8)).ok_or(AacError::Damaged)?;
        let mut headers = Bits { bytes: headers, at: 0, end: header_bits };
        let mut number = 0;
        while let Some(size) = headers.take(self.bits.size) {
            let size = usize::try_from(size).map_err(|_| AacError::Damaged)?;
            let step_bits = if number == 0 { self.bits.index } else { self.bits.index_delta };
            let step = headers.take(step_bits).ok_or(AacError::Damaged)?;
            if step != 0 {
                return Err(AacError::Interleaved);
            }
            if number >= UNITS_MAX || size == 0 {
                return Err(AacError::Damaged);
            }
            if size > AAC_UNIT_BYTES_MAX {
                return Err(AacError::TooLarge(size));
            }
            let Some((unit, rest)) = data.split_at_checked(size) else {
                // A fragment is alone in its packet, and its header tells the size of the whole (section 3.2.3.1).
                let is_alone = number == 0 && headers.is_empty();
                return if is_alone {
                    self.take_fragment(timestamp, size, data, take)
                } else {
                    Err(AacError::Damaged)
                };
            };
            data = rest;
            self.fragment = None;
            take(SAMPLES_PER_UNIT.saturating_mul(u32::try_from(number).unwrap_or(0)), unit);
            number += 1;
        }
        if number == 0 { Err(AacError::Damaged) } else { Ok(()) }
    }

    fn take_fragment(
        &mut self,
        timestamp: u32,
        size: usize,
        piece: &[u8],
        mut take: impl FnMut(u32, &[u8]),
    ) -> Result<(), AacError> {
        let mut gathered = match self.fragment.take() {
            Some((time, whole, gathered)) if time == timestamp && whole == size => gathered,
            _ => Vec::with_capacity(size),
        };
        if gathered.len() + piece.len() > size || piece.is_empty() {
            return Err(AacError::Fragment);
        }
        gathered.extend_from_slice(piece);
        if gathered.len() == size {
            take(0, &gathered);
        } else {
            self.fragment = Some((timestamp, size, gathered));
        }
        Ok(())
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Bits<'_> {
    fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// The next bits as a number; `None` when fewer are left.
    fn take(&mut self, count: u8) -> Option<u64> {
        let count = usize::from(count);
        if self.at + count > self.end {
            return None;
        }
        let mut value = 0_u64;
        for bit in self.at..self.at + count {
            let byte = *self.bytes.get(bit / 8)?;
            value = value << 1 | u64::from(byte >> (7 - bit % 8) & 1);
        }
        self.at += count;
        Some(value)
    }
}

/// Cuts one access unit into payloads of AAC-hbr with at most `payload_bytes_max` bytes; the last one takes the marker
/// bit. Nothing comes of a unit that is empty or larger than [`AAC_UNIT_BYTES_MAX`].
#[must_use]
pub fn pack(unit: &[u8], payload_bytes_max: usize) -> Vec<Vec<u8>> {
    if unit.is_empty() || unit.len() > AAC_UNIT_BYTES_MAX {
        return Vec::new();
    }
    // 16 bits of headers: 13 of size, 3 of index.
    let [high, low] = ((unit.len() as u16) << 3).to_be_bytes();
    let pieces = unit.chunks(payload_bytes_max.saturating_sub(4).max(16));
    pieces
        .map(|piece| {
            let mut payload = Vec::with_capacity(piece.len() + 4);
            payload.extend_from_slice(&[0, 16, high, low]);
            payload.extend_from_slice(piece);
            payload
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HBR: HeaderBits = HeaderBits { size: 13, index: 3, index_delta: 3 };

    fn units(
        depacketizer: &mut AacDepacketizer,
        timestamp: u32,
        payload: &[u8],
    ) -> Result<Vec<(u32, Vec<u8>)>, AacError> {
        let mut units = Vec::new();
        depacketizer.push(timestamp, payload, |at, unit| units.push((at, unit.to_vec())))?;
        Ok(units)
    }

    #[test]
    fn several_units_of_a_packet_follow_each_other_by_their_samples() {
        let mut depacketizer = AacDepacketizer::new(HBR);
        let payload = [&[0, 32, 0, 2 << 3, 0, 3 << 3][..], b"ab", b"cde"].concat();
        let read = units(&mut depacketizer, 7, &payload).unwrap();
        assert_eq!(read, [(0, b"ab".to_vec()), (1024, b"cde".to_vec())]);
    }

    #[test]
    fn a_unit_comes_back_from_its_fragments_and_not_without_one_of_them() {
        let unit: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
        let packed = pack(&unit, 1200);
        assert_eq!(packed.len(), 5);
        let mut depacketizer = AacDepacketizer::new(HBR);
        let read: Vec<_> =
            packed.iter().flat_map(|payload| units(&mut depacketizer, 9, payload).unwrap()).collect();
        assert_eq!(read, [(0, unit.clone())]);
        for (number, payload) in packed.iter().enumerate() {
            if number == 2 {
                depacketizer.mark_lost();
            } else {
                assert!(units(&mut depacketizer, 9, payload).unwrap_or_default().is_empty());
            }
        }
        let whole = units(&mut depacketizer, 1033, &pack(b"next", 1200)[0]).unwrap();
        assert_eq!(whole, [(0, b"next".to_vec())], "what was left of it does no harm");
    }

    #[test]
    fn sizes_that_lead_out_of_the_payload_are_refused() {
        let mut depacketizer = AacDepacketizer::new(HBR);
        for bad in [
            &[][..],
            &[0],
            &[0, 0],
            &[0, 16, 0],
            &[255, 255, 1, 2, 3],
            &[0, 16, 0, 0],
            &[0, 16, 0, 1 << 3 | 1, 9],
        ] {
            assert!(units(&mut depacketizer, 0, bad).is_err(), "{bad:?}");
        }
        let two = [&[0, 32, 0, 2 << 3, 2, 208][..], b"abc"].concat();
        assert_eq!(units(&mut depacketizer, 0, &two), Err(AacError::Damaged), "the second is cut short");
        let wide = AacDepacketizer::new(HeaderBits { size: 32, index: 0, index_delta: 0 });
        let mut wide = wide;
        assert_eq!(
            units(&mut wide, 0, &[0, 32, 255, 255, 255, 255, 0]),
            Err(AacError::TooLarge(u32::MAX as usize))
        );
    }
}
