//! A file read: its tracks and where each of their samples lies.

use std::num::NonZeroU32;
use std::time::Duration;

use shiguredo_mp4::boxes::{
    HdlrBox, MoofBox, MoovBox, SampleEntry, StblBox, StszBox, TfhdBox, TrafBox, TrakBox, TrexBox,
};
use shiguredo_mp4::{Decode as _, Either};

use super::boxes::{BoxHead, ReadAt, TopBoxes, head_at};
use super::check::{check_index, check_runs};
use super::{Edit, MOOF_BYTES_MAX, MOOV_BYTES_MAX, Mp4Error, SAMPLES_MAX, TRACKS_MAX, format_error};
use crate::media::track::Rotation;

/// What a track holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackKind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// Anything else; its samples are not read.
    Other,
}

/// A sample entry: codec and what its decoder must be told first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(pub(super) SampleEntry);

/// One sample. Samples of a track stand in decoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its first byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub size: u32,
    /// When to decode it, in ticks of the track, from the beginning of its media.
    pub dts: i64,
    /// Added to `dts` it is when to show it, on the same clock.
    pub composition: i32,
    /// Which of the track's entries holds for it.
    pub entry: u16,
    /// Decoding may begin here.
    pub key: bool,
}

/// A track read.
#[derive(Clone, Debug)]
pub struct Track {
    /// Its number in the file.
    pub id: u32,
    /// What it holds.
    pub kind: TrackKind,
    /// Ticks a second.
    pub timescale: NonZeroU32,
    /// Codecs; samples name them by place.
    pub entries: Vec<Entry>,
    /// Which parts of it are shown when; empty: all of it from the beginning.
    pub edits: Vec<Edit>,
    /// How it is to be turned, where the matrix says a quarter turn.
    pub rotation: Rotation,
    /// In decoding order.
    pub samples: Vec<Sample>,
    /// Ticks that the last sample lasts.
    pub last_duration: u32,
    pub(super) trak: TrakBox,
}

impl Track {
    /// Ticks from the decoding time of the first sample to the end of the last one.
    #[must_use]
    pub fn duration(&self) -> u64 {
        match (self.samples.first(), self.samples.last()) {
            (Some(first), Some(last)) => {
                u64::try_from(last.dts.saturating_sub(first.dts)).unwrap_or(0) + u64::from(self.last_duration)
            }
            _ => 0,
        }
    }

    /// The end of what is shown, in ticks of the track: of pictures that are shown in another order than they are decoded, later
    /// than the end of the last one decoded.
    #[must_use]
    pub fn shown_until(&self) -> u64 {
        // Pictures are held back by sixteen others at most (H.264 section A.3.1).
        let last = self.samples.iter().rev().take(32);
        let shown = last.map(|sample| sample.dts + i64::from(sample.composition)).max().unwrap_or(0);
        u64::try_from(shown).unwrap_or(0) + u64::from(self.last_duration)
    }
}

/// A file read.
#[derive(Clone, Debug)]
pub struct Movie {
    /// Ticks a second of edit lists.
    pub timescale: NonZeroU32,
    /// Tracks with pictures or sound, in the file's order.
    pub tracks: Vec<Track>,
    /// The samples stand in fragments.
    pub fragmented: bool,
    /// The first byte after what was read: of a fragmented file, after its last whole fragment. Reading may go on there
    /// when the file has grown.
    pub end: u64,
    pub(super) moov_at: BoxHead,
    pub(super) moov: MoovBox,
    pub(super) first_moof: Option<u64>,
}

