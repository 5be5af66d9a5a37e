use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::base::clock::Clock;
use crate::media::h264::assemble::UnitError;
use crate::media::h264::framing::avcc_units;
use crate::media::h264::parameter_sets::ParameterSetError;
use crate::media::h264::sps::SpsError;
use crate::proto::rtp::pack_h264::{PAYLOAD_BYTES_MAX, pack, packet};
use crate::proto::rtp::test_source::{Source, number_of};

const VIDEO: u32 = 0x0A0B_0C0D;
const AUDIO: u32 = 0x0E0F_0001;
const VIDEO_TYPE: u8 = 108;
const AUDIO_TYPE: u8 = 111;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn settings() -> ReceiverSettings {
    let video = TrackSettings {
        kind: TrackKind::Video { codec: VideoPayload::H264 },
        payload_types: vec![VIDEO_TYPE],
        ssrcs: vec![VIDEO],
        mid: "1".into(),
        nack: true,
        pli: true,
        fir: true,
        remb: true,
        cvo_extension: Some(13),
    };
    let audio = TrackSettings {
        kind: TrackKind::Audio {
            codec: AudioCodec::Opus,
            clock_rate: NonZeroU32::new(48_000).unwrap(),
            channels: 2,
        },
        payload_types: vec![AUDIO_TYPE],
        ssrcs: vec![AUDIO],
        mid: "0".into(),
        cvo_extension: None,
        ..video.clone()
    };
    ReceiverSettings {
        local_ssrc: 1,
        cname: "us".into(),
        tracks: vec![audio, video],
        mid_extension: Some(4),
        abs_send_time_extension: Some(2),
        pixels_max: 8192 * 4352,
        bitrate_max_bps: 4_000_000,
        hold_back: HOLD_BACK_DEFAULT,
        keyframe_interval: KEYFRAME_INTERVAL_DEFAULT,
    }
}

fn drain(receiver: &mut Receiver) -> (Vec<ReceiverOutput>, Instant) {
    let mut outputs = Vec::new();
    loop {
        match receiver.poll_output() {
            ReceiverOutput::Timeout(at) => return (outputs, at),
            output => outputs.push(output),
        }
    }
}

fn feedback(outputs: &[ReceiverOutput]) -> Vec<RtcpPacket> {
    let compounds = outputs.iter().filter_map(|output| match output {
        ReceiverOutput::Rtcp(bytes) => Some(rtcp::parse(bytes).unwrap()),
        _ => None,
    });
    compounds.flatten().filter(|p| !matches!(p, RtcpPacket::SourceDescription { .. })).collect()
}

fn plis(outputs: &[ReceiverOutput]) -> usize {
    feedback(outputs).iter().filter(|packet| matches!(packet, RtcpPacket::PictureLoss { .. })).count()
}

/// A sender that answers NACK from its history and PLI with an IDR picture, behind a way of its own.
struct Sender {
    source: Source,
    sequence: u16,
    timestamp: u32,
    history: BTreeMap<u16, Vec<u8>>,
    wants_key: bool,
}

impl Sender {
    fn new(seed: u64, gop: u32) -> Self {
        let source = Source::new(seed, gop);
        Self {
            source,
            sequence: 65_000,
            timestamp: u32::MAX - 9000,
            history: BTreeMap::new(),
            wants_key: false,
        }
    }

    fn picture(&mut self, now: Instant) -> (AccessUnit, Vec<Vec<u8>>) {
        let unit = self.source.next(now, std::mem::take(&mut self.wants_key));
        let payloads = pack(&unit, PAYLOAD_BYTES_MAX).unwrap();
        let mut packets = Vec::new();
        for (n, payload) in payloads.iter().enumerate() {
            let marker = n + 1 == payloads.len();
            let bytes = packet(VIDEO_TYPE, marker, self.sequence, self.timestamp, VIDEO, payload);
            self.history.insert(self.sequence, bytes.clone());
            self.sequence = self.sequence.wrapping_add(1);
            packets.push(bytes);
        }
        self.timestamp = self.timestamp.wrapping_add(3000);
        (unit, packets)
    }
}

