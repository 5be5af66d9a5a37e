use super::*;
use crate::base::clock::Clock;
use crate::media::h264::tests::{PPS, SPS_640X360};
use crate::proto::rtp::pack_h264::{pack, packet};
use crate::proto::rtp::test_source::{Source as Pictures, number_of};
use crate::proto::rtsp::sdp::AacLayout;

fn track(payload: Payload, payload_type: u8, clock_rate: u32) -> Track {
    let clock_rate = NonZeroU32::new(clock_rate).unwrap();
    let media = if matches!(payload, Payload::H264 { .. } | Payload::Vp8) { "video" } else { "audio" };
    Track { media: media.into(), payload, payload_type, clock_rate, channels: 1, control: String::new() }
}

fn h264(parameter_sets: &[&[u8]]) -> Track {
    let parameter_sets = parameter_sets.iter().map(|set| Bytes::copy_from_slice(set)).collect();
    track(Payload::H264 { parameter_sets }, 96, 90_000)
}

fn aac() -> Track {
    let config = Bytes::from_static(&[0x12, 0x10]);
    track(Payload::Aac { config, layout: AacLayout::HIGH_BIT_RATE }, 97, 44_100)
}

fn receiver(tracks: &[Track], hold_back: Option<Duration>, now: Instant) -> MediaReceiver {
    let settings = MediaSettings { pixels_max: u64::MAX, hold_back, ssrc: 9, cname: "test".into() };
    MediaReceiver::new(settings, tracks, now)
}

/// Everything that is there, as short texts.
fn drain(receiver: &mut MediaReceiver) -> Vec<String> {
    let mut drained = Vec::new();
    loop {
        drained.push(match receiver.poll_output() {
            MediaOutput::Timeout(_) => return drained,
            MediaOutput::Video(unit) => format!("v{}@{}", number_of(&unit), unit.pts.ticks),
            MediaOutput::Audio(frame) => format!("a{}@{}", frame.data.len(), frame.pts.ticks),
            MediaOutput::Gap => "gap".into(),
            MediaOutput::Rtcp { track, .. } => format!("report {track}"),
        });
    }
}

/// Pictures as packets: number, and what each packet is.
fn packets(pictures: &mut Pictures, count: usize, with_sets: bool, now: Instant) -> Vec<(usize, Vec<u8>)> {
    let mut sequence = 65_530_u16;
    let mut made = Vec::new();
    for number in 0..count {
        let unit = pictures.next(now, false);
        let payloads = pack(&unit, 1200).unwrap();
        // The first payload of a keyframe holds its parameter sets.
        let skipped = usize::from(unit.key && !with_sets);
        for (at, payload) in payloads.iter().enumerate().skip(skipped) {
            let time = (unit.pts.ticks as u32).wrapping_add(u32::MAX - 4000);
            made.push((number, packet(96, at + 1 == payloads.len(), sequence, time, 5, payload)));
            sequence = sequence.wrapping_add(1);
        }
    }
    made
}

#[test]
fn pictures_come_out_as_they_were_whether_the_parameters_are_beside_or_among_them() {
    let now = Clock::manual().now();
    for (sets, with_sets) in
        [(&[SPS_640X360, PPS][..], false), (&[], true), (&[&[0x67, 66], &[0x65, 1]], true)]
    {
        let mut receiver = receiver(&[h264(sets)], None, now);
        for (_, bytes) in packets(&mut Pictures::new(1, 10), 30, with_sets, now) {
            receiver.handle_rtp(now, 0, &bytes).unwrap();
        }
        let wanted: Vec<String> = (0..30).map(|n| format!("v{n}@{}", n * 3000)).collect();
        assert_eq!(drain(&mut receiver), wanted);
    }
    let mut unknown = receiver(&[h264(&[])], None, now);
    for (_, bytes) in packets(&mut Pictures::new(1, 10), 30, false, now) {
        unknown.handle_rtp(now, 0, &bytes).unwrap();
    }
    assert!(drain(&mut unknown).is_empty() && unknown.stats().units_unusable > 0);
}

#[test]
fn a_hole_in_the_connection_is_a_gap_until_the_next_keyframe() {
    let now = Clock::manual().now();
    let mut receiver = receiver(&[h264(&[])], None, now);
    let all = packets(&mut Pictures::new(2, 10), 21, true, now);
    let lost = all.iter().position(|(number, _)| *number == 4).unwrap();
    for (at, (_, bytes)) in all.iter().enumerate() {
        if at != lost {
            receiver.handle_rtp(now, 0, bytes).unwrap();
        }
    }
    let seen = drain(&mut receiver);
    let numbers: Vec<&str> = seen.iter().map(|text| text.split('@').next().unwrap()).collect();
    assert_eq!(numbers[..6], ["v0", "v1", "v2", "v3", "gap", "v10"]);
    assert_eq!((numbers.len(), receiver.stats().lost, receiver.stats().gaps), (5 + 11, 1, 1));
}

