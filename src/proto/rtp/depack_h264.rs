//! H.264 out of RTP (RFC 6184): single NAL unit packets, STAP-A and FU-A, packetization modes 0 and 1.

use std::collections::VecDeque;
use std::time::Instant;

use super::depack::{Chain, Depacketized, VideoDepacketizer};
use super::header::RtpPacket;
use crate::media::h264::assemble::{UnitBuilder, UnitTimes};
use crate::media::h264::{NalHeader, NalType};
use crate::media::time::{Timestamp, Unwrap32};
use crate::media::track::{Rotation, VideoParams};

/// RFC 6184 table 1: aggregation with 16-bit sizes.
const STAP_A: u8 = 24;
/// RFC 6184 table 1: fragment.
const FU_A: u8 = 28;

/// Packets of one source in sending order in, pictures out.
#[derive(Debug)]
pub struct H264Depacketizer {
    builder: UnitBuilder,
    time: Unwrap32,
    open: Option<OpenUnit>,
    /// Packets were lost since the last one that was seen.
    hole: bool,
    chain: Chain,
}

#[derive(Debug)]
struct OpenUnit {
    ticks: i64,
    arrived: Instant,
    damaged: bool,
    /// Type byte of the NAL unit that is being put together from fragments.
    fragment: Option<u8>,
}

/// A payload that is not what RFC 6184 allows, or a fragment whose neighbours are missing.
struct Damaged;

impl H264Depacketizer {
    /// A depacketizer that waits for an IDR picture. Pictures of more than `pixels_max` are refused.
    #[must_use]
    pub fn new(pixels_max: u64) -> Self {
        Self {
            builder: UnitBuilder::new(pixels_max),
            time: Unwrap32::default(),
            open: None,
            hole: false,
            chain: Chain::default(),
        }
    }

    /// Tells a parameter set that came beside the packets (`sprop-parameter-sets`, RFC 6184 section 8.1); one that comes
    /// among them later takes its place. Call it before the first packet. One that cannot be used is forgotten.
    pub fn know_parameter_set(&mut self, nal: &[u8]) {
        self.builder.push(nal);
        self.builder.discard();
    }

    /// The parameters of the last picture delivered.
    #[must_use]
    pub fn params(&self) -> Option<&VideoParams> {
        self.builder.params().map(AsRef::as_ref)
    }

    fn finish(&mut self, out: &mut VecDeque<Depacketized>) {
        let Some(open) = self.open.take() else { return };
        let times = UnitTimes {
            arrived: open.arrived,
            pts: Timestamp::video(open.ticks),
            // RTP carries no decoding time. Senders here reorder nothing, so the two are one.
            dts: Timestamp::video(open.ticks),
        };
        if open.damaged {
            self.builder.discard();
            self.chain.drop_picture(out);
            return;
        }
        match self.builder.finish(times) {
            Ok(None) => {}
            Ok(Some(unit)) => self.chain.offer(unit, out),
            Err(error) => self.chain.refuse(error, out),
        }
    }
}

impl VideoDepacketizer for H264Depacketizer {
    fn mark_lost(&mut self, out: &mut VecDeque<Depacketized>) {
        self.hole = true;
        if self.open.take().is_some() {
            self.builder.discard();
            self.chain.drop_picture(out);
        }
        self.chain.break_off(out);
    }

