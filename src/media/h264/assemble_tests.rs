use super::*;
use crate::base::clock::Clock;
use crate::media::h264::framing::{append_annex_b, avcc_units};
use crate::media::h264::tests::{PPS, SPS_640X360};

/// IDR slice, first macroblock 0, I, picture set 0.
const IDR: &[u8] = &[0x65, 0b1011_1000, 7, 7];
/// P slice that others refer to, first macroblock 0, picture set 0.
const P: &[u8] = &[0x41, 0b1001_1010, 8, 8];
/// B slice that nothing refers to.
const B: &[u8] = &[0x01, 0b1010_1000, 9];
/// P slice of picture set 1.
const P_OF_SET_1: &[u8] = &[0x41, 0b1001_1001, 0b0000_0000];
const LATER_SLICE: &[u8] = &[0x41, 0b0100_0110, 0b1000_0000];

fn times() -> UnitTimes {
    let zero = Timestamp::video(0);
    UnitTimes { arrived: Clock::manual().now(), pts: zero, dts: zero }
}

fn picture(builder: &mut UnitBuilder, nals: &[&[u8]]) -> Result<Option<AccessUnit>, UnitError> {
    for nal in nals {
        builder.push(nal);
    }
    builder.finish(times())
}

fn running() -> UnitBuilder {
    let mut builder = UnitBuilder::new(u64::MAX);
    assert!(picture(&mut builder, &[SPS_640X360, PPS, IDR]).unwrap().unwrap().key);
    builder
}

#[test]
fn a_unit_holds_slices_and_sei_and_nothing_else() {
    let mut builder = UnitBuilder::new(u64::MAX);
    let sei: &[u8] = &[6, 5, 1, 0x80];
    let nals = [&[9, 0xF0][..], SPS_640X360, PPS, sei, IDR, &[12, 255, 255, 0x80], &[14, 1, 2]];
    let unit = picture(&mut builder, &nals).unwrap().unwrap();
    assert_eq!(avcc_units(&unit.data).collect::<Result<Vec<_>, _>>().unwrap(), [sei, IDR]);
    assert!(unit.key && !unit.disposable && !unit.bidirectional);
    assert_eq!((unit.params.width, unit.params.height), (640, 360));
    let mut stream = Vec::new();
    append_annex_b(&unit, &mut stream).unwrap();
    assert_eq!(annex_b_units(&stream).collect::<Vec<_>>(), [SPS_640X360, PPS, sei, IDR]);
}

#[test]
fn importance_and_direction_are_told_per_picture() {
    let mut builder = running();
    let unit = picture(&mut builder, &[P]).unwrap().unwrap();
    assert!(!unit.key && !unit.disposable && !unit.bidirectional);
    let unit = picture(&mut builder, &[B]).unwrap().unwrap();
    assert!(unit.disposable && unit.bidirectional);
    let unit = picture(&mut builder, &[B, P]).unwrap().unwrap();
    assert!(!unit.disposable, "one slice that is referred to is enough");
}

#[test]
fn unchanged_parameters_are_shared_and_a_changed_picture_set_or_rotation_makes_new_ones() {
    let mut builder = running();
    let first = builder.params().unwrap().clone();
    let unit = picture(&mut builder, &[SPS_640X360, PPS, IDR]).unwrap().unwrap();
    assert!(Arc::ptr_eq(&unit.params, &first));
    builder.set_rotation(Rotation::Cw90);
    let turned = picture(&mut builder, &[P]).unwrap().unwrap();
    assert_eq!(turned.params.display_size(), (360, 640));
    assert!(turned.params.same_coding(&first));
    let unit = picture(&mut builder, &[&[0x68, 0b0101_1000], P_OF_SET_1]).unwrap().unwrap();
    let VideoCodec::H264 { pps, .. } = &unit.params.codec else { unreachable!() };
    assert_eq!(pps.len(), 2);
}

#[test]
fn a_changed_sequence_set_counts_from_the_next_idr_on_and_not_before() {
    let mut builder = running();
    let mut other = SPS_640X360.to_vec();
    other[3] = 0x1F;
    assert_eq!(picture(&mut builder, &[&other, P]).unwrap_err(), UnitError::ParametersChanged);
    let unit = picture(&mut builder, &[IDR]).unwrap().unwrap();
    let VideoCodec::H264 { sps, .. } = &unit.params.codec else { unreachable!() };
    assert_eq!(sps[..], [Bytes::from(other)]);
}

#[test]
fn a_picture_that_cannot_be_decoded_is_refused() {
    let mut fresh = UnitBuilder::new(u64::MAX);
    assert_eq!(picture(&mut fresh, &[IDR]).unwrap_err(), UnitError::UnknownParameters(0));
    assert_eq!(picture(&mut fresh, &[SPS_640X360, PPS, P]).unwrap_err(), UnitError::ParametersChanged);
    let mut builder = running();
    assert_eq!(picture(&mut builder, &[P_OF_SET_1]).unwrap_err(), UnitError::UnknownParameters(1));
    assert_eq!(picture(&mut builder, &[LATER_SLICE]).unwrap_err(), UnitError::NoFirstSlice);
    assert_eq!(picture(&mut builder, &[IDR, P]).unwrap_err(), UnitError::Malformed);
    assert_eq!(picture(&mut builder, &[&[0xC1, 0x9A]]).unwrap_err(), UnitError::Malformed);
    assert_eq!(picture(&mut builder, &[P, &[]]).unwrap_err(), UnitError::Malformed);
    assert_eq!(picture(&mut builder, &[&[2, 0x9A]]).unwrap_err(), UnitError::Partitioned);
    assert!(picture(&mut builder, &[SPS_640X360]).unwrap().is_none());
    builder.open();
    builder.append(P);
    assert_eq!(builder.finish(times()).unwrap_err(), UnitError::Malformed, "never closed");
    assert!(picture(&mut builder, &[P]).unwrap().is_some(), "an error leaves the builder usable");
}

#[test]
fn a_picture_beyond_the_bounds_is_refused_and_its_memory_given_back() {
    let mut builder = running();
    builder.push(P);
    builder.open();
    for _ in 0..UNIT_BYTES_MAX / 1000 + 1 {
        builder.append(&[1; 1000]);
    }
    assert!(builder.picture.data.capacity() <= SCRATCH_KEPT_BYTES);
    builder.close();
    assert_eq!(builder.finish(times()).unwrap_err(), UnitError::TooLarge);
    for _ in 0..=NAL_UNITS_MAX {
        builder.push(&[9, 0xF0]);
    }
    builder.push(P);
    assert_eq!(builder.finish(times()).unwrap_err(), UnitError::TooManyNalUnits);
}

#[test]
fn a_byte_stream_falls_into_pictures() {
    let mut stream = Vec::new();
    for nal in [&[9, 0xF0][..], SPS_640X360, PPS, IDR, P, LATER_SLICE, &[9, 0xF0], P, P] {
        stream.extend_from_slice(&[0, 0, 1]);
        stream.extend_from_slice(nal);
    }
    let sizes: Vec<_> = annex_b_pictures(&stream).iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 2, 2, 1]);
}
