//! `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 5.3.3.1): parameter sets out of band, as FLV and MP4 carry them.

use bytes::Bytes;

use super::sps::Sps;

/// A record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderConfig<'a> {
    /// Bytes of the length before each NAL unit: 1, 2 or 4 (and 3, which nobody uses).
    pub length_bytes: usize,
    /// Sequence, then picture parameter sets: NAL units without length or start code.
    pub sets: Vec<&'a [u8]>,
}

/// Takes `count` sets, each after a length of two bytes.
fn take_sets<'a>(rest: &mut &'a [u8], count: u8, sets: &mut Vec<&'a [u8]>) -> Option<()> {
    for _ in 0..count {
        let (size, after) = rest.split_first_chunk::<2>()?;
        let (set, after) = after.split_at_checked(u16::from_be_bytes(*size).into())?;
        sets.push(set);
        *rest = after;
    }
    Some(())
}

impl<'a> DecoderConfig<'a> {
    /// Reads a record; `None` when it is of another version, or cut short. What follows the picture parameter sets is
    /// passed over: the sequence parameter sets say it too.
    #[must_use]
    pub fn parse(record: &'a [u8]) -> Option<Self> {
        let ([version, _profile, _compatibility, _level, lengths, count], mut rest) =
            record.split_first_chunk::<6>()?;
        if *version != 1 {
            return None;
        }
        let mut sets = Vec::new();
        take_sets(&mut rest, count & 0x1F, &mut sets)?;
        let (count, after) = rest.split_first()?;
        rest = after;
        take_sets(&mut rest, *count, &mut sets)?;
        Some(Self { length_bytes: usize::from(lengths & 3) + 1, sets })
    }
}

/// A record of these parameter sets, for NAL units after lengths of four bytes; `None` when there is no sequence
/// parameter set, or more or larger ones than the record can hold.
#[must_use]
pub fn decoder_config(sps: &[Bytes], pps: &[Bytes]) -> Option<Vec<u8>> {
    let first = sps.first()?;
    let &[_, profile, compatibility, level, ..] = first.as_ref() else { return None };
    let mut record = vec![1, profile, compatibility, level, 0xFF];
    let sps_count = u8::try_from(sps.len()).ok().filter(|&count| count < 32)?;
    let put = |record: &mut Vec<u8>, sets: &[Bytes]| {
        for set in sets {
            record.extend_from_slice(&u16::try_from(set.len()).ok()?.to_be_bytes());
            record.extend_from_slice(set);
        }
        Some(())
    };
    record.push(0xE0 | sps_count);
    put(&mut record, sps)?;
    record.push(u8::try_from(pps.len()).ok()?);
    put(&mut record, pps)?;
    if matches!(profile, 100 | 110 | 122 | 144)
        && let Ok(read) = Sps::parse(first, u64::MAX)
    {
        let depth = 0xF8 | read.bit_depth.saturating_sub(8) & 7;
        record.extend_from_slice(&[0xFC | read.chroma_format_idc & 3, depth, depth, 0]);
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::h264::tests::{PPS, SPS_640X360};

    #[test]
    fn a_record_is_read_as_it_was_written_and_never_beyond_its_end() {
        let (sps, pps) = (vec![Bytes::from_static(SPS_640X360)], vec![Bytes::from_static(PPS)]);
        let record = decoder_config(&sps, &pps).unwrap();
        assert_eq!(&record[..6], [1, 0x42, 0xC0, 0x1E, 0xFF, 0xE1]);
        let read = DecoderConfig::parse(&record).unwrap();
        assert_eq!(read, DecoderConfig { length_bytes: 4, sets: vec![SPS_640X360, PPS] });
        for length in 0..record.len() {
            assert!(DecoderConfig::parse(&record[..length]).is_none(), "{length}");
        }
        assert!(decoder_config(&[], &pps).is_none());
    }

    #[test]
    fn a_record_of_high_profile_says_its_chroma_and_depth() {
        let high = Bytes::from_static(&[
            0x67, 0x64, 0x00, 0x15, 0xac, 0xd9, 0x41, 0xb1, 0xfe, 0x4f, 0x01, 0x6a, 0x02, 0x02, 0x02, 0x80,
            0x00, 0x00, 0x03, 0x00, 0x80, 0x00, 0x00, 0x1e, 0x07, 0x8b, 0x16, 0xcb,
        ]);
        let record = decoder_config(&[high], &[Bytes::from_static(PPS)]).unwrap();
        assert!(record.ends_with(&[0xFD, 0xF8, 0xF8, 0]), "4:2:0, 8 bits");
        assert_eq!(DecoderConfig::parse(&record).unwrap().sets.len(), 2);
    }
}
