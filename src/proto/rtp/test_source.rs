//! Pictures for tests, with a number inside.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::media::h264::assemble::{UnitBuilder, UnitTimes};
use crate::media::h264::framing::avcc_units;
use crate::media::h264::tests::{PPS, SPS_640X360};
use crate::media::time::Timestamp;
use crate::media::unit::AccessUnit;

pub(crate) fn idr_slice(size: usize, fill: u8) -> Vec<u8> {
    let mut nal = vec![0x65, 0b1011_1000];
    nal.resize(size.max(3), fill.max(4));
    nal
}

pub(crate) fn p_slice(size: usize, fill: u8) -> Vec<u8> {
    let mut nal = vec![0x41, 0b1001_1010];
    nal.resize(size.max(3), fill.max(4));
    nal
}

/// Pictures as an encoder makes them: an IDR every `gop` pictures and where asked, some in several slices.
pub(crate) struct Source {
    random: StdRng,
    builder: UnitBuilder,
    number: u32,
    gop: u32,
}

impl Source {
    pub(crate) fn new(seed: u64, gop: u32) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { random, builder: UnitBuilder::new(u64::MAX), number: 0, gop }
    }

    pub(crate) fn next(&mut self, now: Instant, force_key: bool) -> AccessUnit {
        let key = force_key || self.number.is_multiple_of(self.gop);
        if key {
            self.builder.push(SPS_640X360);
            self.builder.push(PPS);
        }
        for slice in 0..self.random.random_range(1..4_u8) {
            let size = self.random.random_range(8..if key { 9000 } else { 3000 });
            let mut nal = if key { idr_slice(size, slice) } else { p_slice(size, slice) };
            if slice > 0 {
                // first_mb 1, slice_type 5 or 7, pps 0.
                nal[1] = if key { 0b0100_0010 } else { 0b0100_0110 };
                nal[2] = if key { 0b0010_0000 } else { 0b1000_0000 };
            }
            nal[3..7].copy_from_slice(&(self.number | 0x0101_0000).to_be_bytes());
            self.builder.push(&nal);
        }
        let pts = Timestamp::video(i64::from(self.number) * 3000);
        self.number += 1;
        self.builder.finish(UnitTimes { arrived: now, pts, dts: pts }).unwrap().unwrap()
    }
}

/// The number that [`Source`] wrote into a picture.
pub(crate) fn number_of(unit: &AccessUnit) -> u32 {
    let nal = avcc_units(&unit.data).next().unwrap().unwrap();
    u32::from_be_bytes(nal[3..7].try_into().unwrap()) & 0xFFFF
}
