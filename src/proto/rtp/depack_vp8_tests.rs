use proptest::prelude::*;

use super::*;
use crate::base::clock::Clock;
use crate::media::unit::AccessUnit;
use crate::media::vp8::tests::{hidden, interframe, keyframe};
use crate::proto::rtp::pack_h264::packet;
use crate::proto::rtp::pack_vp8::Vp8Packer;

/// A depacketizer with what came out of it.
struct Bench {
    depacketizer: Vp8Depacketizer,
    packer: Vp8Packer,
    timestamp: u32,
    out: VecDeque<Depacketized>,
}

impl Bench {
    fn new() -> Self {
        let (depacketizer, packer) = (Vp8Depacketizer::new(1 << 20), Vp8Packer::new(0x7FFE));
        Self { depacketizer, packer, timestamp: u32::MAX - 4000, out: VecDeque::new() }
    }

    /// The payloads of a frame, of at most 100 bytes each.
    fn payloads(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.timestamp = self.timestamp.wrapping_add(3000);
        self.packer.pack(frame, 100)
    }

    fn push(&mut self, payload: &[u8], marker: bool) {
        let bytes = packet(96, marker, 0, self.timestamp, 1, payload);
        let packet = RtpPacket::parse(&bytes).unwrap();
        self.depacketizer.push(&packet, Clock::manual().now(), None, &mut self.out);
    }

    fn send(&mut self, frame: &[u8]) {
        let payloads = self.payloads(frame);
        for (n, payload) in payloads.iter().enumerate() {
            self.push(payload, n + 1 == payloads.len());
        }
    }

    fn lose(&mut self) {
        self.depacketizer.mark_lost(&mut self.out);
    }

    /// What came out: sizes of frames, keyframes negative, 0 for a gap.
    fn told(&mut self) -> Vec<i64> {
        let told = self.out.drain(..).map(|output| match output {
            Depacketized::Gap => 0,
            Depacketized::Unit(unit) => unit.data.len() as i64 * if unit.key { -1 } else { 1 },
        });
        told.collect()
    }

    fn units(&mut self) -> Vec<AccessUnit> {
        let units = self.out.drain(..).filter_map(|output| match output {
            Depacketized::Unit(unit) => Some(unit),
            Depacketized::Gap => None,
        });
        units.collect()
    }
}

/// Sets the N bit of a frame's payloads.
fn discardable(mut payloads: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    payloads.iter_mut().for_each(|payload| payload[0] |= 0x20);
    payloads
}

#[test]
fn frames_come_out_as_they_went_in() {
    let mut bench = Bench::new();
    let frames =
        [keyframe(640, 480, 1000), interframe(20), hidden(300), interframe(101), keyframe(32, 16, 77)];
    for (position, frame) in frames.iter().enumerate() {
        let filled: Vec<u8> = frame
            .iter()
            .enumerate()
            .map(|(n, byte)| if n < 11 { *byte } else { (n + position) as u8 })
            .collect();
        bench.send(&filled);
        let units = bench.units();
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].data, filled);
        assert_eq!(units[0].hidden, position == 2);
        assert_eq!(units[0].pts.ticks, i64::from(u32::MAX) - 1000 + 3000 * position as i64);
    }
    let counts = bench.depacketizer.chain().counts();
    assert_eq!((counts.units, counts.dropped, counts.gaps), (5, 0, 0));
}

#[test]
fn descriptors_of_every_form_are_read() {
    let parse = |bytes: &[u8]| Descriptor::parse(bytes).map(|(descriptor, rest)| (descriptor, rest.to_vec()));
    let plain = Descriptor { start: true, ..Descriptor::default() };
    assert_eq!(parse(&[0x10, 7]), Ok((plain, vec![7])));
    let short = Descriptor {
        non_reference: true,
        partition: 5,
        picture_id: Some(PictureId::Short(0x11)),
        ..Descriptor::default()
    };
    assert_eq!(parse(&[0xA5, 0x80, 0x11, 1, 2]), Ok((short, vec![1, 2])));
    let full = Descriptor {
        picture_id: Some(PictureId::Long(0x1234)),
        tl0_index: Some(200),
        layer: Some((2, true)),
        key_index: Some(19),
        ..plain
    };
    assert_eq!(parse(&[0x90, 0xF0, 0x92, 0x34, 200, 0xB3, 9]), Ok((full, vec![9])));
    let layer = Descriptor { layer: Some((1, false)), ..plain };
    assert_eq!(
        parse(&[0x90, 0x20, 0x5F, 9]),
        Ok((layer, vec![9])),
        "the lowest bits are not said to be KEYIDX"
    );
    for length in 0..7 {
        assert_eq!(parse(&[0x90, 0xF0, 0x92, 0x34, 200, 0xB3, 9][..length]), Err(CutShort), "{length} bytes");
    }
}

