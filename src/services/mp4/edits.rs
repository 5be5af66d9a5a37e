//! Edit lists (ISO/IEC 14496-12 section 8.6.6): which moment of a track's media is shown at which moment of the movie.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Track;

/// One entry of an edit list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// For how long, in ticks of the movie; 0 is to the end.
    pub duration: u64,
    /// From which moment of the media, in ticks of the track; `None`: nothing is shown.
    pub media_time: Option<u64>,
    /// The moment stands still for the whole of the edit (a rate of 0).
    pub is_still: bool,
}

/// What of a track's media a moment of the movie shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaMoment {
    /// The moment of the media, in ticks of the track.
    pub ticks: i64,
    /// Where the part of the media begins that the edit shows, likewise: what is shown of it is not shown sooner.
    pub begins: i64,
    /// How long it takes until it is shown, likewise: 0 but for a moment before all that is shown.
    pub lead: i64,
}

impl Track {
    /// What must be added to a moment of the media, in ticks of the track, to get the moment of the movie, as the edit list
    /// begins: later parts of an edit list are not followed.
    #[must_use]
    pub fn shift(&self, movie_timescale: NonZeroU32) -> i64 {
        let mut empty: u64 = 0;
        for edit in &self.edits {
            match edit.media_time {
                None => empty = empty.saturating_add(edit.duration),
                Some(media_time) => {
                    let media_time = i64::try_from(media_time).unwrap_or(i64::MAX);
                    return self.of_movie(empty, movie_timescale).saturating_sub(media_time);
                }
            }
        }
        self.of_movie(empty, movie_timescale)
    }

    /// The moment of the media that the whole edit list shows at a moment of the movie, to the nearest tick. Where an edit shows
    /// nothing it is the last moment shown before, and before the first one shown that one.
    #[must_use]
    pub fn media_at(&self, moment: Duration, movie_timescale: NonZeroU32) -> MediaMoment {
        let at = self.of_duration(moment);
        // What comes after the end of the list is not shown at all: its last moment holds.
        let at = self.shown_end(movie_timescale).map_or(at, |end| at.min(end.saturating_sub(1)));
        let (mut begin, mut last) = (0_i64, None);
        for edit in &self.edits {
            let length = self.of_movie(edit.duration, movie_timescale);
            let end = if edit.duration == 0 { i64::MAX } else { begin.saturating_add(length) };
            if let Some(begins) = edit.media_time {
                let begins = i64::try_from(begins).unwrap_or(i64::MAX);
                let into = |at: i64| if edit.is_still { 0 } else { at.saturating_sub(begin).max(0) };
                // The first one that is shown holds for what comes before it, too.
                if at < end && (at >= begin || last.is_none()) {
                    let lead = begin.saturating_sub(at).max(0);
                    return MediaMoment { ticks: begins.saturating_add(into(at)), begins, lead };
                }
                let ticks = begins.saturating_add(into(end.saturating_sub(1)));
                last = Some(MediaMoment { ticks, begins, lead: 0 });
            } else if at < end
                && let Some(last) = last
            {
                return last;
            }
            begin = end;
        }
        // No list, or one of nothing: as it stands in the file.
        last.unwrap_or_else(|| {
            let ticks = at.saturating_sub(self.shift(movie_timescale));
            MediaMoment { ticks, begins: i64::MIN, lead: 0 }
        })
    }

    /// Whether the edit list shows one part of the media and no more, as almost all do.
    #[must_use]
    pub fn has_one_part(&self) -> bool {
        self.edits.iter().filter(|edit| edit.media_time.is_some()).count() <= 1
    }

    /// The end of what the edit list shows, in ticks of the track on the movie's clock; `None` where it sets no end.
    #[must_use]
    pub fn shown_end(&self, movie_timescale: NonZeroU32) -> Option<i64> {
        let last = self.edits.last().filter(|last| last.duration > 0)?;
        last.media_time?;
        let total = self.edits.iter().fold(0_u64, |total, edit| total.saturating_add(edit.duration));
        Some(self.of_movie(total, movie_timescale))
    }

