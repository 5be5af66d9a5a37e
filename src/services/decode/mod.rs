//! Access units to pictures: the one door to the decoder libraries.
//!
//! ```text
//! StreamDecoder   where it is in the group, what is passed over, errors end the run       (this file)
//!   └ Decoder     one library at work from a keyframe on                                  (a file each)
//!       openh264.rs   H.264 as browsers and most cameras send it
//!       rust_h264.rs  H.264 of all other kinds
//!       vp8.rs        VP8
//! ```
//!
//! A [`StreamDecoder`] follows one stream lazily: it remembers where it is and decodes what is missing up to the picture
//! that is wanted. Every unit gives its own picture, in decoding order and at once; which of them is the newest *shown*
//! one is told by time stamps ([`newest_shown`]). A picture is exact or it is an error: concealment is off, and after an
//! error nothing is served before the next IDR. Waiting, sharing and counting requests belong in `services::snapshot`.
//!
//! OpenH264 is the faster one and decodes I and P slices exactly. As soon as a B slice was seen in a stream, at recovery
//! points, and for pictures that OpenH264 cannot do, the other one is taken (`start`); `docs/PICTURES.md` has the table.

mod deinterlace;
mod openh264;
mod rust_h264;
mod vp8;

use std::sync::Arc;

use crate::base::metrics::Metrics;
use crate::hub::Gop;
use crate::media::h264::coding::Coding;
use crate::media::h264::framing::begins_with_idr;
use crate::media::h264::undelayed::SpsRefusal;
use crate::media::picture::{ChromaSampling, YuvPicture};
use crate::media::time::Timestamp;
use crate::media::track::{VideoCodec, VideoParams};
use crate::media::unit::AccessUnit;

/// Why there is no picture. After any of these but [`DecodeError::OutOfTime`] the decoder starts afresh at an IDR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The stream uses something that the decoder cannot do.
    #[error("{0} cannot be decoded")]
    Unsupported(&'static str),
    /// A sequence parameter set cannot be read, or there is none.
    #[error("parameter sets cannot be used")]
    Parameters,
    /// The coded picture has more pixels than is allowed.
    #[error("picture of {pixels} pixels where {pixels_max} are allowed")]
    TooLarge {
        /// Pixels of the coded picture, before cropping.
        pixels: u64,
        /// The bound.
        pixels_max: u64,
    },
    /// The unit that was asked for is not in the group of pictures or cannot be shown, or the group does not begin with a
    /// keyframe.
    #[error("unit is not in the group of pictures")]
    NotInGop,
    /// A unit before this one is missing.
    #[error("a unit is missing")]
    Gap,
    /// The first B slice of a stream came: the group must be decoded anew, by a decoder that can do these.
    #[error("the first B slice of the stream wants another decoder")]
    Bidirectional,
    /// The NAL units of a unit do not fill its data.
    #[error("NAL unit lengths do not fit the unit")]
    Framing,
    /// The decoder found the unit damaged.
    #[error("unit {seq} is damaged (decoder code {code})")]
    Damaged {
        /// Which unit.
        seq: u64,
        /// What the decoder said, in the library's own numbers (OpenH264: `DECODING_STATE`).
        code: i64,
    },
    /// The same of a decoder that has words for it.
    #[error("unit {seq} is damaged: {why}")]
    Corrupt {
        /// Which unit.
        seq: u64,
        /// What the decoder said.
        why: String,
    },
    /// The decoder gave no picture for a unit.
    #[error("unit {seq} gave no picture")]
    NoPicture {
        /// Which unit.
        seq: u64,
    },
    /// The picture has another size than the parameters say.
    #[error("picture is {width}x{height}, parameters say otherwise")]
    Size {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The deadline passed; what was decoded so far is kept, and the next run goes on from there.
    #[error("decoding took too long")]
    OutOfTime,
    /// The decoder library refused to start.
    #[error("decoder did not start")]
    Start,
}

impl From<SpsRefusal> for DecodeError {
    fn from(refusal: SpsRefusal) -> Self {
        match refusal {
            SpsRefusal::Unreadable => Self::Parameters,
            SpsRefusal::Unsupported(what) => Self::Unsupported(what),
        }
    }
}

/// Whether the decoder was built with assembly, which halves its time: on x86 that takes `nasm` at build time.
#[must_use]
pub fn decoder_has_assembly() -> bool {
    env!("DECODER_HAS_ASSEMBLY") == "yes"
}

/// Most pictures in a row that are shown before the one that was decoded before them: what encoders allow.
const REORDERED_MAX: usize = 16;

/// The unit whose picture is shown last: the newest one that is shown at all, except in a stream with B-frames, where it is
/// the one of the highest presentation time. There the units after it in decoding order are shown before it.
///
/// A picture without B slices is shown after all that came before it. Times that jump back do not bring an old one
/// to the front.
#[must_use]
pub fn newest_shown(gop: &Gop) -> Option<&Arc<AccessUnit>> {
    let timescale = gop.newest()?.pts.timescale;
    let last = gop.units.iter().rposition(|unit| !unit.bidirectional && !unit.hidden).unwrap_or(0);
    let from = last.max(gop.units.len().saturating_sub(REORDERED_MAX + 1));
    let candidates = gop.units.get(from..)?.iter().filter(|unit| !unit.hidden);
    candidates.max_by_key(|unit| unit.pts.rescale(timescale).ticks)
}

/// One stream's decoder. It takes a decoder of the library when there is something to decode, about 22 MB at 720p,
/// and gives it back when dropped.
pub struct StreamDecoder {
    pixels_max: u64,
    metrics: Metrics,
    running: Option<Running>,
    /// B slices were seen in this stream: more will come.
    bidirectional: bool,
    /// Planes of a picture that nobody needs any more, for their room.
    spare: Option<YuvPicture>,
}

/// A decoder library at work: it was told the parameters of a keyframe, and takes the units from there on.
///
/// Whoever holds it drops it after any error. What it gives is exact: where it cannot know that, it gives an error.
trait Decoder: Send {
    /// Takes parameters that changed between keyframes.
    ///
    /// # Errors
    /// [`DecodeError::Gap`] when these cannot change there; [`DecodeError::Parameters`] when the library refuses them.
    fn adopt(&mut self, params: &VideoParams) -> Result<(), DecodeError>;

    /// Decodes the next unit to its own picture, and writes the planes of `picture` when somebody wants them:
    /// everything else in it is filled in. The size of planes is that of `unit.params`.
    ///
    /// # Errors
    /// When the unit is damaged or gives no picture, or one of another size than its parameters say.
    fn decode(&mut self, unit: &AccessUnit, picture: Option<&mut YuvPicture>) -> Result<(), DecodeError>;
}

/// Which H.264 decoder a stream needs, as far as its parameters do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// I and P slices from an IDR on: whichever decoder is faster.
    Forward,
    /// B slices, or a beginning that is no IDR.
    Anything,
}

