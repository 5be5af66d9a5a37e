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
            MediaUnit::Video(unit) => pictures.push((unit.pts.ticks + 45).div_euclid(90)),
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
fn edit_lists_move_and_cut_what_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    made(folder.path(), "whole.mp4", &["-c:a", "aac", "-bf", "2"]);
    let run = |arguments: &[&str]| {
        let status = Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(arguments).status();
        assert!(status.unwrap().success());
    };
    // The pictures begin 300 ms after the sound.
    run(&[
        "-itsoffset",
        "0.3",
        "-i",
        &path("whole.mp4"),
        "-i",
        &path("whole.mp4"),
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c",
        "copy",
        &path("late.mp4"),
    ]);
    let (mut pictures, _) = times(&mut open(&std::fs::read(path("late.mp4")).unwrap()));
    pictures.sort_unstable();
    assert_eq!(pictures, (0..50).map(|n| 300 + n * 40).collect::<Vec<_>>());
    // Cut at 1.2 s, before which the group's other pictures are kept for decoding: these have times before the beginning.
    run(&["-ss", "1.3", "-i", &path("whole.mp4"), "-c", "copy", &path("cut.mp4")]);
    let mut cut = open(&std::fs::read(path("cut.mp4")).unwrap());
    let (mut pictures, _) = times(&mut cut);
    pictures.sort_unstable();
    let early = pictures.iter().filter(|ms| **ms < 0).count();
    assert!(early > 0 && early <= 10, "{pictures:?}");
    assert!(pictures.windows(2).all(|pair| pair[1] - pair[0] == 40), "{pictures:?}");
    // Its last second is behind the end of the list: the word of one field, as an editor changes it.
    let mut bytes = std::fs::read(path("whole.mp4")).unwrap();
    let lists: Vec<_> =
        bytes.windows(4).enumerate().filter(|(_, kind)| *kind == b"elst").map(|(at, _)| at).collect();
    assert_eq!(lists.len(), 2);
    for at in lists {
        assert_eq!(bytes[at + 4..at + 12], [0, 0, 0, 0, 0, 0, 0, 1], "one part");
        bytes[at + 12..at + 16].copy_from_slice(&1000_u32.to_be_bytes());
    }
    let mut short = open(&bytes);
    assert_eq!(short.duration(), Duration::from_secs(1));
    let (mut pictures, sounds) = times(&mut short);
    pictures.sort_unstable();
    // What is shown in time may need one that is not.
    assert!((25..=26).contains(&pictures.len()), "{pictures:?}");
    assert!((47..=49).contains(&sounds), "{sounds} frames of sound");
}

#[test]
fn the_first_tracks_that_can_be_played_are() {
    let folder = tempfile::tempdir().unwrap();
    let tone = ["-f", "lavfi", "-i", "sine=frequency=880:duration=2"];
    let card = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=2"];
    let file = folder.path().join("many.mp4");
    // Pictures of another codec, ours, more of ours; sound likewise; and text.
    std::fs::write(folder.path().join("a.srt"), "1\n00:00:00,000 --> 00:00:01,000\nHello\n").unwrap();
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(card)
        .args(["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=2"])
        .args(tone)
        .arg("-i")
        .arg(folder.path().join("a.srt"))
        .args(["-map", "0", "-map", "1", "-map", "0", "-map", "2", "-map", "2", "-map", "2", "-map", "3"])
        .args(["-c:v:0", "mpeg4", "-c:v:1", "libx264", "-c:v:2", "libx264", "-pix_fmt", "yuv420p"])
        .args(["-c:a:0", "ac3", "-c:a:1", "libopus", "-c:a:2", "aac", "-c:s", "mov_text"])
        .arg(&file)
        .status();
    assert!(status.unwrap().success());
    let mut demuxer = open(&std::fs::read(file).unwrap());
    assert_eq!(demuxer.audio_params().unwrap().codec.name(), "opus");
    let now = Clock::manual().now();
    let mut pictures = 0;
    while let Some(due) = demuxer.next(now).unwrap() {
        if let MediaUnit::Video(unit) = due.unit {
            assert_eq!((unit.params.width, unit.params.height), (160, 120), "the first of H.264");
            pictures += 1;
        }
    }
    assert_eq!(pictures, 50);
}