#[test]
fn loss_inside_a_frame_drops_until_a_keyframe() {
    let mut bench = Bench::new();
    bench.send(&keyframe(64, 64, 50));
    let payloads = bench.payloads(&interframe(300));
    bench.push(&payloads[0], false);
    bench.lose();
    assert_eq!(bench.told(), [-50, 0], "told at once");
    bench.push(&payloads[2], false);
    bench.push(&payloads[3], true);
    bench.send(&interframe(40));
    assert_eq!(bench.told(), [0; 0]);
    bench.send(&keyframe(64, 64, 60));
    bench.send(&interframe(41));
    assert_eq!(bench.told(), [-60, 41]);
    let counts = bench.depacketizer.chain().counts();
    assert_eq!((counts.units, counts.dropped, counts.gaps), (3, 2, 1));
}

#[test]
fn a_frame_whose_beginning_is_lost_is_not_delivered() {
    let mut bench = Bench::new();
    bench.send(&keyframe(64, 64, 50));
    let payloads = bench.payloads(&keyframe(64, 64, 150));
    bench.lose();
    bench.push(&payloads[1], true);
    bench.send(&interframe(40));
    assert_eq!(bench.told(), [-50, 0]);
}

#[test]
fn whole_frames_that_are_lost_break_the_chain() {
    for key_after in [false, true] {
        let mut bench = Bench::new();
        bench.send(&keyframe(64, 64, 50));
        let _lost = bench.payloads(&interframe(40));
        bench.lose();
        bench.send(&if key_after { keyframe(64, 64, 60) } else { interframe(60) });
        assert_eq!(bench.told(), if key_after { vec![-50, 0, -60] } else { vec![-50, 0] });
    }
}

#[test]
fn a_loss_between_two_frames_that_follow_each_other_loses_nothing() {
    let mut bench = Bench::new();
    bench.send(&keyframe(64, 64, 50));
    bench.lose();
    bench.send(&interframe(40));
    assert_eq!(bench.told(), [-50, 40], "only padding can have been lost");
    // With identifiers of 7 bits that would be a guess.
    let short = |frame: &[u8], id: u8| [&[0x90, 0x80, id], frame].concat();
    bench.push(&short(&interframe(30), 5), true);
    bench.lose();
    bench.push(&short(&interframe(30), 6), true);
    assert_eq!(bench.told(), [30, 0]);
}

#[test]
fn a_discardable_frame_with_a_hole_is_dropped_alone() {
    for tail in [false, true] {
        let mut bench = Bench::new();
        bench.send(&keyframe(64, 64, 50));
        let payloads = discardable(bench.payloads(&interframe(300)));
        bench.push(&payloads[0], false);
        bench.lose();
        if tail {
            bench.push(&payloads[3], true);
        }
        bench.send(&interframe(40));
        assert_eq!(bench.told(), [-50, 40], "tail {tail}");
        assert_eq!(bench.depacketizer.chain().counts().dropped, 1);
    }
    // More was lost than that frame: the next one is missing, too.
    let mut bench = Bench::new();
    bench.send(&keyframe(64, 64, 50));
    let payloads = discardable(bench.payloads(&interframe(300)));
    bench.push(&payloads[0], false);
    bench.lose();
    let _lost = bench.payloads(&interframe(40));
    bench.send(&interframe(41));
    assert_eq!(bench.told(), [-50, 0]);
}

#[test]
fn a_frame_that_was_taken_out_on_the_way_is_noticed_by_its_picture_id() {
    let mut bench = Bench::new();
    bench.send(&keyframe(64, 64, 50));
    let _taken_out = bench.payloads(&interframe(40));
    bench.send(&interframe(41));
    assert_eq!(bench.told(), [-50, 0]);
}

#[test]
fn picture_ids_that_do_not_count_say_nothing() {
    let mut bench = Bench::new();
    for (frame, size) in [(keyframe(64, 64, 50), -50), (interframe(40), 40), (interframe(41), 41)] {
        bench.push(&[&[0x90, 0x80, 0x80, 7], &frame[..]].concat(), true);
        assert_eq!(bench.told(), [size]);
    }
}