impl Movie {
    /// Reads a file's index, and the heads of its fragments. Samples that lie beyond the end of the file are left out, as is a
    /// fragment of which anything is missing.
    ///
    /// # Errors
    /// When it cannot be read, is not an MP4 file, or declares more than the bounds of this module.
    pub fn read(file: &(impl ReadAt + ?Sized)) -> Result<Self, Mp4Error> {
        let file_size = file.size()?;
        let mut boxes = TopBoxes::new(file, 0, file_size);
        let mut moov_at = None;
        while let Some(found) = boxes.advance()? {
            if found.offset == 0 && !is_first_kind(found.kind) {
                return Err(format_error("it does not begin like one"));
            }
            if found.kind == *b"moov" {
                moov_at = Some(found);
                break;
            }
        }
        let moov_at = moov_at.ok_or_else(|| format_error("there is no index"))?;
        if moov_at.size > MOOV_BYTES_MAX {
            return Err(Mp4Error::TooLarge("index"));
        }
        let bytes = file.read(moov_at.offset, usize::try_from(moov_at.size).unwrap_or(usize::MAX))?;
        check_index(bytes.get(moov_at.head_size as usize..).unwrap_or_default())?;
        let (moov, _) = MoovBox::decode(&bytes)?;
        drop(bytes);
        let tracks = moov.trak_boxes.iter().take(TRACKS_MAX);
        let mut left = SAMPLES_MAX;
        let tracks = tracks.map(|trak| read_track(trak, file_size, &mut left)).collect::<Result<_, _>>()?;
        let mut movie = Self {
            timescale: moov.mvhd_box.timescale,
            tracks,
            fragmented: moov.mvex_box.is_some(),
            end: moov_at.end(),
            moov_at,
            moov,
            first_moof: None,
        };
        movie.tracks.retain(|track| track.kind != TrackKind::Other);
        if movie.fragmented {
            // What was known of its length when its head was written says nothing about what came since.
            let lasts = movie.tracks.iter_mut().filter_map(|track| track.edits.last_mut());
            lasts.filter(|last| last.media_time.is_some()).for_each(|last| last.duration = 0);
            movie.read_fragments(file)?;
        }
        Ok(movie)
    }

    /// Whether a fragmented file that this was read from is no longer as it was: its index was written anew, or room was made
    /// before the fragments, so that samples do not lie where this says. What came behind does not count.
    ///
    /// # Errors
    /// When the system does not read.
    pub fn is_stale(&self, file: &(impl ReadAt + ?Sized)) -> Result<bool, Mp4Error> {
        let file_size = file.size()?;
        let is_there = |place: u64, kind: [u8; 4], size: Option<u64>| {
            let found = head_at(file, place, file_size)?;
            Ok::<_, Mp4Error>(found.is_some_and(|f| f.kind == kind && size.is_none_or(|size| size == f.size)))
        };
        let index = is_there(self.moov_at.offset, *b"moov", Some(self.moov_at.size))?;
        let fragments = self.first_moof.map_or(Ok(true), |place| is_there(place, *b"moof", None))?;
        Ok(!index || !fragments)
    }

    /// Reads fragments that came since; returns whether there were any.
    ///
    /// # Errors
    /// As [`Movie::read`].
    pub fn read_fragments(&mut self, file: &(impl ReadAt + ?Sized)) -> Result<bool, Mp4Error> {
        let before = self.end;
        let file_size = file.size()?;
        let mut boxes = TopBoxes::new(file, self.end, file_size);
        let mut pending = None;
        while let Some(found) = boxes.advance()? {
            if found.end() > file_size {
                break;
            }
            match (&found.kind, pending.take()) {
                (b"moof", _) => {
                    if found.size > MOOF_BYTES_MAX {
                        return Err(Mp4Error::TooLarge("fragment"));
                    }
                    pending = Some(found);
                }
                (b"mdat", Some(moof)) => {
                    self.take_fragment(file, &moof, found.end())?;
                    self.first_moof.get_or_insert(moof.offset);
                    self.end = found.end();
                }
                (_, None) => self.end = found.end(),
                // Something stands between a fragment's head and its media.
                (_, Some(moof)) => pending = Some(moof),
            }
        }
        Ok(self.end > before)
    }