/// What came out of a simulated call.
struct Call {
    sent: Vec<AccessUnit>,
    outputs: Vec<ReceiverOutput>,
    stats: ReceiverStats,
}

/// Runs a sender of 30 pictures a second against a receiver for ten seconds, over a way of 20 ms with up to
/// `jitter_ms` more, that loses a share of packets in both directions.
fn call(seed: u64, gop: u32, loss: f64, jitter_ms: u64) -> Call {
    let clock = Clock::manual();
    let start = clock.now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut sender = Sender::new(seed, gop);
    let mut receiver = Receiver::new(settings(), start);
    let (mut forth, mut back) = (VecDeque::new(), VecDeque::new());
    let (mut sent, mut outputs) = (Vec::new(), Vec::new());
    let mut deadline = start;
    for step in 0..10_000_u64 {
        let now = start + ms(step);
        let mut carry = |queue: &mut VecDeque<(Instant, Vec<u8>)>, bytes: Vec<u8>| {
            let at = now + ms(20 + random.random_range(0..=jitter_ms));
            if !random.random_bool(loss) {
                queue.push_back((at, bytes));
                queue.make_contiguous().sort_by_key(|(at, _)| *at);
            }
        };
        if step % 33 == 0 {
            let (unit, packets) = sender.picture(now);
            sent.push(unit);
            packets.into_iter().for_each(|bytes| carry(&mut forth, bytes));
        }
        while forth.front().is_some_and(|(at, _)| *at <= now) {
            receiver.handle_rtp(now, &forth.pop_front().unwrap().1).unwrap();
            let (made, at) = drain(&mut receiver);
            (deadline, _) = (at, outputs.extend(made));
        }
        if deadline <= now {
            receiver.handle_timeout(now);
            let (made, at) = drain(&mut receiver);
            (deadline, _) = (at, outputs.extend(made));
            assert!(deadline > now, "what is due was done");
        }
        for output in outputs.extract_if(.., |output| matches!(output, ReceiverOutput::Rtcp(_))) {
            let ReceiverOutput::Rtcp(bytes) = output else { continue };
            carry(&mut back, bytes);
        }
        while back.front().is_some_and(|(at, _)| *at <= now) {
            for packet in rtcp::parse(&back.pop_front().unwrap().1).unwrap() {
                match packet {
                    RtcpPacket::Nack { sequences, .. } => {
                        let known =
                            sequences.iter().filter_map(|sequence| sender.history.get(sequence).cloned());
                        known.collect::<Vec<_>>().into_iter().for_each(|bytes| carry(&mut forth, bytes));
                    }
                    RtcpPacket::PictureLoss { .. } => sender.wants_key = true,
                    _ => {}
                }
            }
        }
    }
    Call { sent, outputs, stats: receiver.stats() }
}

/// Every picture is what was sent, follows the one before it or is an IDR, and every break is told.
fn check_chains(call: &Call) -> u64 {
    let mut previous: Option<u32> = None;
    let mut delivered = 0;
    for output in &call.outputs {
        match output {
            ReceiverOutput::Gap => assert!(previous.take().is_some(), "one gap a break"),
            ReceiverOutput::Video(unit) => {
                let number = number_of(unit);
                assert_eq!(unit.data, call.sent[number as usize].data);
                assert!(unit.key || previous == Some(number - 1));
                assert!(previous.is_none_or(|previous| previous + 1 == number), "a break without a gap");
                previous = Some(number);
                delivered += 1;
            }
            _ => {}
        }
    }
    delivered
}

#[test]
fn publishing_keeps_going_at_five_percent_loss_and_20_ms_of_jitter() {
    for seed in 0..20 {
        // Like a browser: one IDR picture at the start, then only when asked.
        let call = call(seed, u32::MAX, 0.05, 20);
        let delivered = check_chains(&call);
        assert!(delivered > 240, "seed {seed}: {delivered} of 303 pictures, {:?}", call.stats);
        assert!(call.stats.nacks > 0 && call.stats.lost < call.stats.packets / 50, "{:?}", call.stats);
    }
}

