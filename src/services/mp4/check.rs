//! What an index or the head of a fragment may ask for, looked at before anything is allocated for it.
//!
//! The crate that decodes boxes makes a value of each entry, and of each box that it does not know. So entries and boxes are counted
//! first, by a walk over the bytes that makes nothing.

use super::boxes::children;
use super::{Mp4Error, SAMPLES_MAX, format_error};

/// Most samples of the runs of one fragment whose entries say nothing of each (ISO/IEC 14496-12 section 8.8.8): nothing backs
/// their number.
const UNBACKED_SAMPLES_MAX: u64 = 65_536;
/// Most boxes of an index, whatever they are.
const BOXES_MAX: usize = 20_000;
/// Most bytes of what describes the codecs of a track, with boxes inside that are not counted.
const DESCRIPTION_BYTES_MAX: usize = 1 << 20;
/// Boxes within boxes: `moov/trak/mdia/minf/stbl` are five.
const DEPTH_MAX: usize = 8;

/// Looks at the number of samples of each run in a `moof`, whose payload this is.
pub(super) fn check_runs(moof: &[u8]) -> Result<(), Mp4Error> {
    const PER_SAMPLE_FLAGS: u32 = 0xF00;
    let mut unbacked = 0_u64;
    for child in children(moof) {
        let (kind, traf) = child?;
        if kind != *b"traf" {
            continue;
        }
        for child in children(traf.get(8..).unwrap_or_default()) {
            let (kind, trun) = child?;
            if kind != *b"trun" {
                continue;
            }
            let (Some(flags), Some(count)) = (word(trun, 8), word(trun, 12)) else {
                return Err(format_error("a run without a head"));
            };
            if flags & PER_SAMPLE_FLAGS == 0 {
                unbacked += u64::from(count);
            }
        }
    }
    if unbacked > UNBACKED_SAMPLES_MAX { Err(Mp4Error::TooLarge("runs")) } else { Ok(()) }
}

/// Looks at the boxes and tables of a `moov`, whose payload this is.
pub(super) fn check_index(moov: &[u8]) -> Result<(), Mp4Error> {
    let mut boxes = 0;
    check_boxes(moov, 1, &mut boxes)
}

fn check_boxes(payload: &[u8], depth: usize, boxes: &mut usize) -> Result<(), Mp4Error> {
    for child in children(payload) {
        let (kind, bytes) = child?;
        *boxes += 1;
        if *boxes > BOXES_MAX || depth > DEPTH_MAX {
            return Err(Mp4Error::TooLarge("boxes"));
        }
        let entry_bytes = match &kind {
            b"trak" | b"mdia" | b"minf" | b"stbl" | b"edts" | b"mvex" | b"dinf" => {
                // A size of 64 bits makes the head of the box longer.
                let head = if word(bytes, 0) == Some(1) { 16 } else { 8 };
                check_boxes(bytes.get(head..).unwrap_or_default(), depth + 1, boxes)?;
                continue;
            }
            b"stsd" | b"dref" if bytes.len() > DESCRIPTION_BYTES_MAX => {
                return Err(Mp4Error::TooLarge("descriptions"));
            }
            b"sdtp" => 1,
            b"stsz" | b"stz2" | b"stco" | b"stss" => 4,
            b"stts" | b"ctts" | b"co64" => 8,
            b"stsc" | b"elst" => 12,
            _ => continue,
        };
        if bytes.len() / entry_bytes > SAMPLES_MAX {
            return Err(Mp4Error::TooLarge("tables"));
        }
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len() + 8).unwrap();
        [&size.to_be_bytes()[..], kind, payload].concat()
    }

    /// A track fragment with this many runs of this many samples of which nothing is said.
    fn runs(runs: usize, samples: u32) -> Vec<u8> {
        let trun = boxed(b"trun", &[[0; 4], samples.to_be_bytes()].concat());
        boxed(b"traf", &trun.repeat(runs))
    }

    #[test]
    fn runs_that_nothing_backs_are_counted_together() {
        assert!(check_runs(&runs(1, 65_536)).is_ok());
        assert!(check_runs(&runs(65_536, 1)).is_ok());
        for bomb in [runs(1, 65_537), runs(2, 40_000), runs(10_000, 65_536), runs(2, u32::MAX)] {
            assert!(matches!(check_runs(&bomb), Err(Mp4Error::TooLarge("runs"))));
        }
        let spread: Vec<u8> = (0..3).flat_map(|_| runs(1, 30_000)).collect();
        assert!(check_runs(&spread).is_err(), "over several track fragments too");
    }

    #[test]
    fn boxes_depth_and_tables_have_bounds() {
        let many = boxed(b"free", b"").repeat(BOXES_MAX);
        assert!(check_index(&many).is_ok());
        let inside = boxed(b"trak", &boxed(b"mdia", &many));
        assert!(matches!(check_index(&inside), Err(Mp4Error::TooLarge("boxes"))));
        let deep = (0..1000).fold(Vec::new(), |inner, _| boxed(b"trak", &inner));
        assert!(matches!(check_index(&deep), Err(Mp4Error::TooLarge("boxes"))));
        let large = boxed(b"trak", &boxed(b"sdtp", &vec![0; SAMPLES_MAX + 1]));
        assert!(matches!(check_index(&large), Err(Mp4Error::TooLarge("tables"))));
        let described = boxed(b"stbl", &boxed(b"stsd", &vec![0; DESCRIPTION_BYTES_MAX]));
        assert!(matches!(check_index(&described), Err(Mp4Error::TooLarge("descriptions"))));
        assert!(check_index(&[0, 0, 0, 9, b'f', b'r', b'e', b'e']).is_err(), "it does not fit");
    }
}
