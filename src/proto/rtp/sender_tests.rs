use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::base::clock::Clock;
use crate::media::time::Timestamp;
use crate::media::track::{Colour, Rotation, VideoParams};
use crate::proto::rtp::header::RtpPacket;
use crate::proto::rtp::rtcp::{ReportBlock, RtcpWriter};

const SSRC: u32 = 0x0101_0101;
const RTX: u32 = 0x0202_0202;

fn track(rtx: bool) -> SendTrack {
    SendTrack {
        ssrc: SSRC,
        payload_type: 102,
        clock_rate: VIDEO_TIMESCALE,
        rtx: rtx.then_some((RTX, 103)),
        extensions: SendExtensions {
            mid: Some((4, "video".into())),
            abs_send_time: Some(2),
            orientation: Some(13),
            transport_wide: None,
        },
    }
}

struct Sending {
    clock: Clock,
    sender: Sender,
    pictures: i64,
    wanted: u32,
    told: Vec<(u64, u64)>,
    rtcp: Vec<RtcpPacket>,
}

impl Sending {
    fn new(rtx: bool) -> Self {
        let clock = Clock::manual();
        let settings = SenderSettings { cname: "name".into(), video: Some(track(rtx)), audio: None };
        let sender = Sender::new(settings, &mut StdRng::seed_from_u64(1), clock.now());
        Self { clock, sender, pictures: 0, wanted: 0, told: vec![], rtcp: vec![] }
    }

    /// The packets that are due now, and when the next ones are.
    fn drain(&mut self) -> (Vec<Bytes>, Instant) {
        let mut packets = Vec::new();
        loop {
            match self.sender.poll_output() {
                SenderOutput::Rtp(packet) => packets.push(packet.to_vec().into()),
                SenderOutput::Rtcp(compound) => self.rtcp.extend(rtcp::parse(&compound).unwrap()),
                SenderOutput::KeyframeWanted => self.wanted += 1,
                SenderOutput::NotEnoughBandwidth { stream_bps, available_bps } => {
                    self.told.push((stream_bps, available_bps));
                }
                SenderOutput::Timeout(at) => return (packets, at),
            }
        }
    }

    fn picture(&mut self, key: bool, size_bytes: usize) {
        let params = VideoParams {
            codec: VideoCodec::H264 { sps: vec![Bytes::from_static(&[0x67, 66, 0xE0, 31])], pps: vec![] },
            width: 16,
            height: 16,
            sample_aspect_ratio: (1, 1),
            colour: Colour::unsaid(16, 16),
            rotation: Rotation::Cw90,
        };
        let mut data = u32::try_from(size_bytes).unwrap().to_be_bytes().to_vec();
        data.push(if key { 0x65 } else { 0x41 });
        data.resize(size_bytes + 4, 7);
        let pts = Timestamp::video(self.pictures * 3000);
        self.pictures += 1;
        let unit = AccessUnit {
            seq: 0,
            arrived: self.clock.now(),
            pts,
            dts: pts,
            key,
            disposable: false,
            bidirectional: false,
            hidden: false,
            params: std::sync::Arc::new(params),
            data: data.into(),
        };
        self.sender.send_video(self.clock.now(), &unit);
    }

    /// Runs for a time with a picture of this size every 33 ms; a keyframe wherever one is wanted.
    fn stream(&mut self, seconds: u32, size_bytes: usize) -> Vec<Bytes> {
        let mut packets = Vec::new();
        for _ in 0..seconds * 30 {
            let wanted = self.wanted;
            for _ in 0..11 {
                self.clock.advance(Duration::from_millis(3));
                self.sender.handle_timeout(self.clock.now());
                packets.extend(self.drain().0);
            }
            let key = self.sender.waits_for_keyframe() && self.pictures % 30 == 0;
            self.picture(key, size_bytes);
            packets.extend(self.drain().0);
            assert!(self.wanted <= wanted + 2, "asked for over and over");
        }
        packets
    }

    fn hear(&mut self, write: impl FnOnce(&mut RtcpWriter) -> &mut RtcpWriter) {
        let mut writer = RtcpWriter::new();
        write(&mut writer);
        self.sender.handle_rtcp(self.clock.now(), &writer.finish()).unwrap();
    }
}

fn sequences(packets: &[Bytes]) -> Vec<u16> {
    packets.iter().map(|packet| RtpPacket::parse(packet).unwrap().sequence).collect()
}