#[test]
fn heavy_loss_never_lets_a_damaged_picture_through() {
    for seed in 0..10 {
        let call = call(seed, u32::MAX, 0.25, 60);
        check_chains(&call);
        assert!(call.stats.keyframe_requests > 0 && call.stats.units_dropped > 0, "{:?}", call.stats);
    }
}

#[test]
fn a_clean_way_needs_no_repair() {
    let call = call(1, u32::MAX, 0.0, 0);
    assert_eq!(check_chains(&call), 303);
    let stats = call.stats;
    assert_eq!((stats.lost, stats.nacks, stats.keyframe_requests, stats.gaps), (0, 0, 0, 0));
}

fn begun(now: Instant) -> (Receiver, Sender) {
    let (mut receiver, mut sender) = (Receiver::new(settings(), now), Sender::new(1, u32::MAX));
    let (_, packets) = sender.picture(now);
    for bytes in packets {
        receiver.handle_rtp(now, &bytes).unwrap();
    }
    let (outputs, _) = drain(&mut receiver);
    assert!(matches!(&outputs[..], [ReceiverOutput::Video(unit)] if unit.key));
    (receiver, sender)
}

fn send(receiver: &mut Receiver, sender: &mut Sender, now: Instant) {
    let (_, packets) = sender.picture(now);
    packets.iter().for_each(|bytes| receiver.handle_rtp(now, bytes).unwrap());
}

#[test]
fn keyframe_requests_are_spaced_and_repeated_until_an_idr_comes() {
    let now = Clock::manual().now();
    let (mut receiver, mut sender) = begun(now);
    receiver.request_keyframe(now);
    receiver.request_keyframe(now + ms(10));
    assert_eq!(plis(&drain(&mut receiver).0), 1);
    send(&mut receiver, &mut sender, now + ms(33));
    receiver.request_keyframe(now + ms(40));
    let (outputs, deadline) = drain(&mut receiver);
    assert_eq!((plis(&outputs), deadline), (0, now + ms(0)), "the first judgement is due");
    receiver.handle_timeout(now + ms(299));
    assert_eq!(plis(&drain(&mut receiver).0), 0);
    receiver.handle_timeout(now + ms(300));
    assert_eq!(plis(&drain(&mut receiver).0), 1);
    sender.wants_key = true;
    send(&mut receiver, &mut sender, now + ms(320));
    receiver.handle_timeout(now + ms(1000));
    assert_eq!(plis(&drain(&mut receiver).0), 0, "it came");
    assert_eq!(receiver.stats().keyframe_requests, 2);
}

#[test]
fn nobody_is_asked_while_nothing_arrives_and_the_wish_is_kept() {
    let now = Clock::manual().now();
    let mut receiver = Receiver::new(settings(), now);
    receiver.request_keyframe(now);
    let (outputs, deadline) = drain(&mut receiver);
    assert!(outputs.is_empty() && deadline == now + IDLE);
    let mut sender = Sender::new(1, u32::MAX);
    sender.picture(now);
    send(&mut receiver, &mut sender, now + ms(50));
    receiver.handle_timeout(now + ms(50));
    assert_eq!(plis(&drain(&mut receiver).0), 1);
    for step in 1..100 {
        receiver.handle_timeout(now + ms(50 + step * 100));
        assert!(drain(&mut receiver).1 > now + ms(50 + step * 100));
    }
    assert!(receiver.stats().keyframe_requests <= 8, "silence ends the questions");
}

#[test]
fn a_stream_that_cannot_be_used_is_asked_less_and_less_and_tells_why() {
    let start = Clock::manual().now();
    let mut settings = settings();
    settings.pixels_max = 1000;
    let (mut receiver, mut sender) = (Receiver::new(settings, start), Sender::new(1, u32::MAX));
    let mut requests = 0;
    for step in 0..600 {
        let now = start + ms(step * 33);
        sender.wants_key = true;
        send(&mut receiver, &mut sender, now);
        receiver.handle_timeout(now);
        let (outputs, _) = drain(&mut receiver);
        requests += plis(&outputs);
        assert!(!outputs.iter().any(|output| matches!(output, ReceiverOutput::Video(_))));
    }
    // Twenty seconds at three a second would be sixty.
    assert!((15..25).contains(&requests), "{requests}");
    let stats = receiver.stats();
    let refused = ParameterSetError::Sps(SpsError::Pixels(640 * 368));
    assert_eq!(stats.last_unit_error, Some(UnitError::ParameterSet(refused).into()));
    assert_eq!((stats.units_unusable, stats.units), (600, 0));
}