#[test]
fn a_frame_ends_with_the_next_one_where_the_marker_is_missing() {
    let mut bench = Bench::new();
    for frame in [keyframe(64, 64, 50), interframe(150)] {
        for payload in bench.payloads(&frame) {
            bench.push(&payload, false);
        }
    }
    // Another frame of the same time: one of the two is not shown.
    bench.timestamp = bench.timestamp.wrapping_sub(3000);
    bench.send(&hidden(30));
    assert_eq!(bench.told(), [-50, 150, 30]);
}

#[test]
fn another_source_needs_a_keyframe_whatever_its_picture_ids_say() {
    let mut bench = Bench::new();
    bench.send(&keyframe(64, 64, 50));
    bench.depacketizer.restart(&mut bench.out);
    bench.send(&interframe(40));
    assert_eq!(bench.told(), [-50, 0]);
}

#[test]
fn frames_that_cannot_be_decoded_are_refused_with_a_reason() {
    let mut bench = Bench::new();
    bench.send(&interframe(40));
    let counts = bench.depacketizer.chain().counts();
    assert_eq!(
        (counts.dropped, counts.unusable),
        (1, 0),
        "who comes late sees frames before the first keyframe"
    );
    bench.send(&keyframe(64, 64, 50));
    bench.send(&keyframe(8000, 8000, 50));
    assert_eq!(bench.told(), [-50, 0]);
    let refused = FrameError::TooManyPixels { width: 8000, height: 8000, pixels_max: 1 << 20 };
    assert_eq!(bench.depacketizer.chain().last_error(), Some(refused.into()));
    // A payload that ends within its descriptor.
    bench.send(&keyframe(64, 64, 50));
    bench.push(&[0x90, 0xF0, 0x92], true);
    assert_eq!(bench.told(), [-50, 0]);
}

#[test]
fn a_frame_without_an_end_is_bounded() {
    let mut bench = Bench::new();
    bench.send(&keyframe(64, 64, 50));
    let piece = [&[0][..], &[7; 1000]].concat();
    bench.push(&[0x10, 0x31], false);
    for _ in 0..FRAME_BYTES_MAX / 1000 + 10 {
        bench.push(&piece, false);
        assert!(bench.depacketizer.data.capacity() <= 2 * FRAME_BYTES_MAX);
    }
    bench.push(&piece, true);
    assert_eq!(bench.told(), [-50, 0]);
    assert_eq!(bench.depacketizer.chain().last_error(), Some(FrameError::TooLarge.into()));
    assert!(bench.depacketizer.data.capacity() <= SCRATCH_KEPT_BYTES);
}

#[test]
fn the_orientation_of_a_frame_comes_with_any_of_its_packets() {
    let mut bench = Bench::new();
    let payloads = bench.payloads(&keyframe(64, 32, 150));
    for (n, payload) in payloads.iter().enumerate() {
        let is_last = n + 1 == payloads.len();
        let bytes = packet(96, is_last, 0, bench.timestamp, 1, payload);
        let packet = RtpPacket::parse(&bytes).unwrap();
        let rotation = is_last.then_some(Rotation::Cw90);
        bench.depacketizer.push(&packet, Clock::manual().now(), rotation, &mut bench.out);
    }
    assert_eq!(bench.units()[0].params.display_size(), (32, 64));
}

proptest! {
    /// Whatever is lost, what is delivered is what was sent, and each frame comes with those before it.
    #[test]
    fn what_is_delivered_was_sent_and_follows(
        frames in proptest::collection::vec((any::<bool>(), 5_usize..400), 1..30),
        lost in proptest::collection::hash_set(0_usize..90, 0..20),
    ) {
        let mut bench = Bench::new();
        let mut sent: Vec<Vec<u8>> = Vec::new();
        let (mut number, mut hole) = (0, false);
        for (position, (key, size)) in frames.iter().enumerate() {
            let mut frame = if *key || position == 0 { keyframe(64, 64, size + 20) } else { interframe(*size) };
            *frame.last_mut().unwrap() = position as u8;
            let payloads = bench.payloads(&frame);
            sent.push(frame);
            for (n, payload) in payloads.iter().enumerate() {
                number += 1;
                if lost.contains(&number) {
                    hole = true;
                    continue;
                }
                if std::mem::take(&mut hole) {
                    bench.lose();
                }
                bench.push(payload, n + 1 == payloads.len());
            }
        }
        let mut last: Option<usize> = None;
        while let Some(output) = bench.out.pop_front() {
            match output {
                Depacketized::Gap => last = None,
                Depacketized::Unit(unit) => {
                    let position = usize::from(*unit.data.last().unwrap());
                    prop_assert_eq!(&unit.data[..], &sent[position][..]);
                    prop_assert!(unit.key || last == Some(position - 1));
                    last = Some(position);
                }
            }
        }
    }
}