    /// Adds the samples of one fragment, whose bytes end before `end`.
    fn take_fragment(
        &mut self,
        file: &(impl ReadAt + ?Sized),
        at: &BoxHead,
        end: u64,
    ) -> Result<(), Mp4Error> {
        let bytes = file.read(at.offset, usize::try_from(at.size).unwrap_or(usize::MAX))?;
        check_runs(bytes.get(at.head_size as usize..).unwrap_or_default())?;
        let (moof, _) = MoofBox::decode(&bytes)?;
        let mut left = SAMPLES_MAX - self.tracks.iter().map(|track| track.samples.len()).sum::<usize>();
        // Where the data of a track fragment ends, the next one's may begin (section 8.8.7).
        let mut previous_end = at.offset;
        for traf in &moof.traf_boxes {
            let trexes = self.moov.mvex_box.as_ref().map_or(&[][..], |mvex| &mvex.trex_boxes);
            let trex = trexes.iter().find(|trex| trex.track_id == traf.tfhd_box.track_id);
            let Some(track) = self.tracks.iter_mut().find(|track| track.id == traf.tfhd_box.track_id) else {
                continue;
            };
            let base = match &traf.tfhd_box {
                TfhdBox { base_data_offset: Some(base), .. } => *base,
                TfhdBox { default_base_is_moof: true, .. } => at.offset,
                _ => previous_end,
            };
            previous_end = track.take_runs(traf, trex, base, end, &mut left)?;
        }
        Ok(())
    }

    /// Where the index stands.
    #[must_use]
    pub fn index_at(&self) -> BoxHead {
        self.moov_at
    }

    /// Where the first fragment begins; `None` where there is none.
    #[must_use]
    pub fn first_moof_offset(&self) -> Option<u64> {
        self.first_moof
    }

    /// How long it lasts: its longest track, with what the track's edit list puts before it and without what it cuts off.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let nanos = |track: &Track| {
            let end = i64::try_from(track.shown_until()).unwrap_or(i64::MAX);
            let end = end.saturating_add(track.shift(self.timescale));
            let end = match track.shown_end(self.timescale) {
                Some(shown) if track.has_one_part() => end.min(shown),
                Some(shown) => shown,
                None => end,
            };
            let ticks = end.max(0).unsigned_abs();
            u128::from(ticks) * 1_000_000_000 / u128::from(track.timescale.get())
        };
        let longest = self.tracks.iter().map(nanos).max().unwrap_or(0);
        Duration::from_nanos(u64::try_from(longest).unwrap_or(u64::MAX))
    }

    /// The first track of a kind that has samples.
    #[must_use]
    pub fn track(&self, kind: TrackKind) -> Option<&Track> {
        self.tracks.iter().find(|track| track.kind == kind && !track.samples.is_empty())
    }
}

impl Track {
    /// Adds the samples of one track fragment; returns where their data ends.
    fn take_runs(
        &mut self,
        traf: &TrafBox,
        trex: Option<&TrexBox>,
        base: u64,
        end: u64,
        left: &mut usize,
    ) -> Result<u64, Mp4Error> {
        let tfhd = &traf.tfhd_box;
        let entry = tfhd.sample_description_index.or(trex.map(|trex| trex.default_sample_description_index));
        let entry = u16::try_from(entry.unwrap_or(1).saturating_sub(1)).unwrap_or(u16::MAX);
        if usize::from(entry) >= self.entries.len() {
            return Err(format_error("a fragment of a codec that is not declared"));
        }
        let duration = tfhd.default_sample_duration.or(trex.map(|trex| trex.default_sample_duration));
        let size = tfhd.default_sample_size.or(trex.map(|trex| trex.default_sample_size));
        let flags = tfhd.default_sample_flags.or(trex.map(|trex| trex.default_sample_flags));
        let next = self.samples.last().map(|last| last.dts + i64::from(self.last_duration));
        let mut dts = match &traf.tfdt_box {
            Some(tfdt) => i64::try_from(tfdt.base_media_decode_time)
                .ok()
                .filter(|dts| *dts < TICKS_MAX)
                .ok_or_else(|| format_error("a decoding time beyond all measure"))?
                // Decoding times rise (section 8.8.12), whatever a file says.
                .max(self.samples.last().map_or(0, |last| last.dts)),
            None => next.unwrap_or(0),
        };
        let mut offset = base;
        for run in &traf.trun_boxes {
            if let Some(from_base) = run.data_offset {
                offset = base
                    .checked_add_signed(i64::from(from_base))
                    .ok_or_else(|| format_error("a run before the beginning of the file"))?;
            }
            *left = left.checked_sub(run.samples.len()).ok_or(Mp4Error::TooLarge("samples"))?;
            for (at, sample) in run.samples.iter().enumerate() {
                let size = sample.size.or(size).unwrap_or(0);
                let after = offset.checked_add(u64::from(size)).filter(|after| *after <= end);
                let after = after.ok_or_else(|| format_error("a sample outside of its fragment"))?;
                let flags = match run.first_sample_flags.filter(|_| at == 0) {
                    Some(first) => Some(first),
                    None => sample.flags.or(flags),
                };
                let key = self.kind == TrackKind::Audio
                    || flags.is_none_or(|flags| !flags.sample_is_non_sync_sample());
                let composition = sample.composition_time_offset.unwrap_or(0);
                let composition =
                    i32::try_from(composition).map_err(|_| format_error("a composition offset"))?;
                self.samples.push(Sample { offset, size, dts, composition, entry, key });
                self.last_duration = sample.duration.or(duration).unwrap_or(0);
                dts += i64::from(self.last_duration);
                offset = after;
            }
        }
        Ok(offset)
    }
}

