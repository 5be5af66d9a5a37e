//! Files of another program's, ours, cut ones and hostile ones, as units.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::base::clock::Clock;
use crate::media::unit::MediaUnit;

const PIXELS_MAX: u64 = 1 << 22;

/// A file that another program makes of its own test picture and tone, two seconds of each.
fn made(folder: &Path, name: &str, arguments: &[&str]) -> Vec<u8> {
    let file = folder.join(name);
    let status = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-nostdin",
            "-y",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=160x120:rate=25:duration=2",
        ])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=2"])
        .args(["-c:v", "libx264", "-preset", "veryfast", "-g", "10", "-pix_fmt", "yuv420p"])
        .args(arguments)
        .arg(&file)
        .status()
        .expect("ffmpeg is needed: tools/install-test-deps");
    assert!(status.success());
    std::fs::read(file).unwrap()
}

fn open(bytes: &[u8]) -> Demuxer<Box<[u8]>> {
    Demuxer::open(bytes.to_vec().into_boxed_slice(), PIXELS_MAX).unwrap()
}

/// Presentation times of all pictures in ms, in decoding order, and the number of frames of sound.
fn times(demuxer: &mut Demuxer<Box<[u8]>>) -> (Vec<i64>, usize) {
    let now = Clock::manual().now();
    let (mut pictures, mut sounds, mut last) = (Vec::new(), 0, Duration::ZERO);
    while let Some(due) = demuxer.next(now).unwrap() {
        assert!(due.at >= last, "units come in the order in which they are due");
        last = due.at;
        match due.unit {
            MediaUnit::Video(unit) => pictures.push((unit.pts.ticks + 45) / 90),
            MediaUnit::Audio(_) => sounds += 1,
        }
    }
    (pictures, sounds)
}

#[test]
fn every_layout_gives_the_same_pictures_at_the_same_times() {
    let folder = tempfile::tempdir().unwrap();
    let aac = ["-c:a", "aac"];
    let want: Vec<i64> = (0..50).map(|n| n * 40).collect();
    for (name, arguments) in [
        ("end.mp4", &["-bf", "0"][..]),
        ("first.mp4", &["-movflags", "+faststart"]),
        ("b.mp4", &["-bf", "2"]),
        ("fragments.mp4", &["-bf", "2", "-movflags", "frag_keyframe+empty_moov+delay_moov"]),
        ("moof.mp4", &["-bf", "2", "-movflags", "frag_keyframe+empty_moov+delay_moov+default_base_moof"]),
        ("brand.mov", &["-bf", "2"]),
    ] {
        let bytes = made(folder.path(), name, &[&aac[..], arguments].concat());
        let mut demuxer = match Demuxer::open(bytes.into_boxed_slice(), PIXELS_MAX) {
            Ok(demuxer) => demuxer,
            // Older files have no declaration of data references that the crate wants.
            Err(VodError::Format(_)) if name.ends_with(".mov") => continue,
            Err(error) => panic!("{name}: {error:?}"),
        };
        let (mut pictures, sounds) = times(&mut demuxer);
        pictures.sort_unstable();
        assert_eq!(pictures, want, "{name}");
        assert!((93..=96).contains(&sounds), "{name}: {sounds} frames of sound");
        assert!((demuxer.duration().as_secs_f64() - 2.0).abs() < 0.1, "{name}: {:?}", demuxer.duration());
    }
}

#[test]
fn sound_is_what_its_configuration_says_and_not_what_the_entry_does() {
    // The entry says two channels of whatever, as ISO/IEC 14496-14 section 5.6 wants it.
    let folder = tempfile::tempdir().unwrap();
    let file = made(folder.path(), "mono.mp4", &["-c:a", "aac", "-ac", "1", "-ar", "44100"]);
    let mut demuxer = open(&file);
    let now = Clock::manual().now();
    let sound = std::iter::from_fn(|| demuxer.next(now).unwrap())
        .find_map(|due| if let MediaUnit::Audio(frame) = due.unit { Some(frame) } else { None })
        .unwrap();
    assert_eq!((sound.params.channels, sound.params.sample_rate.get()), (1, 44_100));
}

#[test]
fn seeking_goes_to_the_keyframe_at_or_before() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = made(folder.path(), "a.mp4", &["-c:a", "libopus", "-bf", "2"]);
    let mut demuxer = open(&bytes);
    for (at_ms, want_ms) in [(0, 0), (399, 0), (400, 400), (1234, 1200), (99_000, 1600)] {
        demuxer.seek(Duration::from_millis(at_ms));
        let (pictures, sounds) = times(&mut demuxer);
        assert_eq!(pictures[0], want_ms, "{at_ms}");
        let left = (2000 - want_ms) / 20;
        assert!((sounds as i64 - left).abs() <= 6, "{sounds} frames of sound after {at_ms}");
    }
}

#[test]
fn a_cut_or_changed_file_gives_what_it_has_and_never_more() {
    let folder = tempfile::tempdir().unwrap();
    let now = Clock::manual().now();
    for (name, flags) in
        [("plain.mp4", "+faststart"), ("fragments.mp4", "frag_keyframe+empty_moov+delay_moov")]
    {
        let bytes = made(folder.path(), name, &["-c:a", "aac", "-movflags", flags]);
        let whole = times(&mut open(&bytes)).0.len();
        let mut some = 0;
        // A simple generator: the same changes in each run.
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for round in 0..3000_u32 {
            let mut other = bytes.clone();
            for _ in 0..=(round % 6) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Mostly where the index stands.
                let reach = if round % 4 == 0 { other.len() } else { 6000.min(other.len()) };
                let at = (state as usize) % reach;
                match round % 3 {
                    0 => other[at] = (state >> 32) as u8,
                    1 => other[at..(at + 4).min(reach)].fill(if state & 1 << 40 == 0 { 0xFF } else { 0 }),
                    _ => other.truncate(at.max(1)),
                }
                if other.len() < 8 {
                    break;
                }
            }
            let Ok(mut demuxer) = Demuxer::open(other.into_boxed_slice(), PIXELS_MAX) else { continue };
            let mut pictures = 0;
            while let Some(due) = demuxer.next(now).unwrap() {
                pictures += usize::from(matches!(due.unit, MediaUnit::Video(_)));
            }
            assert!(pictures <= whole * 4, "{pictures} pictures of {whole}");
            some += usize::from(pictures > 0);
        }
        assert!(some > 100, "{some} of the changed files still play");
    }
}

#[test]
fn names_do_not_leave_the_folder_and_links_are_not_followed() {
    let top = tempfile::tempdir().unwrap();
    let media = top.path().join("media");
    std::fs::create_dir_all(media.join("sub")).unwrap();
    std::fs::write(top.path().join("secret.mp4"), b"x").unwrap();
    std::fs::write(media.join("sub/a.mp4"), b"x").unwrap();
    symlink(top.path().join("secret.mp4"), media.join("link.mp4")).unwrap();
    symlink(top.path(), media.join("up")).unwrap();
    assert!(open_below(&media, "sub/a.mp4").is_ok());
    for name in [
        "../secret.mp4",
        "sub/../../secret.mp4",
        "link.mp4",
        "up/secret.mp4",
        "/etc/passwd",
        "sub",
        "",
        ".",
        "sub//a.mp4",
        "none.mp4",
        "a\0",
    ] {
        assert!(matches!(open_below(&media, name), Err(VodError::NotFound)), "{name}");
    }
}
