//! Heads, fragments and indexes, as bytes.

use std::num::NonZeroU32;
use std::time::Duration;

use shiguredo_mp4::boxes::{
    Brand, Co64Box, CttsBox, CttsEntry, DinfBox, DrefBox, EdtsBox, ElstBox, ElstEntry, FtypBox, HdlrBox,
    MdhdBox, MdiaBox, MediaHeader, MfhdBox, MinfBox, MoofBox, MoovBox, MvexBox, MvhdBox, SampleEntry,
    SmhdBox, StblBox, StcoBox, StscBox, StscEntry, StsdBox, StssBox, StszBox, SttsBox, SttsEntry, TfdtBox,
    TfhdBox, TkhdBox, TrafBox, TrakBox, TrexBox, TrunBox, TrunSample, UrlBox, VmhdBox,
};
use shiguredo_mp4::{Either, Encode as _, FixedPointNumber, LanguageCode, Mp4FileTime, SampleFlags};

use super::{Entry, Movie, Mp4Error, Track, TrackKind};
use crate::media::track::Rotation;

/// Bytes of the head of a fragment's `mdat`, and of the large one that stands before all of them in the end.
const FRAGMENT_HEAD: usize = 8;

/// Ticks a second of the movie's own clock.
pub(super) const MOVIE_TIMESCALE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();

/// A track as it is declared before anything of it is written.
#[derive(Clone, Debug)]
pub(in crate::services) struct NewTrack {
    /// From 1.
    pub(in crate::services) id: u32,
    pub(in crate::services) kind: TrackKind,
    pub(in crate::services) timescale: NonZeroU32,
    /// At least one.
    pub(in crate::services) entries: Vec<Entry>,
    pub(in crate::services) rotation: Rotation,
    /// So long nothing of it is shown: 90 000 ticks a second.
    pub(in crate::services) begins: u64,
    /// The first moment of its media that is shown, in ticks of the track.
    pub(in crate::services) media_time: u64,
}

/// One sample of a fragment.
#[derive(Clone, Copy, Debug)]
pub(in crate::services) struct FragmentSample {
    pub(in crate::services) duration: u32,
    pub(in crate::services) size: u32,
    pub(in crate::services) composition: i32,
    pub(in crate::services) key: bool,
}

/// What a fragment holds of one track, one sample at least; all of one entry.
#[derive(Debug)]
pub(in crate::services) struct FragmentTrack<'a> {
    pub(in crate::services) id: u32,
    /// Place in the track's entries.
    pub(in crate::services) entry: u16,
    /// Decoding time of the first sample, in ticks of the track.
    pub(in crate::services) dts: u64,
    pub(in crate::services) samples: &'a [FragmentSample],
}

/// `ftyp` and the `moov` of a file whose samples come in fragments.
pub(in crate::services) fn head(since_1970: Duration, tracks: &[NewTrack]) -> Result<Vec<u8>, Mp4Error> {
    let brands = [Brand::ISOM, Brand::new(*b"iso6"), Brand::AVC1, Brand::MP41];
    let ftyp = FtypBox { major_brand: Brand::ISOM, minor_version: 512, compatible_brands: brands.to_vec() };
    let created = Mp4FileTime::from_unix_time(since_1970);
    let trex_boxes = tracks.iter().map(|track| TrexBox {
        track_id: track.id,
        default_sample_description_index: 1,
        default_sample_duration: 0,
        default_sample_size: 0,
        default_sample_flags: SampleFlags::empty(),
    });
    let moov = MoovBox {
        mvhd_box: MvhdBox {
            creation_time: created,
            modification_time: created,
            timescale: MOVIE_TIMESCALE,
            duration: 0,
            rate: MvhdBox::DEFAULT_RATE,
            volume: MvhdBox::DEFAULT_VOLUME,
            matrix: MvhdBox::DEFAULT_MATRIX,
            next_track_id: tracks.iter().map(|track| track.id).max().unwrap_or(0) + 1,
        },
        trak_boxes: tracks.iter().map(|track| new_trak(track, created)).collect(),
        mvex_box: Some(MvexBox {
            mehd_box: None,
            trex_boxes: trex_boxes.collect(),
            unknown_boxes: Vec::new(),
        }),
        unknown_boxes: Vec::new(),
    };
    let mut bytes = ftyp.encode_to_vec()?;
    bytes.extend(moov.encode_to_vec()?);
    Ok(bytes)
}