#[test]
fn fir_with_a_new_number_is_used_where_pli_was_not_agreed_on() {
    let now = Clock::manual().now();
    let mut settings = settings();
    settings.tracks[1].pli = false;
    let (mut receiver, mut sender) = (Receiver::new(settings, now), Sender::new(1, u32::MAX));
    send(&mut receiver, &mut sender, now);
    receiver.request_keyframe(now);
    receiver.handle_timeout(now + ms(300));
    let commands: Vec<_> = feedback(&drain(&mut receiver).0)
        .into_iter()
        .filter_map(|packet| match packet {
            RtcpPacket::FullIntra { commands } => Some(commands[0]),
            _ => None,
        })
        .collect();
    assert_eq!(commands, [(VIDEO, 1), (VIDEO, 2)]);
}

#[test]
fn every_second_tells_what_came_and_how_much_may_come() {
    let now = Clock::manual().now();
    let (mut receiver, _) = begun(now);
    receiver.handle_timeout(now + ms(1000));
    let reports = feedback(&drain(&mut receiver).0);
    let [RtcpPacket::ReceiverReport { ssrc: 1, blocks }, RtcpPacket::Remb { bitrate_bps, ssrcs }] =
        &reports[..]
    else {
        panic!("{reports:?}")
    };
    assert_eq!((blocks[0].ssrc, blocks[0].lost), (VIDEO, 0));
    assert!(*bitrate_bps >= 1_000_000 && ssrcs[..] == [VIDEO]);
    receiver.handle_timeout(now + ms(1500));
    assert!(feedback(&drain(&mut receiver).0).is_empty());
}

#[test]
fn strange_sources_and_payload_types_are_refused_before_they_leave_a_trace() {
    let now = Clock::manual().now();
    let (mut receiver, _) = begun(now);
    let retransmission = packet(109, false, 1, 1, VIDEO, b"x");
    let stranger = packet(VIDEO_TYPE, false, 1, 1, 99, b"x");
    for bytes in [&retransmission, &stranger] {
        assert!(!receiver.accepts(bytes));
        assert!(matches!(receiver.handle_rtp(now, bytes), Err(RtpError::NoTrack { .. })));
    }
    assert!(!receiver.accepts(&[]) && receiver.handle_rtp(now, &[0x80]).is_err());
    assert_eq!((receiver.stats().packets, receiver.stats().refused), (receiver.totals().0, 2));
}

#[test]
fn unnamed_sources_are_learnt_by_payload_type_or_mid_in_bounded_number() {
    let now = Clock::manual().now();
    let mut settings = settings();
    settings.tracks[1].ssrcs.clear();
    let mut receiver = Receiver::new(settings, now);
    let mut taken = 0;
    for ssrc in 1000..1100 {
        let bytes = packet(VIDEO_TYPE, false, 1, 1, ssrc, b"x");
        taken += usize::from(receiver.accepts(&bytes));
        let _ = receiver.handle_rtp(now, &bytes);
    }
    assert_eq!(taken, 8);
    // Named sources may change too where the MID says whose they are.
    let mut receiver = Receiver::new(self::settings(), now);
    let mut bytes = packet(AUDIO_TYPE, false, 1, 1, 77, &[0xBE, 0xDE, 0, 1, 0x40, b'0', 0, 0, 9]);
    bytes[0] |= 0x10;
    receiver.handle_rtp(now, &bytes).unwrap();
    let (outputs, _) = drain(&mut receiver);
    assert!(matches!(&outputs[..], [ReceiverOutput::Audio(frame)] if frame.data[..] == [9]));
}

