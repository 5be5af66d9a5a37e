//! RTCP: reports and feedback, read and written (RFC 3550 section 6, RFC 4585, RFC 5104, `goog-remb`).

use thiserror::Error;

use super::transport_wide::TransportWideFeedback;

/// Most packets of one compound that are looked at: a datagram of 1500 bytes holds at most 375.
const COMPOUND_PACKETS_MAX: usize = 64;
/// Most sequence numbers that one generic NACK of ours names.
pub const NACK_SEQUENCES_MAX: usize = 256;
/// Most report blocks in one report: the count has five bits.
const BLOCKS_MAX: usize = 31;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const FORMAT_NACK: u8 = 1;
const FORMAT_TRANSPORT_WIDE: u8 = 15;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
const FORMAT_APPLICATION: u8 = 15;

/// Why a compound packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RtcpError {
    /// A length leads out of the datagram, or a packet is shorter than its type asks.
    #[error("rtcp packet at byte {0} is cut short")]
    Short(usize),
    /// The two version bits are not 2.
    #[error("rtcp packet at byte {0} has another version")]
    Version(usize),
    /// More packets in one datagram than anybody sends.
    #[error("too many rtcp packets in one datagram")]
    TooMany,
}

/// One packet of a compound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RtcpPacket {
    /// SR: what a sender sent.
    SenderReport {
        /// The sender.
        ssrc: u32,
        /// Its wall clock, NTP format (32 bits of seconds, 32 of fraction).
        ntp: u64,
        /// The same moment on its RTP clock.
        rtp_time: u32,
        /// Packets sent.
        packets: u32,
        /// Payload bytes sent.
        bytes: u32,
        /// What it received from others.
        blocks: Vec<ReportBlock>,
    },
    /// RR: what somebody received.
    ReceiverReport {
        /// Who reports.
        ssrc: u32,
        /// What it received, by source.
        blocks: Vec<ReportBlock>,
    },
    /// SDES: canonical names by source.
    SourceDescription {
        /// (source, CNAME); sources without one are left out.
        names: Vec<(u32, Vec<u8>)>,
    },
    /// BYE: these sources end.
    Goodbye {
        /// The sources.
        ssrcs: Vec<u32>,
    },
    /// Generic NACK (RFC 4585 section 6.2.1): these packets are missing.
    Nack {
        /// Source of the missing packets.
        media_ssrc: u32,
        /// Their sequence numbers.
        sequences: Vec<u16>,
    },
    /// PLI (RFC 4585 section 6.3.1): a picture was lost, send a keyframe.
    PictureLoss {
        /// Source of the pictures.
        media_ssrc: u32,
    },
    /// FIR (RFC 5104 section 4.3.1): send a keyframe.
    FullIntra {
        /// (source, command number): a repeated number is the same command.
        commands: Vec<(u32, u8)>,
    },
    /// REMB (draft-alvestrand-rmcat-remb): most that the receiver wants to get.
    Remb {
        /// Bits a second, all sources together.
        bitrate_bps: u64,
        /// The sources.
        ssrcs: Vec<u32>,
    },
    /// Transport-wide feedback: when numbered packets arrived.
    TransportWide(TransportWideFeedback),
    /// Anything else.
    Other {
        /// Packet type.
        packet_type: u8,
        /// The five bits behind the version: count or format.
        format: u8,
    },
}

/// How one source was received (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The source.
    pub ssrc: u32,
    /// Lost since the previous report, in 256ths of what was expected.
    pub fraction_lost: u8,
    /// Lost in all, 24 bits, signed: late and doubled packets count against it.
    pub lost: i32,
    /// Highest sequence number, with the number of wraps in the upper half.
    pub highest_sequence: u32,
    /// Variation of the time on the way, in ticks of the source's clock.
    pub jitter: u32,
    /// Middle 32 bits of the newest sender report's time; 0 without one.
    pub last_sr: u32,
    /// Since that report came, in 65 536ths of a second.
    pub delay_since_last_sr: u32,
}