fn new_trak(track: &NewTrack, created: Mp4FileTime) -> TrakBox {
    let is_video = track.kind == TrackKind::Video;
    let (mut width, mut height) = (0, 0);
    if let Some(Entry(SampleEntry::Avc1(avc1))) = track.entries.first() {
        (width, height) = (avc1.visual.width, avc1.visual.height);
        let pasp = avc1.unknown_boxes.iter().find(|unknown| unknown.box_type.as_bytes() == b"pasp");
        if let Some((across, down)) = pasp.and_then(|pasp| ratio(&pasp.payload)) {
            let shown = u64::from(width) * u64::from(across) / u64::from(down);
            width = u16::try_from(shown).unwrap_or(u16::MAX >> 1);
        }
    }
    let side = |pixels: u16| FixedPointNumber::new(i16::try_from(pixels).unwrap_or(i16::MAX), 0);
    let mut edits = Vec::new();
    if track.begins > 0 {
        edits.push(edit(track.begins, -1));
    }
    if !edits.is_empty() || track.media_time > 0 {
        edits.push(edit(0, i64::try_from(track.media_time).unwrap_or(i64::MAX)));
    }
    let (media_header, handler_type, name) = if is_video {
        let vmhd = VmhdBox { graphicsmode: VmhdBox::DEFAULT_GRAPHICSMODE, opcolor: VmhdBox::DEFAULT_OPCOLOR };
        (MediaHeader::Vmhd(vmhd), HdlrBox::HANDLER_TYPE_VIDE, b"VideoHandler\0")
    } else {
        let smhd = SmhdBox { balance: SmhdBox::DEFAULT_BALANCE };
        (MediaHeader::Smhd(smhd), HdlrBox::HANDLER_TYPE_SOUN, b"SoundHandler\0")
    };
    let entries = track.entries.iter().map(|entry| entry.0.clone()).collect();
    TrakBox {
        tkhd_box: TkhdBox {
            flag_track_enabled: true,
            flag_track_in_movie: true,
            flag_track_in_preview: false,
            flag_track_size_is_aspect_ratio: false,
            creation_time: created,
            modification_time: created,
            track_id: track.id,
            duration: 0,
            layer: TkhdBox::DEFAULT_LAYER,
            alternate_group: TkhdBox::DEFAULT_ALTERNATE_GROUP,
            volume: if is_video { TkhdBox::DEFAULT_VIDEO_VOLUME } else { TkhdBox::DEFAULT_AUDIO_VOLUME },
            matrix: matrix_of(track.rotation, width, height),
            width: side(width),
            height: side(height),
        },
        edts_box: (!edits.is_empty())
            .then(|| EdtsBox { elst_box: Some(ElstBox { entries: edits }), unknown_boxes: Vec::new() }),
        mdia_box: MdiaBox {
            mdhd_box: MdhdBox {
                creation_time: created,
                modification_time: created,
                timescale: track.timescale,
                duration: 0,
                language: LanguageCode::UNDEFINED,
            },
            hdlr_box: HdlrBox { handler_type, name: name.to_vec() },
            minf_box: MinfBox {
                media_header: Some(media_header),
                dinf_box: DinfBox {
                    dref_box: DrefBox { url_box: Some(UrlBox { location: None }), unknown_boxes: Vec::new() },
                    unknown_boxes: Vec::new(),
                },
                stbl_box: StblBox {
                    stsd_box: StsdBox { entries },
                    stts_box: SttsBox { entries: Vec::new() },
                    ctts_box: None,
                    cslg_box: None,
                    stsc_box: StscBox { entries: Vec::new() },
                    stsz_box: StszBox::Variable { entry_sizes: Vec::new() },
                    stco_or_co64_box: Either::A(StcoBox { chunk_offsets: Vec::new() }),
                    stss_box: None,
                    sdtp_box: None,
                    unknown_boxes: Vec::new(),
                },
                unknown_boxes: Vec::new(),
            },
            unknown_boxes: Vec::new(),
        },
        unknown_boxes: Vec::new(),
    }
}

fn ratio(pasp: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| pasp.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    Some((word(0)?, word(4).filter(|down| *down > 0)?))
}

fn edit(edit_duration: u64, media_time: i64) -> ElstEntry {
    ElstEntry { edit_duration, media_time, media_rate: FixedPointNumber::new(1, 0) }
}

/// Turned clockwise, then moved back to where pictures lie.
fn matrix_of(rotation: Rotation, width: u16, height: u16) -> [i32; 9] {
    const ONE: i32 = 0x1_0000;
    const W: i32 = 0x4000_0000;
    let (x, y) = (i32::from(width) << 16, i32::from(height) << 16);
    match rotation {
        Rotation::None => [ONE, 0, 0, 0, ONE, 0, 0, 0, W],
        Rotation::Cw90 => [0, ONE, 0, -ONE, 0, 0, y, 0, W],
        Rotation::Cw180 => [-ONE, 0, 0, 0, -ONE, 0, x, y, W],
        Rotation::Cw270 => [0, -ONE, 0, ONE, 0, 0, 0, x, W],
    }
}