/// Decoding times beyond this are no times; far below it, sums cannot overflow.
const TICKS_MAX: i64 = 1 << 56;

/// What a file may begin with; older `.mov` files have no `ftyp`.
fn is_first_kind(kind: [u8; 4]) -> bool {
    matches!(&kind, b"ftyp" | b"styp" | b"moov" | b"mdat" | b"free" | b"skip" | b"wide" | b"pnot" | b"uuid")
}

fn read_track(trak: &TrakBox, file_size: u64, left: &mut usize) -> Result<Track, Mp4Error> {
    let stbl = &trak.mdia_box.minf_box.stbl_box;
    let kind = match trak.mdia_box.hdlr_box.handler_type {
        HdlrBox::HANDLER_TYPE_VIDE => TrackKind::Video,
        HdlrBox::HANDLER_TYPE_SOUN => TrackKind::Audio,
        _ => TrackKind::Other,
    };
    let edits = trak.edts_box.iter().flat_map(|edts| &edts.elst_box).flat_map(|elst| &elst.entries);
    let edits = edits.map(|edit| Edit {
        duration: edit.edit_duration,
        media_time: u64::try_from(edit.media_time).ok(),
        is_still: (edit.media_rate.integer, edit.media_rate.fraction) == (0, 0),
    });
    let mut track = Track {
        id: trak.tkhd_box.track_id,
        kind,
        timescale: trak.mdia_box.mdhd_box.timescale,
        entries: stbl.stsd_box.entries.iter().cloned().map(Entry).collect(),
        edits: edits.take(1000).collect(),
        rotation: rotation_of(&trak.tkhd_box.matrix),
        samples: Vec::new(),
        last_duration: 0,
        trak: without_tables(trak),
    };
    if kind != TrackKind::Other {
        track.read_tables(stbl, file_size, left)?;
    }
    Ok(track)
}

/// The track's boxes without the tables that were read already: these may be large.
fn without_tables(trak: &TrakBox) -> TrakBox {
    let mut trak = trak.clone();
    super::write::clear_tables(&mut trak.mdia_box.minf_box.stbl_box);
    trak
}

/// A rotation matrix (section 6.2.2) as quarter turns clockwise; other matrices are taken for none.
fn rotation_of(matrix: &[i32; 9]) -> Rotation {
    const ONE: i32 = 0x1_0000;
    match (matrix[0], matrix[1], matrix[3], matrix[4]) {
        (0, ONE, b, 0) if b == -ONE => Rotation::Cw90,
        (a, 0, 0, d) if a == -ONE && d == -ONE => Rotation::Cw180,
        (0, b, ONE, 0) if b == -ONE => Rotation::Cw270,
        _ => Rotation::None,
    }
}

