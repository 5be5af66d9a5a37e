use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::base::clock::Clock;
use crate::media::time::Timestamp;
use crate::media::track::{Colour, VideoParams};
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
                SenderOutput::Rtp(packet) => packets.push(packet),
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