/// Chooses the library for a keyframe and lets it know the parameters. Coded pictures of more than `pixels_max` pixels
/// are refused before anything is allocated.
fn start(params: &VideoParams, needs: Needs, pixels_max: u64) -> Result<Box<dyn Decoder>, DecodeError> {
    match &params.codec {
        VideoCodec::H264 { sps, pps } => {
            if needs == Needs::Forward {
                match openh264::OpenH264::start(sps, pps, pixels_max) {
                    Ok(decoder) => return Ok(Box::new(decoder)),
                    Err(DecodeError::Unsupported(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Box::new(rust_h264::RustH264::start(sps, pps, pixels_max)?))
        }
        VideoCodec::Vp8 => Ok(Box::new(vp8::Vp8::start(params, pixels_max)?)),
    }
}

/// A decoder in the middle of a group of pictures.
struct Running {
    decoder: Box<dyn Decoder>,
    params: Arc<VideoParams>,
    needs: Needs,
    last_seq: u64,
    /// It began at this time with a keyframe that is no IDR, and no later picture came yet: what is shown before refers to
    /// what was not decoded.
    leading_until: Option<Timestamp>,
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamDecoder").field("last_seq", &self.last_seq()).finish_non_exhaustive()
    }
}

impl StreamDecoder {
    /// A decoder that has decoded nothing yet. It refuses coded pictures of more than `pixels_max` pixels before anything is
    /// decoded or allocated. Units are counted in `metrics`.
    #[must_use]
    pub fn new(pixels_max: u64, metrics: Metrics) -> Self {
        Self { pixels_max, metrics, running: None, bidirectional: false, spare: None }
    }

    /// The unit that was decoded or passed over last; `None` before the first IDR and after an error.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.last_seq)
    }

    /// Brings the decoder to unit `target_seq` of `gop` and returns exactly that picture.
    ///
    /// It goes on from the last decoded unit when that one is in the group and before the target, and starts at the
    /// IDR otherwise. Disposable units before the target are not decoded. Who must be done in time takes the units of
    /// [`StreamDecoder::missing`] one by one.
    ///
    /// # Errors
    /// See [`DecodeError`]; no picture is better than a wrong one.
    pub fn picture(&mut self, gop: &Gop, target_seq: u64) -> Result<YuvPicture, DecodeError> {
        for unit in self.missing(gop, target_seq)? {
            if let Some(picture) = self.step(unit, unit.seq == target_seq)? {
                return Ok(picture);
            }
        }
        Err(DecodeError::NotInGop)
    }

    /// The units to take one by one for the picture of `target_seq`: from where the decoder stands, or from the IDR.
    ///
    /// # Errors
    /// [`DecodeError::NotInGop`].
    pub fn missing<'a>(
        &mut self,
        gop: &'a Gop,
        target_seq: u64,
    ) -> Result<&'a [Arc<AccessUnit>], DecodeError> {
        let first = gop.units.first().filter(|unit| unit.key).ok_or(DecodeError::NotInGop)?;
        let target = gop
            .units
            .binary_search_by_key(&target_seq, |unit| unit.seq)
            .map_err(|_| DecodeError::NotInGop)?;
        let group = gop.units.get(..=target).ok_or(DecodeError::NotInGop)?;
        self.bidirectional |= group.iter().any(|unit| unit.bidirectional);
        let goes_on = |running: &&Running| {
            (first.seq..target_seq).contains(&running.last_seq)
                && (running.needs == Needs::Anything || !self.bidirectional)
        };
        let start = match self.running.as_ref().filter(goes_on) {
            Some(running) => group.partition_point(|unit| unit.seq <= running.last_seq),
            None => 0,
        };
        group.get(start..).ok_or(DecodeError::NotInGop)
    }

    /// Takes the next unit of the stream: the one after [`StreamDecoder::last_seq`], or any keyframe.
    ///
    /// `wanted`: its picture is returned. Otherwise there is none, and a unit that nothing refers to is not decoded. There is
    /// none either where decoding began at a recovery point, and this picture is shown before that one.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn step(&mut self, unit: &AccessUnit, wanted: bool) -> Result<Option<YuvPicture>, DecodeError> {
        let mut running = self.running_for(unit)?;
        let leads = |until: Timestamp| until.since(unit.pts).is_some_and(|by| !by.is_zero());
        running.leading_until = running.leading_until.filter(|until| unit.key || leads(*until));
        let wanted = wanted && (unit.key || running.leading_until.is_none());
        if unit.disposable && !unit.key && !wanted {
            running.last_seq = unit.seq;
            self.running = Some(running);
            return Ok(None);
        }
        self.metrics.units_decoded_total.inc();
        let mut picture = wanted.then(|| {
            let mut picture = self.spare.take().unwrap_or_else(|| empty_picture(unit));
            picture.seq = unit.seq;
            picture.arrived = unit.arrived;
            picture.params = unit.params.clone();
            picture.sampling = ChromaSampling::default();
            picture
        });
        running.decoder.decode(unit, picture.as_mut())?;
        running.last_seq = unit.seq;
        // Only now: whatever went wrong above has dropped the decoder.
        self.running = Some(running);
        Ok(picture)
    }

    /// Gives back the planes of a picture that is not needed any more, so that the next one need not allocate.
    pub fn recycle(&mut self, picture: YuvPicture) {
        self.spare = Some(picture);
    }

    /// Takes the decoder that can decode `unit` next; leaves none behind.
    fn running_for(&mut self, unit: &AccessUnit) -> Result<Running, DecodeError> {
        let running = self.running.take();
        self.bidirectional |= unit.bidirectional;
        if unit.key {
            let (complete, announced) = match &unit.params.codec {
                VideoCodec::H264 { sps, .. } => {
                    let announced =
                        sps.iter().filter_map(|sps| Coding::of(sps)).any(|coding| coding.reorders);
                    (begins_with_idr(&unit.data), announced)
                }
                VideoCodec::Vp8 => (true, false),
            };
            let forward = complete && !announced && !self.bidirectional;
            let needs = if forward { Needs::Forward } else { Needs::Anything };
            // At a recovery point always afresh: whether anything was lost before it is not known here.
            let goes_on = |running: &Running| {
                complete && running.needs == needs && running.params.same_coding(&unit.params)
            };
            if let Some(running) = running.filter(goes_on) {
                return Ok(running);
            }
            let decoder = start(&unit.params, needs, self.pixels_max)?;
            return Ok(Running {
                decoder,
                params: unit.params.clone(),
                needs,
                last_seq: unit.seq,
                leading_until: (!complete).then_some(unit.pts),
            });
        }
        let mut running = running.ok_or(DecodeError::Gap)?;
        if unit.seq != running.last_seq + 1 {
            return Err(DecodeError::Gap);
        }
        if unit.bidirectional && running.needs == Needs::Forward {
            return Err(DecodeError::Bidirectional);
        }
        if !running.params.same_coding(&unit.params) {
            running.decoder.adopt(&unit.params)?;
            running.params = unit.params.clone();
        }
        Ok(running)
    }
}

fn empty_picture(unit: &AccessUnit) -> YuvPicture {
    YuvPicture {
        seq: unit.seq,
        arrived: unit.arrived,
        params: unit.params.clone(),
        sampling: ChromaSampling::default(),
        y: Vec::new(),
        u: Vec::new(),
        v: Vec::new(),
    }
}

/// Copies `height` rows of `width` samples that lie `stride` apart.
fn pack(plane: &[u8], stride: usize, width: usize, height: usize, packed: &mut Vec<u8>) {
    packed.clear();
    packed.reserve_exact(width * height);
    for row in plane.chunks(stride).take(height) {
        packed.extend_from_slice(&row[..width.min(row.len())]);
    }
    // A plane that is too short would be the library's mistake; it must not become ours.
    packed.resize(width * height, 128);
}

#[cfg(test)]
pub(crate) mod tests;
