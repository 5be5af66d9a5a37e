//! What a viewer's feedback does to the sender.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::base::clock::Clock;
use crate::media::time::{Timestamp, VIDEO_TIMESCALE};
use crate::media::track::{Colour, Rotation, VideoCodec, VideoParams};
use crate::media::unit::AccessUnit;
use crate::proto::rtp::header::RtpPacket;
use crate::proto::rtp::rtcp;
use crate::proto::rtp::sender::{SendExtensions, SendTrack, Sender, SenderOutput, SenderSettings};

/// A viewer's feedback, each compound behind its size and the time before it, between pictures: what is sent stays in order,
/// bounded and paced whatever is asked for.
pub fn sender(data: &[u8]) {
    let clock = Clock::manual();
    let track = SendTrack {
        ssrc: 1,
        payload_type: 96,
        clock_rate: VIDEO_TIMESCALE,
        rtx: Some((2, 97)),
        extensions: SendExtensions {
            mid: Some((4, "1".into())),
            abs_send_time: Some(2),
            orientation: Some(13),
            transport_wide: Some(3),
        },
    };
    let settings = SenderSettings { cname: "us".into(), video: Some(track), audio: None };
    let mut sender = Sender::new(settings, &mut StdRng::seed_from_u64(7), clock.now());
    let (mut rest, mut number, mut last) = (data, 0_u32, None);
    while let Some(([size, pause], after)) = rest.split_first_chunk::<2>() {
        let (compound, after) = after.split_at(usize::from(*size).min(after.len()));
        rest = after;
        clock.advance(Duration::from_millis(u64::from(*pause)));
        let params = VideoParams {
            codec: VideoCodec::Vp8,
            width: 16,
            height: 16,
            sample_aspect_ratio: (1, 1),
            colour: Colour::unsaid(16, 16),
            rotation: Rotation::None,
        };
        sender.send_video(
            clock.now(),
            &AccessUnit {
                seq: 0,
                arrived: clock.now(),
                pts: Timestamp::video(i64::from(number) * 3000),
                dts: Timestamp::video(i64::from(number) * 3000),
                key: number.is_multiple_of(5),
                disposable: false,
                bidirectional: false,
                hidden: false,
                params: Arc::new(params),
                data: vec![0; usize::from(*size) * 50 + 10].into(),
            },
        );
        number += 1;
        let _ = sender.handle_rtcp(clock.now(), compound);
        let mut sent_bytes = 0;
        assert!((0..100).any(|_| {
            sender.handle_timeout(clock.now());
            loop {
                match sender.poll_output() {
                    SenderOutput::Timeout(at) => break at > clock.now(),
                    SenderOutput::Rtcp(compound) => {
                        assert!(rtcp::parse(&compound).is_ok(), "RTCP of our own")
                    }
                    SenderOutput::Rtp(packet) => {
                        let whole = packet.to_vec();
                        let read = RtpPacket::parse(&whole).expect("a packet of ours");
                        sent_bytes += packet.len();
                        if read.ssrc == 1 {
                            let before = last.replace(read.sequence);
                            assert!(before.is_none_or(|before| before.wrapping_add(1) == read.sequence));
                        }
                    }
                    SenderOutput::KeyframeWanted | SenderOutput::NotEnoughBandwidth { .. } => {}
                }
            }
        }));
        assert!(sent_bytes < 100_000, "{sent_bytes} bytes at one moment");
    }
}