    /// Ticks of the movie in ticks of the track.
    fn of_movie(&self, ticks: u64, movie_timescale: NonZeroU32) -> i64 {
        let wide = u128::from(ticks) * u128::from(self.timescale.get()) / u128::from(movie_timescale.get());
        i64::try_from(wide).unwrap_or(i64::MAX)
    }

    /// A time in ticks of the track, to the nearest.
    fn of_duration(&self, time: Duration) -> i64 {
        let ticks =
            (time.as_nanos().saturating_mul(u128::from(self.timescale.get())) + 500_000_000) / 1_000_000_000;
        i64::try_from(ticks).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::track::{AudioCodec, AudioParams, Rotation};
    use crate::services::mp4::{Entry, Movie, NewTrack, TrackKind, head};

    const RATE: NonZeroU32 = NonZeroU32::new(48_000).unwrap();
    /// Ticks a second of the movie.
    const MOVIE: NonZeroU32 = NonZeroU32::new(1000).unwrap();

    fn track(edits: Vec<Edit>) -> Track {
        let entry = Entry::of_audio(&AudioParams { codec: AudioCodec::Opus, sample_rate: RATE, channels: 2 });
        let new = NewTrack {
            id: 1,
            kind: TrackKind::Audio,
            timescale: RATE,
            entries: vec![entry.unwrap()],
            rotation: Rotation::None,
            begins: 0,
            media_time: 0,
        };
        let file = head(Duration::ZERO, &[new]).unwrap();
        Track { edits, ..Movie::read(&file[..]).unwrap().tracks.remove(0) }
    }

    fn edit(duration: u64, media_time: Option<u64>) -> Edit {
        Edit { duration, media_time, is_still: false }
    }

    /// Milliseconds of the media at each of these milliseconds of the movie.
    fn media(track: &Track, at_ms: &[u64]) -> Vec<i64> {
        let at = |ms: &u64| track.media_at(Duration::from_millis(*ms), MOVIE).ticks / 48;
        at_ms.iter().map(at).collect()
    }

    #[test]
    fn each_part_of_a_list_is_shown_in_its_time() {
        // A second of nothing, 2 s to 3 s of the media, half a second of nothing, 7 s to the end.
        let several =
            track(vec![edit(1000, None), edit(1000, Some(96_000)), edit(500, None), edit(0, Some(336_000))]);
        assert_eq!(media(&several, &[0, 1000, 1500, 1999]), [2000, 2000, 2500, 2999]);
        // Where nothing is shown, what was shown last; then the next part.
        assert_eq!(media(&several, &[2000, 2499, 2500, 3500]), [2999, 2999, 7000, 8000]);
        assert_eq!((several.shown_end(MOVIE), several.has_one_part()), (None, false));
        assert_eq!(several.media_at(Duration::from_millis(2600), MOVIE).begins, 336_000);
        assert_eq!(several.media_at(Duration::from_millis(250), MOVIE).lead, 36_000);
        assert_eq!(several.shift(MOVIE), 48_000 - 96_000);
        let cut = track(vec![edit(1000, Some(4800))]);
        assert_eq!(media(&cut, &[0, 999, 1000, 5000]), [100, 1099, 1099, 1099]);
        assert_eq!((cut.shown_end(MOVIE), cut.has_one_part()), (Some(48_000), true));
        let still = track(vec![Edit { is_still: true, ..edit(1000, Some(4800)) }, edit(0, Some(9600))]);
        assert_eq!(media(&still, &[0, 999, 1000, 1100]), [100, 100, 200, 300]);
        assert_eq!(media(&track(Vec::new()), &[0, 77]), [0, 77]);
    }

    #[test]
    fn lists_of_nothing_and_of_huge_numbers_are_taken_as_they_are() {
        for edits in [
            vec![edit(u64::MAX, None)],
            vec![edit(u64::MAX, Some(u64::MAX)); 3],
            vec![edit(0, None), edit(0, Some(0))],
            vec![edit(1, Some(u64::MAX >> 1)), edit(u64::MAX, None)],
        ] {
            let track = track(edits);
            for at in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
                let _ = track.media_at(at, MOVIE);
            }
            let _ = (track.shift(MOVIE), track.shown_end(MOVIE));
        }
    }
}
