//! A file whose writer was killed in the middle of a write.

use std::time::Duration;

use super::mp4_file::{self, Mp4File};
use super::tests::{new_file, picture, units};
use crate::services::mp4::{Movie, ReadAt as _};
use crate::services::test_card::CardSettings;

#[test]
fn a_fragment_that_was_cut_off_while_it_was_written_is_as_if_it_had_never_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.mp4");
    let file = new_file(folder.path(), "whole.mp4");
    let mut mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::ZERO);
    let mut before = 0;
    for (at, unit) in units(CardSettings::sized(320, 240), 0..60).iter().enumerate() {
        mp4.video(&picture(unit)).unwrap();
        if at % 20 == 19 {
            before = file.size().unwrap() as usize;
            mp4.flush().unwrap();
        }
    }
    let whole = std::fs::read(&path).unwrap();
    // What a kill leaves: the bytes behind the head, up to anywhere.
    for end in [before + 9, before + 20, (before + whole.len()) / 2, whole.len() - 1, whole.len()] {
        let mut cut = whole[..end].to_vec();
        cut[before..before + 8].fill(0);
        let name = format!("{end}.mp4");
        let file = new_file(folder.path(), &name);
        std::fs::write(folder.path().join(&name), &cut).unwrap();
        let movie = Movie::read(&file).unwrap();
        assert_eq!(movie.tracks[0].samples.len(), 40, "cut at {end} of {}", whole.len());
        let output = std::process::Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-count_packets",
                "-show_entries",
                "stream=nb_read_packets",
                "-of",
                "csv=p=0",
            ])
            .arg(folder.path().join(&name))
            .output()
            .unwrap();
        let (said, failed) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((said.trim(), failed.as_ref()), ("40", ""), "cut at {end}");
        assert_eq!(mp4_file::finish(&file).unwrap().as_millis(), 1333);
        let movie = Movie::read(&file).unwrap();
        assert_eq!(movie.tracks[0].samples.len(), 40);
    }
}