/// Reads a compound packet.
///
/// # Errors
/// When a length does not fit; nothing of the compound counts then.
pub fn parse(compound: &[u8]) -> Result<Vec<RtcpPacket>, RtcpError> {
    let mut packets = Vec::new();
    let mut rest = compound;
    while !rest.is_empty() {
        let at = compound.len() - rest.len();
        let short = RtcpError::Short(at);
        if packets.len() == COMPOUND_PACKETS_MAX {
            return Err(RtcpError::TooMany);
        }
        let (&[flags, packet_type, l0, l1], after) = rest.split_first_chunk::<4>().ok_or(short)?;
        if flags >> 6 != 2 {
            return Err(RtcpError::Version(at));
        }
        let size = usize::from(u16::from_be_bytes([l0, l1])) * 4;
        let (mut body, behind) = after.split_at_checked(size).ok_or(short)?;
        if flags & 0x20 != 0 {
            let padding = usize::from(*body.last().ok_or(short)?);
            let kept = body.len().checked_sub(padding).filter(|_| padding > 0).ok_or(short)?;
            body = body.get(..kept).ok_or(short)?;
        }
        packets.push(read_body(packet_type, flags & 0x1F, body).ok_or(short)?);
        rest = behind;
    }
    Ok(packets)
}

/// `None`: the body is too short for its type.
fn read_body(packet_type: u8, format: u8, body: &[u8]) -> Option<RtcpPacket> {
    let mut body = Reader(body);
    Some(match (packet_type, format) {
        (SENDER_REPORT, count) => RtcpPacket::SenderReport {
            ssrc: body.u32()?,
            ntp: u64::from(body.u32()?) << 32 | u64::from(body.u32()?),
            rtp_time: body.u32()?,
            packets: body.u32()?,
            bytes: body.u32()?,
            blocks: body.blocks(count)?,
        },
        (RECEIVER_REPORT, count) => {
            RtcpPacket::ReceiverReport { ssrc: body.u32()?, blocks: body.blocks(count)? }
        }
        (SOURCE_DESCRIPTION, count) => RtcpPacket::SourceDescription { names: body.names(count)? },
        (GOODBYE, count) => {
            RtcpPacket::Goodbye { ssrcs: (0..count).map(|_| body.u32()).collect::<Option<_>>()? }
        }
        (TRANSPORT_FEEDBACK, FORMAT_NACK) => {
            body.u32()?;
            let media_ssrc = body.u32()?;
            let mut sequences = Vec::new();
            while let Some(item) = body.u32() {
                let (first, following) = ((item >> 16) as u16, item as u16);
                sequences.push(first);
                let bits = (0..16_u16).filter(|bit| following >> bit & 1 == 1);
                sequences.extend(bits.map(|bit| first.wrapping_add(bit + 1)));
            }
            RtcpPacket::Nack { media_ssrc, sequences }
        }
        (TRANSPORT_FEEDBACK, FORMAT_TRANSPORT_WIDE) => {
            body.u32()?;
            body.u32()?;
            // What cannot be read is lost for the estimate alone: the reports beside it count.
            TransportWideFeedback::read(body.0)
                .map_or(RtcpPacket::Other { packet_type, format }, RtcpPacket::TransportWide)
        }
        (PAYLOAD_FEEDBACK, FORMAT_PLI) => {
            body.u32()?;
            RtcpPacket::PictureLoss { media_ssrc: body.u32()? }
        }
        (PAYLOAD_FEEDBACK, FORMAT_FIR) => {
            body.u32()?;
            body.u32()?;
            let mut commands = Vec::new();
            while let (Some(ssrc), Some(number)) = (body.u32(), body.u32()) {
                commands.push((ssrc, (number >> 24) as u8));
            }
            RtcpPacket::FullIntra { commands }
        }
        (PAYLOAD_FEEDBACK, FORMAT_APPLICATION) => {
            body.u32()?;
            body.u32()?;
            if body.0.first_chunk() != Some(b"REMB") {
                return Some(RtcpPacket::Other { packet_type, format });
            }
            body.u32()?;
            let head = body.u32()?;
            // 8 bits of count, 6 of exponent, 18 of mantissa.
            let (exponent, mantissa) = (head >> 18 & 0x3F, u64::from(head & 0x3_FFFF));
            let bitrate_bps = if exponent > 45 { u64::MAX } else { mantissa << exponent };
            let ssrcs = (0..head >> 24).map(|_| body.u32()).collect::<Option<_>>()?;
            RtcpPacket::Remb { bitrate_bps, ssrcs }
        }
        (packet_type, format) => RtcpPacket::Other { packet_type, format },
    })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*word))
    }

    fn blocks(&mut self, count: u8) -> Option<Vec<ReportBlock>> {
        (0..count).map(|_| self.block()).collect()
    }

    fn block(&mut self) -> Option<ReportBlock> {
        let ssrc = self.u32()?;
        let losses = self.u32()?;
        Some(ReportBlock {
            ssrc,
            fraction_lost: (losses >> 24) as u8,
            // The shift up and down spreads the sign of the 24 bits.
            lost: (losses << 8) as i32 >> 8,
            highest_sequence: self.u32()?,
            jitter: self.u32()?,
            last_sr: self.u32()?,
            delay_since_last_sr: self.u32()?,
        })
    }

    fn names(&mut self, chunks: u8) -> Option<Vec<(u32, Vec<u8>)>> {
        let mut names = Vec::new();
        for _ in 0..chunks {
            let ssrc = self.u32()?;
            let chunk_bytes = self.0.len();
            loop {
                let (&item, rest) = self.0.split_first()?;
                self.0 = rest;
                if item == 0 {
                    break;
                }
                let (&size, rest) = self.0.split_first()?;
                let (text, rest) = rest.split_at_checked(usize::from(size))?;
                self.0 = rest;
                if item == 1 {
                    names.push((ssrc, text.to_vec()));
                }
            }
            // A chunk ends at a multiple of four bytes.
            let past_end = (chunk_bytes - self.0.len()).next_multiple_of(4) - (chunk_bytes - self.0.len());
            self.0 = self.0.get(past_end..)?;
        }
        Some(names)
    }
}