#[test]
fn a_large_keyframe_goes_out_in_bounded_bursts_and_in_order() {
    let mut sending = Sending::new(true);
    sending.picture(true, 200_000);
    let (mut packets, mut at) = sending.drain();
    let first: usize = packets.iter().map(Bytes::len).sum();
    assert!((40_000..60_000).contains(&first), "{first} bytes at once");
    let begun = sending.clock.now();
    while at < begun + Duration::from_millis(500) {
        sending.clock.advance(at - sending.clock.now());
        sending.sender.handle_timeout(sending.clock.now());
        let (more, next) = sending.drain();
        let bytes: usize = more.iter().map(Bytes::len).sum();
        assert!(bytes < 30_000, "{bytes} bytes at once");
        packets.extend(more);
        at = next;
    }
    assert_eq!(sending.sender.stats().pictures, 1);
    let numbers = sequences(&packets);
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    let markers: Vec<bool> = packets.iter().map(|packet| RtpPacket::parse(packet).unwrap().marker).collect();
    assert!(markers.iter().position(|marker| *marker) == Some(packets.len() - 1));
    let last = RtpPacket::parse(packets.last().unwrap()).unwrap();
    assert_eq!((last.extension(4), last.extension(13)), (Some(&b"video"[..]), Some(&[1][..])));
    assert!(packets.iter().all(|packet| RtpPacket::parse(packet).unwrap().extension(2).is_some()));
}

#[test]
fn a_missing_packet_is_repeated_under_its_own_source_or_as_it_was() {
    for rtx in [true, false] {
        let mut sending = Sending::new(rtx);
        sending.picture(true, 5000);
        let (packets, _) = sending.drain();
        let missing = sequences(&packets)[2];
        sending.hear(|writer| writer.nack(9, SSRC, &[missing, missing.wrapping_add(500)]));
        let (repeated, _) = sending.drain();
        assert_eq!(repeated.len(), 1);
        if rtx {
            let original = RtpPacket::parse(&packets[2]).unwrap();
            let read = RtpPacket::parse(&repeated[0]).unwrap();
            assert_eq!((read.ssrc, read.payload_type, read.timestamp), (RTX, 103, original.timestamp));
            assert_eq!(read.payload[..2], missing.to_be_bytes());
            assert_eq!(read.payload[2..], *original.payload);
        } else {
            assert_eq!(repeated[0], packets[2]);
        }
        sending.hear(|writer| writer.nack(9, SSRC, &[missing]));
        assert!(sending.drain().0.is_empty(), "it is on its way");
        sending.clock.advance(Duration::from_millis(100));
        sending.hear(|writer| writer.nack(9, SSRC, &[missing]));
        assert_eq!(sending.drain().0.len(), 1);
        sending.hear(|writer| writer.nack(9, 77, &[missing]));
        assert!(sending.drain().0.is_empty(), "another source");
    }
}

#[test]
fn reports_tell_the_time_and_their_answers_the_round_trip() {
    let mut sending = Sending::new(true);
    sending.picture(true, 500);
    sending.sender.handle_timeout(sending.clock.now());
    let first_packet = RtpPacket::parse(&sending.drain().0[0]).unwrap().timestamp;
    let RtcpPacket::SenderReport { ntp, rtp_time, packets, .. } = sending.rtcp[0] else { panic!() };
    assert_eq!((rtp_time, packets), (first_packet, 2));
    assert!(matches!(&sending.rtcp[1], RtcpPacket::SourceDescription { names } if names[0].1 == b"name"));
    sending.clock.advance(Duration::from_millis(90));
    let block = |last_sr| ReportBlock {
        ssrc: SSRC,
        last_sr,
        // 30 ms with the viewer.
        delay_since_last_sr: 65_536 * 30 / 1000,
        ..ReportBlock::default()
    };
    sending.hear(|writer| writer.receiver_report(9, &[block(1)]));
    assert_eq!(sending.sender.stats().rtt, None, "a report that was never sent");
    sending.hear(|writer| writer.receiver_report(9, &[block((ntp >> 16) as u32)]));
    let rtt = sending.sender.stats().rtt.unwrap();
    assert!((59..=61).contains(&rtt.as_millis()), "{rtt:?}");
}