/// `moof` and the head of the `mdat` after it; the samples' bytes follow, track by track.
pub(in crate::services) fn fragment(
    sequence: u32,
    tracks: &[FragmentTrack<'_>],
) -> Result<Vec<u8>, Mp4Error> {
    let trafs = |data_starts: i64| {
        let mut at = data_starts;
        tracks.iter().map(move |track| {
            let data_offset = i32::try_from(at).ok();
            at += track.samples.iter().map(|sample| i64::from(sample.size)).sum::<i64>();
            traf(track, data_offset)
        })
    };
    let moof = |data_starts: i64| MoofBox {
        mfhd_box: MfhdBox { sequence_number: sequence },
        traf_boxes: trafs(data_starts).collect(),
        unknown_boxes: Vec::new(),
    };
    // The length does not depend on the offsets, which do on the length.
    let length = moof(0).encode_to_vec()?.len() + FRAGMENT_HEAD;
    let mut bytes = moof(i64::try_from(length).unwrap_or(i64::MAX)).encode_to_vec()?;
    let media: u64 = tracks.iter().flat_map(|track| track.samples).map(|sample| u64::from(sample.size)).sum();
    let size = u32::try_from(media + FRAGMENT_HEAD as u64).map_err(|_| Mp4Error::TooLarge("fragment"))?;
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(b"mdat");
    Ok(bytes)
}

fn traf(track: &FragmentTrack<'_>, data_offset: Option<i32>) -> TrafBox {
    let composed = track.samples.iter().any(|sample| sample.composition != 0);
    let samples = track.samples.iter().map(|sample| TrunSample {
        duration: Some(sample.duration),
        size: Some(sample.size),
        // Others depend on a keyframe and it on nothing (section 8.8.3.1).
        flags: Some(SampleFlags::from_fields(0, if sample.key { 2 } else { 1 }, 0, 0, 0, !sample.key, 0)),
        composition_time_offset: composed.then_some(i64::from(sample.composition)),
    });
    TrafBox {
        tfhd_box: TfhdBox {
            track_id: track.id,
            base_data_offset: None,
            sample_description_index: (track.entry > 0).then(|| u32::from(track.entry) + 1),
            default_sample_duration: None,
            default_sample_size: None,
            default_sample_flags: None,
            duration_is_empty: false,
            default_base_is_moof: true,
        },
        tfdt_box: Some(TfdtBox { version: 1, base_media_decode_time: track.dts }),
        trun_boxes: vec![TrunBox { data_offset, first_sample_flags: None, samples: samples.collect() }],
        unknown_boxes: Vec::new(),
    }
}

/// Leaves a track's tables empty.
pub(super) fn clear_tables(stbl: &mut StblBox) {
    stbl.stts_box.entries = Vec::new();
    (stbl.ctts_box, stbl.cslg_box, stbl.stss_box, stbl.sdtp_box) = (None, None, None, None);
    stbl.stsc_box.entries = Vec::new();
    stbl.stsz_box = StszBox::Variable { entry_sizes: Vec::new() };
    stbl.stco_or_co64_box = Either::A(StcoBox { chunk_offsets: Vec::new() });
    stbl.unknown_boxes = Vec::new();
}

/// The `moov` of an ordinary file with the samples of a fragmented one, each of which lies `moved` bytes further back than it
/// did.
pub(in crate::services) fn index(movie: &Movie, moved: u64) -> Result<Vec<u8>, Mp4Error> {
    let mut moov = movie.moov.clone();
    moov.mvex_box = None;
    moov.trak_boxes = Vec::new();
    let mut longest = 0;
    for track in &movie.tracks {
        let (trak, duration) = full_trak(track, movie.timescale, moved);
        longest = longest.max(duration);
        moov.trak_boxes.push(trak);
    }
    moov.mvhd_box.duration = longest;
    // Its own doubling of the buffer would encode a long index again and again.
    let mut bytes = vec![0; index_bytes_max(movie)];
    let length = moov.encode(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn index_bytes_max(movie: &Movie) -> usize {
    const FIXED: usize = 16 * 1024;
    // At worst: stts 8, ctts 8, stsz 4, stss 4, stsc 12, co64 8.
    movie.tracks.iter().map(|track| track.samples.len() * 44 + FIXED).sum::<usize>() + FIXED
}

/// The track with its tables, and its duration in ticks of the movie.
fn full_trak(track: &Track, movie_timescale: NonZeroU32, moved: u64) -> (TrakBox, u64) {
    let mut trak = track.trak.clone();
    let in_movie = |ticks: u64| {
        let wide = u128::from(ticks) * u128::from(movie_timescale.get());
        u64::try_from(wide / u128::from(track.timescale.get())).unwrap_or(u64::MAX)
    };
    let media = track.duration();
    let mut shown = in_movie(media);
    if let Some(elst) = trak.edts_box.as_mut().and_then(|edts| edts.elst_box.as_mut()) {
        let mut total = 0;
        for edit in &mut elst.entries {
            if let Ok(media_time) = u64::try_from(edit.media_time) {
                edit.edit_duration = in_movie(track.shown_until().saturating_sub(media_time));
            }
            total += edit.edit_duration;
        }
        shown = total;
    }
    trak.tkhd_box.duration = shown;
    trak.mdia_box.mdhd_box.duration = media;
    let stbl = &mut trak.mdia_box.minf_box.stbl_box;
    fill_tables(stbl, track, moved);
    (trak, shown)
}

fn fill_tables(stbl: &mut StblBox, track: &Track, moved: u64) {
    let mut durations: Vec<SttsEntry> = Vec::new();
    let mut compositions: Vec<CttsEntry> = Vec::new();
    let mut sizes = Vec::with_capacity(track.samples.len());
    let mut keys = Vec::new();
    let mut chunks: Vec<(u64, u32, u16)> = Vec::new();
    let mut chunk_end = None;
    for (at, sample) in track.samples.iter().enumerate() {
        let next = track.samples.get(at + 1);
        let duration = next.map_or(i64::from(track.last_duration), |next| next.dts - sample.dts);
        let sample_delta = u32::try_from(duration.max(0)).unwrap_or(u32::MAX);
        match durations.last_mut().filter(|last| last.sample_delta == sample_delta) {
            Some(last) => last.sample_count += 1,
            None => durations.push(SttsEntry { sample_count: 1, sample_delta }),
        }
        let sample_offset = i64::from(sample.composition);
        match compositions.last_mut().filter(|last| last.sample_offset == sample_offset) {
            Some(last) => last.sample_count += 1,
            None => compositions.push(CttsEntry { sample_count: 1, sample_offset }),
        }
        sizes.push(sample.size);
        if sample.key {
            keys.extend(NonZeroU32::new(u32::try_from(at + 1).unwrap_or(u32::MAX)));
        }
        match chunks.last_mut().filter(|last| chunk_end == Some(sample.offset) && last.2 == sample.entry) {
            Some(last) => last.1 += 1,
            None => chunks.push((sample.offset + moved, 1, sample.entry)),
        }
        chunk_end = Some(sample.offset + u64::from(sample.size));
    }
    let mut runs: Vec<StscEntry> = Vec::new();
    for ((_, samples, entry), number) in chunks.iter().zip(1_u32..) {
        let index = NonZeroU32::MIN.saturating_add(u32::from(*entry));
        let same = |last: &&mut StscEntry| {
            (last.sample_per_chunk, last.sample_description_index) == (*samples, index)
        };
        if runs.last_mut().filter(same).is_none() {
            runs.push(StscEntry {
                first_chunk: NonZeroU32::MIN.saturating_add(number - 1),
                sample_per_chunk: *samples,
                sample_description_index: index,
            });
        }
    }
    stbl.stts_box.entries = durations;
    let composed = compositions.iter().any(|entry| entry.sample_offset != 0);
    let negative = compositions.iter().any(|entry| entry.sample_offset < 0);
    stbl.ctts_box =
        composed.then(|| CttsBox { version: u8::from(negative), entries: std::mem::take(&mut compositions) });
    stbl.stsc_box.entries = runs;
    // All samples of sound are keys, which is said by saying nothing.
    stbl.stss_box = (keys.len() < track.samples.len()).then_some(StssBox { sample_numbers: keys });
    stbl.stsz_box = StszBox::Variable { entry_sizes: sizes };
    let far = chunks.last().is_some_and(|(offset, ..)| u32::try_from(*offset).is_err());
    stbl.stco_or_co64_box = if far {
        Either::B(Co64Box { chunk_offsets: chunks.iter().map(|chunk| chunk.0).collect() })
    } else {
        let offsets = chunks.iter().map(|chunk| u32::try_from(chunk.0).unwrap_or(u32::MAX));
        Either::A(StcoBox { chunk_offsets: offsets.collect() })
    };
}