#[test]
fn a_source_that_replaces_another_breaks_the_chain_and_time_goes_on() {
    let now = Clock::manual().now();
    let mut settings = settings();
    settings.tracks[1].ssrcs.clear();
    let mut receiver = Receiver::new(settings, now);
    let mut first = Sender::new(1, u32::MAX);
    send(&mut receiver, &mut first, now);
    let mut second = Sender::new(2, u32::MAX);
    second.timestamp = 12_345;
    let (_, packets) = second.picture(now);
    for mut bytes in packets {
        bytes[8..12].copy_from_slice(&5_u32.to_be_bytes());
        receiver.handle_rtp(now + ms(100), &bytes).unwrap();
    }
    let (outputs, _) = drain(&mut receiver);
    let [ReceiverOutput::Video(a), ReceiverOutput::Gap, ReceiverOutput::Video(b)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(b.pts.since(a.pts), Some(ms(100)));
}

#[test]
fn the_orientation_extension_turns_the_picture_that_it_comes_with() {
    let now = Clock::manual().now();
    let (mut receiver, mut sender) = begun(now);
    let (_, packets) = sender.picture(now);
    let last = packets.len() - 1;
    for (n, mut bytes) in packets.into_iter().enumerate() {
        if n == last {
            bytes[0] |= 0x10;
            bytes.splice(12..12, [0xBE, 0xDE, 0, 1, 0xD0, 0x01, 0, 0]);
        }
        receiver.handle_rtp(now, &bytes).unwrap();
    }
    send(&mut receiver, &mut sender, now + ms(33));
    let sizes: Vec<_> = drain(&mut receiver)
        .0
        .iter()
        .map(|output| match output {
            ReceiverOutput::Video(unit) => unit.params.display_size(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [(360, 640), (360, 640)]);
}

#[test]
fn the_time_of_capture_is_the_arrival_of_the_first_packet() {
    let now = Clock::manual().now();
    let (mut receiver, mut sender) = begun(now);
    sender.wants_key = true;
    let (unit, packets) = sender.picture(now);
    assert!(packets.len() > 1 && avcc_units(&unit.data).count() > 0);
    for (n, bytes) in packets.iter().enumerate() {
        receiver.handle_rtp(now + ms(n as u64 + 5), bytes).unwrap();
    }
    let (outputs, _) = drain(&mut receiver);
    assert!(matches!(&outputs[..], [ReceiverOutput::Video(unit)] if unit.arrived == now + ms(5)));
}

#[test]
fn any_bytes_are_taken_or_refused() {
    let now = Clock::manual().now();
    let mut random = StdRng::seed_from_u64(7);
    let (mut receiver, mut sender) = begun(now);
    for round in 0..5000_u64 {
        let (_, packets) = sender.picture(now);
        for mut bytes in packets {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            bytes.truncate(random.random_range(0..=bytes.len()));
            let _ = receiver.handle_rtp(now + ms(round), &bytes);
            let _ = receiver.handle_rtcp(now, &bytes);
        }
        receiver.handle_timeout(now + ms(round));
        drain(&mut receiver);
        sender.history.clear();
    }
}

#[test]
fn sound_and_pictures_are_put_on_one_clock_by_the_senders_reports() {
    let now = Clock::manual().now();
    let (mut receiver, mut sender) = begun(now);
    send(&mut receiver, &mut sender, now);
    let sound = packet(AUDIO_TYPE, false, 5, 960_000, AUDIO, &[1, 2, 3]);
    receiver.handle_rtp(now, &sound).unwrap();
    let picture_time = sender.timestamp;
    let mut report = |ssrc: u32, ntp_ms: u64, rtp_time: u32| {
        let mut writer = RtcpWriter::new();
        writer.sender_report(ssrc, (ntp_ms << 32) / 1000 + (9 << 32), rtp_time, (1, 1), &[]);
        receiver.handle_rtcp(now, &writer.finish()).unwrap();
        receiver.stats().sound_offset_ns
    };
    assert_eq!(report(AUDIO, 1030, 960_000), None, "one clock alone says nothing");
    // The pictures of that moment are 30 ms older than the sound.
    let offset = report(VIDEO, 1000, picture_time).unwrap();
    let expected = i64::from(picture_time) * 100_000 / 9 + 30_000_000 - 20_000_000_000;
    assert!((offset - expected).abs() < 10_000, "{offset}, {expected}");
}