/// Writes a compound packet.
#[derive(Clone, Debug, Default)]
pub struct RtcpWriter {
    bytes: Vec<u8>,
}

impl RtcpWriter {
    /// An empty compound.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The compound so far.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds an SR; `blocks` beyond 31 are left out.
    pub fn sender_report(
        &mut self,
        ssrc: u32,
        ntp: u64,
        rtp_time: u32,
        sent: (u32, u32),
        blocks: &[ReportBlock],
    ) -> &mut Self {
        self.packet(SENDER_REPORT, blocks.len().min(BLOCKS_MAX) as u8, |body| {
            body.extend_from_slice(&ssrc.to_be_bytes());
            body.extend_from_slice(&ntp.to_be_bytes());
            for word in [rtp_time, sent.0, sent.1] {
                body.extend_from_slice(&word.to_be_bytes());
            }
            write_blocks(body, blocks);
        })
    }

    /// Adds an RR; `blocks` beyond 31 are left out.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> &mut Self {
        self.packet(RECEIVER_REPORT, blocks.len().min(BLOCKS_MAX) as u8, |body| {
            body.extend_from_slice(&ssrc.to_be_bytes());
            write_blocks(body, blocks);
        })
    }

    /// Adds an SDES with one canonical name, of which at most 255 bytes are sent.
    pub fn canonical_name(&mut self, ssrc: u32, name: &str) -> &mut Self {
        self.packet(SOURCE_DESCRIPTION, 1, |body| {
            body.extend_from_slice(&ssrc.to_be_bytes());
            let text: Vec<u8> = name.bytes().take(255).collect();
            body.extend_from_slice(&[1, text.len() as u8]);
            body.extend_from_slice(&text);
            // The list ends with a zero byte; `packet` fills up with more.
            body.push(0);
        })
    }

    /// Adds a BYE for one source.
    pub fn goodbye(&mut self, ssrc: u32) -> &mut Self {
        self.packet(GOODBYE, 1, |body| body.extend_from_slice(&ssrc.to_be_bytes()))
    }

    /// Adds a generic NACK for rising sequence numbers, of which the first [`NACK_SEQUENCES_MAX`] are sent.
    pub fn nack(&mut self, ssrc: u32, media_ssrc: u32, sequences: &[u16]) -> &mut Self {
        self.packet(TRANSPORT_FEEDBACK, FORMAT_NACK, |body| {
            body.extend_from_slice(&ssrc.to_be_bytes());
            body.extend_from_slice(&media_ssrc.to_be_bytes());
            let mut item: Option<(u16, u16)> = None;
            let mut put = |(first, following): (u16, u16)| {
                body.extend_from_slice(&first.to_be_bytes());
                body.extend_from_slice(&following.to_be_bytes());
            };
            for &sequence in sequences.iter().take(NACK_SEQUENCES_MAX) {
                match &mut item {
                    Some((first, following)) if (1..=16).contains(&sequence.wrapping_sub(*first)) => {
                        *following |= 1 << (sequence.wrapping_sub(*first) - 1);
                    }
                    _ => {
                        if let Some(full) = item.replace((sequence, 0)) {
                            put(full);
                        }
                    }
                }
            }
            item.into_iter().for_each(put);
        })
    }

    /// Adds a PLI.
    pub fn picture_loss(&mut self, ssrc: u32, media_ssrc: u32) -> &mut Self {
        self.packet(PAYLOAD_FEEDBACK, FORMAT_PLI, |body| {
            body.extend_from_slice(&ssrc.to_be_bytes());
            body.extend_from_slice(&media_ssrc.to_be_bytes());
        })
    }

    /// Adds an FIR; `number` must change with each new command.
    pub fn full_intra(&mut self, ssrc: u32, media_ssrc: u32, number: u8) -> &mut Self {
        self.packet(PAYLOAD_FEEDBACK, FORMAT_FIR, |body| {
            for word in [ssrc, 0, media_ssrc, u32::from(number) << 24] {
                body.extend_from_slice(&word.to_be_bytes());
            }
        })
    }

    /// Adds a REMB; sources beyond 255 are left out. The rate is rounded down to 18 significant bits.
    pub fn remb(&mut self, ssrc: u32, bitrate_bps: u64, ssrcs: &[u32]) -> &mut Self {
        self.packet(PAYLOAD_FEEDBACK, FORMAT_APPLICATION, |body| {
            body.extend_from_slice(&ssrc.to_be_bytes());
            body.extend_from_slice(&[0; 4]);
            body.extend_from_slice(b"REMB");
            let exponent = (u64::BITS - bitrate_bps.leading_zeros()).saturating_sub(18);
            let mantissa = (bitrate_bps >> exponent) as u32;
            let count = ssrcs.len().min(255) as u32;
            body.extend_from_slice(&(count << 24 | exponent << 18 | mantissa).to_be_bytes());
            for ssrc in ssrcs.iter().take(255) {
                body.extend_from_slice(&ssrc.to_be_bytes());
            }
        })
    }

    fn packet(&mut self, packet_type: u8, format: u8, body: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0x80 | format, packet_type, 0, 0]);
        body(&mut self.bytes);
        let size = (self.bytes.len() - start).next_multiple_of(4);
        self.bytes.resize(start + size, 0);
        // All bodies above are bounded far below the 256 KiB that the length can tell.
        let words = (size / 4 - 1) as u16;
        if let Some(length) = self.bytes.get_mut(start + 2..start + 4) {
            length.copy_from_slice(&words.to_be_bytes());
        }
        self
    }
}

