//! VP8 out of RTP (RFC 7741).
//!
//! The rule of loss is that of all payload formats, with two exceptions that picture identifiers of 15 bits prove: what
//! was lost lies between two frames that follow each other, so nothing of a frame is lost (padding was); and what was
//! lost lies within a frame that the sender marks as discardable (N bit), which then is dropped alone.
//!
//! Temporal layers are no third one: to go on without an upper layer one would have to trust that nothing refers to it,
//! the state of the entropy decoder included.

use std::collections::VecDeque;
use std::time::Instant;

use super::depack::{Chain, Depacketized, VideoDepacketizer};
use super::header::RtpPacket;
use crate::media::time::{Timestamp, Unwrap32};
use crate::media::track::Rotation;
use crate::media::vp8::{FRAME_BYTES_MAX, FrameError, FrameUnits};

/// The working buffer keeps this much between frames; what a large frame made it grow beyond is given back.
const SCRATCH_KEPT_BYTES: usize = 64 * 1024;

/// Picture identifiers of the long form have 15 bits (RFC 7741 section 4.2).
const PICTURE_ID_MASK: u16 = 0x7FFF;

/// The payload descriptor (RFC 7741 section 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// N: the frame can be discarded without affecting any other.
    pub non_reference: bool,
    /// S: the payload begins a partition.
    pub start: bool,
    /// PID: the partition that the payload begins in.
    pub partition: u8,
    /// PictureID.
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX: a running count of frames of the lowest temporal layer.
    pub tl0_index: Option<u8>,
    /// TID: the temporal layer, with Y: it refers to frames of the lowest layer alone.
    pub layer: Option<(u8, bool)>,
    /// KEYIDX: a running count of keyframes.
    pub key_index: Option<u8>,
}

/// A running count of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureId {
    /// Of 7 bits, which a long loss can turn once around.
    Short(u8),
    /// Of 15 bits.
    Long(u16),
}

/// What of a payload descriptor lies outside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutShort;

impl Descriptor {
    /// Reads the descriptor at the head of a payload; returns it with the bytes behind it, of which there is at least
    /// one.
    ///
    /// # Errors
    /// When the payload ends before its first byte of VP8.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), CutShort> {
        let mut rest = payload;
        let mut next = || {
            let (&byte, after) = rest.split_first().ok_or(CutShort)?;
            rest = after;
            Ok(byte)
        };
        let head = next()?;
        let extensions = if head & 0x80 != 0 { next()? } else { 0 };
        let mut descriptor = Self {
            non_reference: head & 0x20 != 0,
            start: head & 0x10 != 0,
            partition: head & 0x07,
            ..Self::default()
        };
        if extensions & 0x80 != 0 {
            let first = next()?;
            descriptor.picture_id = Some(match first & 0x80 {
                0 => PictureId::Short(first),
                _ => PictureId::Long(u16::from_be_bytes([first, next()?]) & PICTURE_ID_MASK),
            });
        }
        if extensions & 0x40 != 0 {
            descriptor.tl0_index = Some(next()?);
        }
        if extensions & 0x30 != 0 {
            let byte = next()?;
            descriptor.layer = (extensions & 0x20 != 0).then_some((byte >> 6, byte & 0x20 != 0));
            descriptor.key_index = (extensions & 0x10 != 0).then_some(byte & 0x1F);
        }
        if rest.is_empty() { Err(CutShort) } else { Ok((descriptor, rest)) }
    }

    /// Whether a frame begins here.
    #[must_use]
    pub fn begins_frame(&self) -> bool {
        self.start && self.partition == 0
    }
}

impl PictureId {
    /// What follows what.
    fn succession(before: Option<Self>, now: Option<Self>) -> Succession {
        match (before, now) {
            (Some(Self::Long(before)), Some(Self::Long(now))) => {
                match now.wrapping_sub(before) & PICTURE_ID_MASK {
                    0 => Succession::Unsaid,
                    1 => Succession::Next,
                    _ => Succession::Other,
                }
            }
            (Some(Self::Short(before)), Some(Self::Short(now))) => match now.wrapping_sub(before) & 0x7F {
                0 | 1 => Succession::Unsaid,
                _ => Succession::Other,
            },
            _ => Succession::Unsaid,
        }
    }
}

/// What two picture identifiers say of the frames that they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Succession {
    /// Nothing is between them: a loss of half a minute at once would have ended the source.
    Next,
    /// Something is between them, or the count began anew.
    Other,
    /// Nothing: there are none, they are too short to tell, or they do not count.
    Unsaid,
}

/// Packets of one source in sending order in, frames out.
#[derive(Debug)]
pub struct Vp8Depacketizer {
    units: FrameUnits,
    time: Unwrap32,
    open: Option<OpenFrame>,
    /// What was gathered of the open frame.
    data: Vec<u8>,
    /// The picture identifier of the frame seen last.
    last_id: Option<PictureId>,
    /// Packets were lost since the last one that was seen.
    hole: Option<Hole>,
    chain: Chain,
}