#[test]
fn many_wishes_for_a_keyframe_are_one() {
    let mut sending = Sending::new(true);
    sending.picture(true, 500);
    for number in [1, 1, 2] {
        sending.hear(|writer| writer.picture_loss(9, SSRC).full_intra(9, SSRC, number));
    }
    sending.drain();
    assert_eq!(
        (sending.wanted, sending.sender.stats().keyframe_requests),
        (1, 5),
        "a command repeated is one"
    );
    sending.clock.advance(KEYFRAME_PAUSE);
    sending.hear(|writer| writer.picture_loss(9, 77));
    sending.drain();
    assert_eq!(sending.wanted, 1, "of another source");
    sending.hear(|writer| writer.picture_loss(9, SSRC));
    sending.drain();
    assert_eq!(sending.wanted, 2);
}

#[test]
fn a_viewer_whose_network_is_short_loses_pictures_whole_and_is_told() {
    let mut sending = Sending::new(true);
    // 2 Mbit/s.
    let mut packets = sending.stream(2, 8333);
    assert_eq!(sending.sender.stats().dropped, 0);
    let mut carried = 0;
    for _ in 0..10 {
        sending.hear(|writer| writer.remb(9, 800_000, &[SSRC]));
        let sent = sending.stream(1, 8333);
        carried = sent.iter().map(Bytes::len).sum::<usize>() * 8;
        packets.extend(sent);
    }
    let stats = sending.sender.stats();
    assert!(stats.dropped > 60 && carried < 1_000_000, "{stats:?}, {carried} bit/s");
    let (stream_bps, available_bps) = sending.told[0];
    assert!((1_800_000..2_200_000).contains(&stream_bps) && available_bps == 800_000, "{:?}", sending.told);
    assert!((1..=3).contains(&sending.told.len()), "every five seconds: {:?}", sending.told);
    for _ in 0..3 {
        sending.hear(|writer| writer.remb(9, 4_000_000, &[SSRC]));
        packets.extend(sending.stream(1, 8333));
    }
    let dropped = sending.sender.stats().dropped;
    packets.extend(sending.stream(2, 8333));
    assert_eq!(sending.sender.stats().dropped, dropped, "it fits again");
    // Numbers have no gap: a viewer does not ask for what was left out. Every picture is whole, and what follows a gap in
    // time is a keyframe.
    let mut last: Option<RtpPacket<'_>> = None;
    for packet in &packets {
        let read = RtpPacket::parse(packet).unwrap();
        if let Some(last) = last {
            assert_eq!(read.sequence, last.sequence.wrapping_add(1));
            if read.timestamp != last.timestamp {
                assert!(last.marker, "a picture without its end");
                let is_key = read.payload[0] & 0x1F == 7;
                assert!(read.timestamp.wrapping_sub(last.timestamp) == 3000 || is_key);
            }
        }
        last = Some(read);
    }
}

#[test]
fn reports_put_sound_and_pictures_together_as_the_stream_has_them() {
    let clock = Clock::manual();
    let sound = SendTrack {
        ssrc: 9,
        payload_type: 111,
        clock_rate: NonZeroU32::new(48_000).unwrap(),
        rtx: None,
        extensions: SendExtensions::default(),
    };
    let settings = SenderSettings { cname: "name".into(), video: Some(track(false)), audio: Some(sound) };
    let sender = Sender::new(settings, &mut StdRng::seed_from_u64(1), clock.now());
    let mut sending = Sending { clock, sender, pictures: 0, wanted: 0, told: vec![], rtcp: vec![] };
    // The sound of a moment comes 70 ms before its picture, and its clock is a second ahead.
    let mut frames = Vec::new();
    for n in 0..60 {
        sending.picture(n == 0, 500);
        let params = crate::media::track::AudioParams {
            codec: crate::media::track::AudioCodec::Opus,
            sample_rate: NonZeroU32::new(48_000).unwrap(),
            channels: 2,
        };
        let pts = Timestamp { ticks: 48_000 + (n * 1600 + 70 * 48), timescale: params.sample_rate };
        let (arrived, data) = (sending.clock.now(), Bytes::from_static(&[1]));
        let frame = AudioFrame { arrived, pts, params: std::sync::Arc::new(params), data };
        sending.sender.send_audio(sending.clock.now(), &frame);
        frames.extend(sending.drain().0);
        sending.clock.advance(Duration::from_micros(33_333));
        sending.sender.handle_timeout(sending.clock.now());
        frames.extend(sending.drain().0);
    }
    let first = |ssrc: u32| {
        let mut packets = frames.iter().map(|packet| RtpPacket::parse(packet).unwrap());
        packets.find(|packet| packet.ssrc == ssrc).unwrap().timestamp
    };
    let (first_picture, first_sound) = (first(SSRC), first(9));
    // How far the sound of a report is behind the picture of the same moment, in ms since each began.
    let mut apart = |offset: Option<i64>| {
        sending.sender.set_sound_offset_ns(offset);
        sending.rtcp.clear();
        sending.clock.advance(Duration::from_secs(2));
        sending.sender.handle_timeout(sending.clock.now());
        let _ = sending.drain();
        let time = |wanted: u32| {
            let mut reports = sending.rtcp.iter();
            reports.find_map(|packet| match packet {
                RtcpPacket::SenderReport { ssrc, rtp_time, .. } if *ssrc == wanted => Some(*rtp_time),
                _ => None,
            })
        };
        let pictures = time(SSRC).unwrap().wrapping_sub(first_picture) as i32 / 90;
        pictures - time(9).unwrap().wrapping_sub(first_sound) as i32 / 48
    };
    assert!(apart(None).abs() <= 1, "by arrival both are of one moment");
    // On the clock of the pictures the first sound is 70 ms later than the first picture.
    assert!((apart(Some(-1_000_000_000)) - 70).abs() <= 1);
}