    fn restart(&mut self, out: &mut VecDeque<Depacketized>) {
        self.mark_lost(out);
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn push(
        &mut self,
        packet: &RtpPacket<'_>,
        arrived: Instant,
        rotation: Option<Rotation>,
        out: &mut VecDeque<Depacketized>,
    ) {
        if packet.payload.is_empty() {
            // Padding: it keeps the sequence and says nothing else. A hole before it is still a hole.
            return;
        }
        let ticks = self.time.unwrap(packet.timestamp);
        if self.open.as_ref().is_some_and(|open| open.ticks != ticks) {
            // The marker bit is only a hint (RFC 6184 section 5.1): another time is another picture.
            self.finish(out);
        }
        if self.open.is_none() {
            // Behind a hole nobody knows whether the picture's first packets were lost. Parameter sets or a delimiter
            // at its head show that they were not.
            let damaged = std::mem::take(&mut self.hole) && !begins_picture(packet.payload);
            self.open = Some(OpenUnit { ticks, arrived, damaged, fragment: None });
        }
        if let Some(rotation) = rotation {
            self.builder.set_rotation(rotation);
        }
        if let Some(open) = &mut self.open
            && !open.damaged
            && take_payload(&mut self.builder, open, packet.payload).is_err()
        {
            open.damaged = true;
            self.builder.discard();
        }
        if packet.marker {
            self.finish(out);
        }
    }
}

fn take_payload(builder: &mut UnitBuilder, open: &mut OpenUnit, payload: &[u8]) -> Result<(), Damaged> {
    let (&head, rest) = payload.split_first().ok_or(Damaged)?;
    if open.fragment.is_some() && head & 0x1F != FU_A {
        // The fragments of a NAL unit come without anything in between (RFC 6184 section 5.8).
        return Err(Damaged);
    }
    match head & 0x1F {
        1..=23 => builder.push(payload),
        STAP_A => {
            for nal in aggregated(rest) {
                builder.push(nal?);
            }
        }
        FU_A => take_fragment(builder, open, head, rest)?,
        // STAP-B, MTAP and FU-B belong to mode 2, which is never agreed on.
        _ => return Err(Damaged),
    }
    Ok(())
}

fn take_fragment(
    builder: &mut UnitBuilder,
    open: &mut OpenUnit,
    indicator: u8,
    rest: &[u8],
) -> Result<(), Damaged> {
    let (&fu_header, fragment) = rest.split_first().ok_or(Damaged)?;
    let (is_start, is_end) = (fu_header & 0x80 != 0, fu_header & 0x40 != 0);
    let nal_header = indicator & 0xE0 | fu_header & 0x1F;
    if fragment.is_empty() || is_start && is_end || !(1..=23).contains(&(fu_header & 0x1F)) {
        return Err(Damaged);
    }
    match open.fragment {
        None if is_start => {
            builder.open();
            builder.append(&[nal_header]);
        }
        Some(begun) if !is_start && begun == nal_header => {}
        // The start is missing, or the end of the one before.
        _ => return Err(Damaged),
    }
    builder.append(fragment);
    open.fragment = Some(nal_header);
    if is_end {
        builder.close();
        open.fragment = None;
    }
    Ok(())
}

/// The NAL units behind the type byte of a STAP-A; an error where sizes and bytes do not match.
fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = Result<&[u8], Damaged>> {
    let mut is_over = rest.is_empty();
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let split = rest.split_first_chunk::<2>().and_then(|(size, after)| {
            after.split_at_checked(usize::from(u16::from_be_bytes(*size))).filter(|(nal, _)| !nal.is_empty())
        });
        let Some((nal, after)) = split else {
            is_over = true;
            return Some(Err(Damaged));
        };
        rest = after;
        is_over = rest.is_empty();
        Some(Ok(nal))
    })
}

/// Whether a payload can only be the first of its picture: it holds a parameter set or a delimiter.
fn begins_picture(payload: &[u8]) -> bool {
    let leads = |nal: &[u8]| {
        let nal_type = NalHeader::of(nal).map(NalHeader::nal_type);
        matches!(nal_type, Some(NalType::Sps | NalType::Aud))
    };
    match payload.split_first() {
        Some((&head, rest)) if head & 0x1F == STAP_A => {
            aggregated(rest).next().is_some_and(|nal| nal.is_ok_and(leads))
        }
        _ => leads(payload),
    }
}

#[cfg(test)]
#[path = "depack_h264_tests.rs"]
mod tests;