impl Track {
    /// Reads the sample tables (section 8.6, 8.7). The number of samples is that of the sizes; other tables that are shorter
    /// end the track, sizes without bytes in the file end it as well.
    fn read_tables(&mut self, stbl: &StblBox, file_size: u64, left: &mut usize) -> Result<(), Mp4Error> {
        let (count, fixed, sizes) = match &stbl.stsz_box {
            StszBox::Fixed { sample_size, sample_count } => {
                // Nothing else backs this number: so many bytes must be in the file.
                let fits = file_size / u64::from(sample_size.get());
                (u64::from(*sample_count).min(fits), sample_size.get(), &[][..])
            }
            StszBox::Variable { entry_sizes } => (entry_sizes.len() as u64, 0, &entry_sizes[..]),
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        *left = left.checked_sub(count).ok_or(Mp4Error::TooLarge("samples"))?;
        let offsets: &dyn Fn(usize) -> Option<u64> = match &stbl.stco_or_co64_box {
            Either::A(stco) => &|chunk| stco.chunk_offsets.get(chunk).map(|offset| u64::from(*offset)),
            Either::B(co64) => &|chunk| co64.chunk_offsets.get(chunk).copied(),
        };
        let mut durations = Runs::new(stbl.stts_box.entries.iter().map(|e| (e.sample_count, e.sample_delta)));
        let compositions = stbl.ctts_box.iter().flat_map(|ctts| &ctts.entries);
        let mut compositions = Runs::new(compositions.map(|e| (e.sample_count, e.sample_offset)));
        let mut keys = stbl.stss_box.as_ref().map(|stss| stss.sample_numbers.iter().peekable());
        let mut chunks = stbl.stsc_box.entries.iter().peekable();
        let (mut chunk, mut in_chunk, mut per_chunk, mut entry) = (0_usize, 0_u32, 0_u32, 0_u16);
        let (mut dts, mut offset) = (0_i64, 0_u64);
        for at in 0..count {
            while in_chunk == per_chunk {
                // The next chunk, and what holds from it on. Chunks of nothing are passed over.
                while let Some(next) = chunks.next_if(|next| (next.first_chunk.get() as usize) <= chunk + 1) {
                    per_chunk = next.sample_per_chunk;
                    let index = next.sample_description_index.get() - 1;
                    entry = u16::try_from(index).unwrap_or(u16::MAX);
                }
                let Some(start) = offsets(chunk) else { return Ok(()) };
                (offset, in_chunk, chunk) = (start, 0, chunk + 1);
            }
            in_chunk += 1;
            let size = if fixed > 0 { fixed } else { sizes.get(at).copied().unwrap_or(0) };
            let Some(duration) = durations.next() else { return Ok(()) };
            let after = offset.checked_add(u64::from(size)).filter(|after| *after <= file_size);
            let Some(after) = after else { return Ok(()) };
            if usize::from(entry) >= self.entries.len() {
                return Err(format_error("samples of a codec that is not declared"));
            }
            let composition = i32::try_from(compositions.next().unwrap_or(0))
                .map_err(|_| format_error("a composition offset"))?;
            let number = at + 1;
            let key = keys.as_mut().is_none_or(|keys| {
                while keys.next_if(|key| (key.get() as usize) < number).is_some() {}
                keys.peek().is_some_and(|key| key.get() as usize == number)
            });
            self.samples.push(Sample { offset, size, dts, composition, entry, key });
            self.last_duration = duration;
            dts += i64::from(duration);
            offset = after;
        }
        Ok(())
    }
}

/// A run-length table, value by value.
struct Runs<I, T> {
    runs: I,
    left: u32,
    value: Option<T>,
}

impl<I: Iterator<Item = (u32, T)>, T: Copy> Runs<I, T> {
    fn new(runs: I) -> Self {
        Self { runs, left: 0, value: None }
    }

    fn next(&mut self) -> Option<T> {
        while self.left == 0 {
            let (count, value) = self.runs.next()?;
            (self.left, self.value) = (count, Some(value));
        }
        self.left -= 1;
        self.value
    }
}