fn write_blocks(body: &mut Vec<u8>, blocks: &[ReportBlock]) {
    for block in blocks.iter().take(BLOCKS_MAX) {
        let lost = block.lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
        for word in [
            block.ssrc,
            u32::from(block.fraction_lost) << 24 | lost,
            block.highest_sequence,
            block.jitter,
            block.last_sr,
            block.delay_since_last_sr,
        ] {
            body.extend_from_slice(&word.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut RtcpWriter)) -> Vec<RtcpPacket> {
        let mut writer = RtcpWriter::new();
        write(&mut writer);
        parse(&writer.finish()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let block = ReportBlock {
            ssrc: 7,
            fraction_lost: 12,
            lost: -3,
            highest_sequence: 0x0002_FFFF,
            jitter: 90,
            last_sr: 0xAABB_CCDD,
            delay_since_last_sr: 65_536,
        };
        let read = written(|writer| {
            writer.sender_report(1, 0x0102_0304_0506_0708, 9, (10, 11), &[block]);
            writer.receiver_report(1, &[block, block]).canonical_name(1, "abcde").canonical_name(2, "");
            writer.picture_loss(1, 7).full_intra(1, 7, 200).goodbye(1);
        });
        let (blocks, rtp_time) = (vec![block], 9);
        let ntp = 0x0102_0304_0506_0708;
        assert_eq!(
            read,
            [
                RtcpPacket::SenderReport { ssrc: 1, ntp, rtp_time, packets: 10, bytes: 11, blocks },
                RtcpPacket::ReceiverReport { ssrc: 1, blocks: vec![block; 2] },
                RtcpPacket::SourceDescription { names: vec![(1, b"abcde".to_vec())] },
                RtcpPacket::SourceDescription { names: vec![(2, vec![])] },
                RtcpPacket::PictureLoss { media_ssrc: 7 },
                RtcpPacket::FullIntra { commands: vec![(7, 200)] },
                RtcpPacket::Goodbye { ssrcs: vec![1] },
            ]
        );
    }

    #[test]
    fn missing_packets_are_packed_across_the_wrap() {
        let sequences = [65_530, 65_535, 0, 10, 11, 300];
        let mut writer = RtcpWriter::new();
        writer.nack(1, 7, &sequences);
        let bytes = writer.finish();
        assert_eq!(bytes.len(), 12 + 3 * 4, "three items: 65530 with 5 and 6 behind it, 10 with 11, 300");
        assert_eq!(
            parse(&bytes).unwrap(),
            [RtcpPacket::Nack { media_ssrc: 7, sequences: sequences.to_vec() }]
        );
    }

    #[test]
    fn a_rate_keeps_eighteen_bits() {
        for (rate, told) in
            [(0, 0), (262_143, 262_143), (2_500_001, 2_500_000), (u64::MAX, u64::MAX >> 46 << 46)]
        {
            let read = written(|writer| {
                writer.remb(1, rate, &[7, 8]);
            });
            // An exponent of 46 is beyond what can be told exactly and reads as "any".
            let told = if rate == u64::MAX { u64::MAX } else { told };
            assert_eq!(read, [RtcpPacket::Remb { bitrate_bps: told, ssrcs: vec![7, 8] }]);
        }
    }

    #[test]
    fn lengths_that_lead_out_are_refused_and_unknown_packets_are_not() {
        assert_eq!(parse(&[0x80, 201, 0, 1]), Err(RtcpError::Short(0)));
        assert_eq!(parse(&[0x81, 201, 0, 1, 0, 0, 0, 1]), Err(RtcpError::Short(0)), "a block is announced");
        assert_eq!(parse(&[0x40, 201, 0, 0]), Err(RtcpError::Version(0)));
        assert_eq!(parse(&[0x80, 207, 0, 0]), Ok(vec![RtcpPacket::Other { packet_type: 207, format: 0 }]));
        assert_eq!(parse(&[0x80, 207, 0, 0].repeat(65)), Err(RtcpError::TooMany));
        assert_eq!(parse(&[0xA0, 207, 0, 0]), Err(RtcpError::Short(0)), "padding of a body without bytes");
        assert_eq!(parse(&[]), Ok(vec![]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_bytes_are_read_or_refused(
            packets in prop::collection::vec((0_u8..4, 199_u8..208, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            cut in 0_usize..200,
        ) {
            let mut bytes = Vec::new();
            for (flags, packet_type, body) in packets {
                let words = (body.len() / 4) as u8;
                bytes.extend_from_slice(&[0x80 | flags << 4 | (words & 0xF), packet_type, 0, words]);
                bytes.extend_from_slice(&body[..usize::from(words) * 4]);
            }
            bytes.truncate(bytes.len().saturating_sub(cut % 7));
            let _ = parse(&bytes);
        }

        #[test]
        fn nack_lists_survive(mut sequences in prop::collection::vec(0_u16..600, 1..80)) {
            sequences.sort_unstable();
            sequences.dedup();
            let sequences: Vec<u16> = sequences.iter().map(|s| s.wrapping_sub(300)).collect();
            let mut writer = RtcpWriter::new();
            writer.nack(1, 2, &sequences);
            prop_assert_eq!(parse(&writer.finish()).unwrap(), [RtcpPacket::Nack { media_ssrc: 2, sequences }]);
        }
    }
}