#[test]
fn packets_are_numbered_as_they_leave_and_a_way_that_holds_them_back_is_found_by_when_they_arrived() {
    let clock = Clock::manual();
    let mut agreed = track(true);
    agreed.extensions.transport_wide = Some(3);
    let settings = SenderSettings { cname: "name".into(), video: Some(agreed), audio: None };
    let sender = Sender::new(settings, &mut StdRng::seed_from_u64(1), clock.now());
    let mut sending = Sending { clock, sender, pictures: 0, wanted: 0, told: vec![], rtcp: vec![] };
    let began = sending.clock.now();
    let (mut next, mut free_at, mut underway) = (0_u16, began, VecDeque::new());
    // Two Mbit/s over a way that carries half of that, and a message each tenth of a second.
    for n in 0..300 {
        sending.picture(n % 60 == 0, 8300);
        let (packets, _) = sending.drain();
        for packet in &packets {
            let number = RtpPacket::parse(packet).unwrap().extension(3).unwrap().to_vec();
            assert_eq!(number, next.to_be_bytes(), "none is left out and none is there twice");
            next += 1;
            free_at = free_at.max(sending.clock.now()) + Duration::from_micros(packet.len() as u64 * 8);
            underway.push_back((next - 1, free_at));
        }
        if n == 10 {
            // A repetition is another packet on its way.
            let again = RtpPacket::parse(&packets[0]).unwrap().sequence;
            sending.hear(|writer| writer.nack(9, SSRC, &[again]));
            let (repeated, _) = sending.drain();
            let repeated = RtpPacket::parse(&repeated[0]).unwrap();
            assert_eq!((repeated.ssrc, repeated.extension(3).unwrap()), (RTX, &next.to_be_bytes()[..]));
            assert_eq!(repeated.payload[..2], again.to_be_bytes());
            next += 1;
        }
        sending.clock.advance(Duration::from_micros(33_333));
        sending.sender.handle_timeout(sending.clock.now());
        if n % 3 == 0 {
            let now = sending.clock.now();
            while let Some((number, _)) = underway.front().filter(|(_, at)| *at <= now).copied() {
                let (_, at) = underway.pop_front().unwrap();
                let ticks = (at - began).as_micros() as u64 / 250;
                let message = transport_wide_message(number, ticks);
                sending.sender.handle_rtcp(now, &message).unwrap();
            }
        }
    }
    let stats = sending.sender.stats();
    assert!(stats.is_short && stats.dropped > 0, "{stats:?}");
    let (needs, has) = sending.told[0];
    assert!(needs > 1_500_000 && (300_000..1_200_000).contains(&has), "{needs} of {has}");
}