#[test]
fn datagrams_are_put_in_order_and_a_late_one_is_given_up() {
    let now = Clock::manual().now();
    let mut receiver = receiver(&[h264(&[])], Some(Duration::from_millis(100)), now);
    let mut all = packets(&mut Pictures::new(3, 10), 20, true, now);
    all.chunks_mut(5).skip(1).for_each(<[_]>::reverse);
    let missing = all.iter().rposition(|(number, _)| *number == 15).unwrap();
    let (_, late) = all.remove(missing);
    for (_, bytes) in &all {
        receiver.handle_rtp(now, 0, bytes).unwrap();
    }
    let before = drain(&mut receiver);
    assert!(before.iter().all(|text| text != "gap") && before.len() >= 14, "{before:?}");
    let MediaOutput::Timeout(at) = receiver.poll_output() else { panic!() };
    assert!(at <= now + Duration::from_millis(100), "the hole is waited for, not longer");
    receiver.handle_timeout(at);
    assert_eq!(drain(&mut receiver), ["gap"]);
    receiver.handle_rtp(at, 0, &late).unwrap();
    assert!(drain(&mut receiver).is_empty());
    assert_eq!((receiver.stats().lost, receiver.stats().late), (1, 1));
}

#[test]
fn picture_and_sound_are_on_one_clock_and_losses_are_reported() {
    let now = Clock::manual().now();
    let mut receiver = receiver(&[aac(), h264(&[])], None, now);
    let report = |ssrc: u32, rtp: u32| {
        let mut writer = RtcpWriter::new();
        writer.sender_report(ssrc, 0xEA00_0000_0000_0000, rtp, (0, 0), &[]);
        writer.finish()
    };
    receiver.handle_rtcp(now, 1, &report(5, u32::MAX - 4000)).unwrap();
    receiver.handle_rtcp(now, 0, &report(6, 1000)).unwrap();
    for (_, bytes) in packets(&mut Pictures::new(4, 10), 1, true, now) {
        receiver.handle_rtp(now, 1, &bytes).unwrap();
    }
    // Sound of a tenth of a second later, that came half a second later.
    let two = [&[0, 32, 0, 2 << 3, 0, 1 << 3][..], b"abc"].concat();
    let later = now + Duration::from_millis(500);
    receiver.handle_rtp(later, 0, &packet(97, true, 7, 1000 + 4410, 6, &two)).unwrap();
    receiver.handle_rtp(later, 0, &packet(97, true, 9, 1000 + 4410 + 4096, 6, &two)).unwrap();
    assert_eq!(drain(&mut receiver), ["v0@0", "a2@4410", "a1@5434", "a2@8506", "a1@9530"]);
    receiver.handle_timeout(now + REPORT_INTERVAL);
    let outputs: Vec<MediaOutput> = (0..2).map(|_| receiver.poll_output()).collect();
    let MediaOutput::Rtcp { track: 0, bytes } = &outputs[0] else { panic!("{outputs:?}") };
    let RtcpPacket::ReceiverReport { ssrc: 9, blocks } = &rtcp::parse(bytes).unwrap()[0] else { panic!() };
    assert_eq!((blocks[0].ssrc, blocks[0].lost, blocks[0].last_sr), (6, 1, 0));
}

#[test]
fn what_does_not_belong_here_is_refused_and_counted() {
    let now = Clock::manual().now();
    let other = track(Payload::Other { encoding: "H265".into() }, 98, 90_000);
    let mut receiver = receiver(&[other, h264(&[]), h264(&[])], None, now);
    assert!(receiver.receives(1) && !receiver.receives(0) && !receiver.receives(2));
    assert_eq!(receiver.handle_rtp(now, 0, &packet(98, true, 0, 0, 1, b"x")), Err(MediaError::NoTrack));
    assert_eq!(
        receiver.handle_rtp(now, 1, &packet(97, true, 0, 0, 1, b"x")),
        Err(MediaError::PayloadType(97))
    );
    assert!(receiver.handle_rtp(now, 1, b"\0\0").is_err() && receiver.handle_rtcp(now, 1, b"x").is_err());
    assert_eq!((receiver.stats().refused, receiver.stats().packets), (4, 0));
}

#[test]
fn a_source_that_changes_has_no_continuation() {
    let now = Clock::manual().now();
    let mut receiver = receiver(&[h264(&[])], None, now);
    let all = packets(&mut Pictures::new(5, 100), 3, true, now);
    for (_, bytes) in &all {
        receiver.handle_rtp(now, 0, bytes).unwrap();
    }
    for (_, bytes) in packets(&mut Pictures::new(6, 3), 6, true, now) {
        let mut bytes = bytes;
        bytes[11] = 77;
        receiver.handle_rtp(now, 0, &bytes).unwrap();
    }
    let seen = drain(&mut receiver);
    let kinds: Vec<&str> = seen.iter().map(|text| text.split('@').next().unwrap()).collect();
    assert_eq!(kinds, ["v0", "v1", "v2", "gap", "v0", "v1", "v2", "v3", "v4", "v5"]);
    let times: Vec<i64> =
        seen.iter().filter_map(|text| text.split_once('@')).map(|(_, time)| time.parse().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}