#[derive(Debug)]
struct OpenFrame {
    ticks: i64,
    arrived: Instant,
    /// Its beginning is missing, or a payload was no payload of VP8.
    damaged: bool,
    /// Packets were lost behind its first one.
    torn: bool,
    too_large: bool,
    non_reference: bool,
}

/// What was lost with packets that did not come, if what follows is the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    /// Nothing.
    Between,
    /// A frame that nothing refers to.
    Discardable,
    /// Something that matters, or nobody knows.
    Broken,
}

impl Vp8Depacketizer {
    /// A depacketizer that waits for a keyframe. Keyframes of more than `pixels_max` pixels are refused.
    #[must_use]
    pub fn new(pixels_max: u64) -> Self {
        Self {
            units: FrameUnits::new(pixels_max),
            time: Unwrap32::default(),
            open: None,
            data: Vec::new(),
            last_id: None,
            hole: None,
            chain: Chain::default(),
        }
    }

    /// Begins a frame with the packet of this descriptor.
    fn begin(
        &mut self,
        ticks: i64,
        arrived: Instant,
        descriptor: &Descriptor,
        out: &mut VecDeque<Depacketized>,
    ) {
        let succession = PictureId::succession(self.last_id, descriptor.picture_id);
        self.last_id = descriptor.picture_id;
        let follows = descriptor.begins_frame() && succession == Succession::Next;
        match self.hole.take() {
            // The way was whole, and yet a frame is missing: it was taken out before it came to us.
            None if succession == Succession::Other => self.chain.break_off(out),
            None => {}
            Some(Hole::Between | Hole::Discardable) if follows => {}
            Some(_) => self.chain.break_off(out),
        }
        self.data.clear();
        self.open = Some(OpenFrame {
            ticks,
            arrived,
            damaged: !descriptor.begins_frame(),
            torn: false,
            too_large: false,
            non_reference: descriptor.non_reference,
        });
    }

    fn append(&mut self, bytes: &[u8]) {
        let Some(open) = &mut self.open else { return };
        if open.damaged || open.torn || open.too_large {
            return;
        }
        if self.data.len() + bytes.len() > FRAME_BYTES_MAX {
            open.too_large = true;
            self.data = Vec::new();
            return;
        }
        self.data.extend_from_slice(bytes);
    }

    fn finish(&mut self, out: &mut VecDeque<Depacketized>) {
        let Some(open) = self.open.take() else { return };
        if open.too_large {
            self.chain.refuse(FrameError::TooLarge, out);
        } else if open.torn && open.non_reference && !open.damaged {
            self.chain.skip_picture();
        } else if open.torn || open.damaged {
            self.chain.drop_picture(out);
        } else {
            match self.units.unit(&self.data, open.arrived, Timestamp::video(open.ticks)) {
                Ok(unit) => self.chain.offer(unit, out),
                // Before the first keyframe this is no fault of the frame.
                Err(FrameError::NoKeyframe) => self.chain.drop_picture(out),
                Err(error) => self.chain.refuse(error, out),
            }
        }
        if self.data.capacity() > SCRATCH_KEPT_BYTES {
            self.data = Vec::with_capacity(SCRATCH_KEPT_BYTES);
        }
    }
}

impl VideoDepacketizer for Vp8Depacketizer {
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
        let parsed = Descriptor::parse(packet.payload);
        // Frames that are not shown may share their time with others.
        let is_another = parsed.is_ok_and(|(descriptor, _)| {
            let has_other_id = descriptor.picture_id.is_some() && descriptor.picture_id != self.last_id;
            descriptor.begins_frame() || has_other_id
        });
        if self.open.as_ref().is_some_and(|open| open.ticks != ticks || is_another) {
            self.finish(out);
        }
        match parsed {
            Ok((descriptor, bytes)) => {
                if self.open.is_none() {
                    self.begin(ticks, arrived, &descriptor, out);
                }
                self.append(bytes);
            }
            Err(CutShort) => {
                if self.open.is_none() {
                    self.begin(ticks, arrived, &Descriptor::default(), out);
                }
                if let Some(open) = &mut self.open {
                    open.damaged = true;
                }
            }
        }
        if let Some(rotation) = rotation {
            self.units.set_rotation(rotation);
        }
        if packet.marker {
            self.finish(out);
        }
    }

    fn mark_lost(&mut self, out: &mut VecDeque<Depacketized>) {
        match &mut self.open {
            None => {
                self.hole.get_or_insert(Hole::Between);
            }
            Some(open) => {
                open.torn = true;
                let discardable = open.non_reference && !open.damaged;
                self.hole = Some(if discardable { Hole::Discardable } else { Hole::Broken });
                if !discardable {
                    self.chain.break_off(out);
                }
            }
        }
    }

    fn restart(&mut self, out: &mut VecDeque<Depacketized>) {
        if self.open.take().is_some() {
            self.chain.drop_picture(out);
        }
        self.chain.break_off(out);
        self.hole = None;
        self.last_id = None;
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }
}

#[cfg(test)]
#[path = "depack_vp8_tests.rs"]
mod tests;