#[test]
fn files_of_pictures_or_sound_alone_and_of_either_sound_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments, has) in [
        ("silent.mp4", &["-an"][..], (true, false)),
        ("aac.mp4", &["-vn", "-c:a", "aac"], (false, true)),
        ("opus.mp4", &["-c:a", "libopus"], (true, true)),
        ("opus-alone.mp4", &["-vn", "-c:a", "libopus"], (false, true)),
    ] {
        let bytes = made(folder.path(), name, arguments);
        let mut demuxer = open(&bytes);
        assert_eq!(demuxer.has(), has, "{name}");
        let (pictures, sounds) = times(&mut demuxer);
        assert_eq!((pictures.len() == 50, sounds > 90), has, "{name}: {} and {sounds}", pictures.len());
    }
}

/// The boxes of an index with offsets of 64 bits, each moved by so much.
fn with_far_offsets(boxes: &[u8], by: u64) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), boxes);
    while !rest.is_empty() {
        let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let (one, after) = rest.split_at(size);
        rest = after;
        let (kind, payload): (&[u8; 4], _) = (one[4..8].try_into().unwrap(), &one[8..]);
        let (kind, payload) = match kind {
            b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" => (kind, with_far_offsets(payload, by)),
            b"stco" => {
                let offsets = payload[8..].chunks(4).flat_map(|offset| {
                    (u64::from(u32::from_be_bytes(offset.try_into().unwrap())) + by).to_be_bytes()
                });
                (b"co64", payload[..8].iter().copied().chain(offsets).collect())
            }
            other => (other, payload.to_vec()),
        };
        out.extend((payload.len() as u32 + 8).to_be_bytes());
        out.extend(kind);
        out.extend(payload);
    }
    out
}

#[test]
fn samples_beyond_four_gigabytes_are_found() {
    use std::os::unix::fs::FileExt as _;
    let folder = tempfile::tempdir().unwrap();
    let near = made(folder.path(), "near.mp4", &["-c:a", "aac", "-bf", "2"]);
    let index_at = near.windows(4).position(|kind| kind == b"moov").unwrap() - 4;
    let media_at = u32::from_be_bytes(near[..4].try_into().unwrap()) as usize;
    // A hole of five gigabytes between the file's head and its media.
    let hole = 5_u64 << 30;
    let far = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(folder.path().join("far.mp4"))
        .unwrap();
    far.write_all_at(&near[..media_at], 0).unwrap();
    far.write_all_at(&[&[0, 0, 0, 1][..], b"free", &hole.to_be_bytes()].concat(), media_at as u64).unwrap();
    let media = &near[media_at..index_at];
    far.write_all_at(media, media_at as u64 + hole).unwrap();
    far.write_all_at(&with_far_offsets(&near[index_at..], hole), index_at as u64 + hole).unwrap();
    let mut demuxer = Demuxer::open(far, PIXELS_MAX).unwrap();
    let mut expected = open(&near);
    let now = Clock::manual().now();
    loop {
        let (found, wanted) = (demuxer.next(now).unwrap(), expected.next(now).unwrap());
        let data = |due: &Due| match &due.unit {
            MediaUnit::Video(unit) => (due.at, unit.pts.ticks, unit.data.clone()),
            MediaUnit::Audio(frame) => (due.at, frame.pts.ticks, frame.data.clone()),
        };
        assert!(found.as_ref().map(data) == wanted.as_ref().map(data), "{found:?} instead of {wanted:?}");
        if found.is_none() {
            return;
        }
    }
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