/// AES-GCM gives the key of its tags away when two different packets are encrypted under one number (RFC 7714 section 15.1).
#[test]
fn a_packet_that_is_repeated_under_its_own_number_is_the_same_to_the_last_bit() {
    let clock = Clock::manual();
    let mut agreed = track(false);
    agreed.extensions.transport_wide = Some(3);
    let settings = SenderSettings { cname: "name".into(), video: Some(agreed), audio: None };
    let sender = Sender::new(settings, &mut StdRng::seed_from_u64(1), clock.now());
    let mut sending = Sending { clock, sender, pictures: 0, wanted: 0, told: vec![], rtcp: vec![] };
    let mut sent = Vec::new();
    for n in 0..10 {
        sending.picture(n == 0, 3000);
        sent.extend(sending.drain().0);
        sending.clock.advance(Duration::from_millis(33));
    }
    let again: Vec<u16> = sent.iter().map(|packet| RtpPacket::parse(packet).unwrap().sequence).collect();
    sending.hear(|writer| writer.nack(9, SSRC, &again));
    assert_eq!(sending.drain().0, sent);
}

#[test]
fn repetitions_have_a_bound_that_grows_with_what_is_sent() {
    let mut sending = Sending::new(true);
    let mut sent = Vec::new();
    let mut repeated_bytes = 0;
    for n in 0..60 {
        sending.picture(n == 0, 20_000);
        sending.clock.advance(Duration::from_millis(33));
        sending.sender.handle_timeout(sending.clock.now());
        let (packets, _) = sending.drain();
        sent.extend(packets.iter().filter(|packet| RtpPacket::parse(packet).unwrap().ssrc == SSRC).cloned());
        repeated_bytes += packets
            .iter()
            .filter(|packet| RtpPacket::parse(packet).unwrap().ssrc == RTX)
            .map(Bytes::len)
            .sum::<usize>();
        // Everything is asked for again and again.
        let newest: Vec<u16> =
            sent.iter().rev().take(200).map(|p| RtpPacket::parse(p).unwrap().sequence).collect();
        sending.hear(|writer| writer.nack(9, SSRC, &newest));
    }
    let sent_bytes: usize = sent.iter().map(Bytes::len).sum();
    assert!(repeated_bytes > sent_bytes / 3, "{repeated_bytes} of {sent_bytes}");
    assert!(repeated_bytes < sent_bytes / 2 + 150_000, "{repeated_bytes} of {sent_bytes}");
}

/// Feedback about one packet that arrived at so many quarters of a millisecond.
fn transport_wide_message(number: u16, ticks: u64) -> Vec<u8> {
    let [.., r0, r1, r2] = (ticks / 256).to_be_bytes();
    let [n0, n1] = number.to_be_bytes();
    let mut message = vec![0x8F, 205, 0, 5, 0, 0, 0, 9, 1, 1, 1, 1, n0, n1, 0, 1, r0, r1, r2, 0];
    message.extend([0x20, 1, (ticks % 256) as u8, 0]);
    message
}

#[test]
fn parameter_sets_go_before_each_keyframe_and_before_any_picture_with_which_they_change() {
    let mut packer = H264Packer::default();
    let clock = Clock::manual();
    let slice = Bytes::from_static(&[0, 0, 0, 2, 0x41, 9]);
    let mut cut = |key: bool, pps: &'static [u8]| {
        let codec = VideoCodec::H264 {
            sps: vec![Bytes::from_static(&[0x67, 1])],
            pps: vec![Bytes::from_static(pps)],
        };
        let params = VideoParams {
            codec,
            width: 16,
            height: 16,
            sample_aspect_ratio: (1, 1),
            colour: Colour::unsaid(16, 16),
            rotation: Rotation::None,
        };
        let unit = AccessUnit {
            seq: 0,
            arrived: clock.now(),
            pts: Timestamp::video(0),
            dts: Timestamp::video(0),
            key,
            disposable: false,
            bidirectional: false,
            hidden: false,
            params: std::sync::Arc::new(params),
            data: slice.clone(),
        };
        let payloads = packer.cut(&unit, PAYLOAD_BYTES_MAX).unwrap();
        payloads.iter().map(|payload| payload.to_vec()[0] & 31).collect::<Vec<_>>()
    };
    assert_eq!(cut(true, &[0x68, 1]), [24, 1]);
    assert_eq!(cut(false, &[0x68, 1]), [1]);
    assert_eq!(cut(false, &[0x68, 2]), [24, 1]);
    assert_eq!(cut(false, &[0x68, 2]), [1]);
    assert_eq!(cut(true, &[0x68, 2]), [24, 1]);
}
