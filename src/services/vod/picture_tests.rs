//! The picture of a file at a moment, beside ffmpeg's of the same file; and the service around it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::picture::{NoPicture, picture_at};
use super::*;
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::services::colour::to_rgb;
use crate::services::decode::{DecodeError, StreamDecoder};
use crate::services::png::tests::decode as decode_png;
use crate::services::scale::{Fit, Scale};
use crate::services::test_card::{CardSettings, annex_b_run, read_number};

const PIXELS_MAX: u64 = 1 << 22;
const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;
const LIMIT: Duration = Duration::from_secs(20);

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(["-v", "error"]).args(arguments).output();
    let output = output.expect("ffmpeg is needed: tools/install-test-deps");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// `cards.h264` in the folder: 75 numbered cards.
fn cards(folder: &Path) -> String {
    let settings = CardSettings { keyframe_interval: 75, ..CardSettings::sized(WIDTH, HEIGHT) };
    let path = folder.join("cards.h264");
    std::fs::write(&path, annex_b_run(settings, 0..75, &Clock::real()).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Makes `name` of the cards: 25 a second unless the arguments say otherwise.
fn made(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let cards = cards(folder);
    let file = folder.join(name).to_str().unwrap().to_owned();
    let before = ["-nostdin", "-y", "-r", "25", "-f", "h264", "-i", &cards, "-c:v", "libx264"];
    let usual = ["-preset", "veryfast", "-qp", "18"];
    run("ffmpeg", &[&before[..], &usual, arguments, &[&file]].concat());
    file
}

/// What ffmpeg shows of a file: since when, in seconds, and the picture.
fn shown(file: &str) -> Vec<(f64, Vec<u8>)> {
    let filter = "scale=flags=accurate_rnd+full_chroma_int+neighbor,format=rgb24";
    let raw = ["-i", file, "-map", "0:v", "-fps_mode", "passthrough", "-vf", filter, "-f", "rawvideo", "-"];
    let pixels = run("ffmpeg", &raw);
    let listed =
        run("ffprobe", &["-select_streams", "v", "-show_entries", "frame=pts_time", "-of", "csv=p=0", file]);
    let times = String::from_utf8(listed).unwrap();
    let times: Vec<f64> = times.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect();
    let pictures: Vec<_> = pixels.chunks((WIDTH * HEIGHT * 3) as usize).map(<[u8]>::to_vec).collect();
    assert_eq!(times.len(), pictures.len(), "{file}");
    assert!(times.len() > 20, "{file}: {} pictures", times.len());
    times.into_iter().zip(pictures).collect()
}

fn at(bytes: &[u8], moment: Duration) -> Result<(Vec<u8>, Duration), NoPicture> {
    let mut demuxer = Demuxer::open(bytes.to_vec().into_boxed_slice(), PIXELS_MAX).unwrap();
    let mut decoder = StreamDecoder::new(PIXELS_MAX, Metrics::new());
    let now = Clock::manual().now();
    let (picture, since) = picture_at(&mut demuxer, &mut decoder, moment, now, &|| true)?;
    let rgb = to_rgb(&picture);
    assert_eq!((rgb.width, rgb.height), (WIDTH, HEIGHT));
    Ok((rgb.rgb, since))
}

fn number(rgb: &[u8]) -> u32 {
    read_number(rgb, WIDTH, HEIGHT).expect("no card to be seen")
}

/// The mean difference of two pictures, of 255.
fn difference(ours: &[u8], theirs: &[u8]) -> f64 {
    let sum: u64 = ours.iter().zip(theirs).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / ours.len() as f64
}

/// Holds the pictures of a file against those of ffmpeg: at the beginning of each, in its middle, and in a stride over all.
fn compare(file: &str, stride: usize) {
    let (bytes, theirs) = (std::fs::read(file).unwrap(), shown(file));
    for (n, (since, picture)) in theirs.iter().enumerate().step_by(stride) {
        let until = theirs.get(n + 1).map_or(since + 0.04, |next| next.0);
        for moment in [*since, (since + until) / 2.0] {
            let (ours, told) = at(&bytes, Duration::from_secs_f64(moment)).unwrap();
            assert_eq!(number(&ours), number(picture), "{file} at {moment}: picture {n}");
            assert!(difference(&ours, picture) < 1.5, "{file} at {moment}: {}", difference(&ours, picture));
            assert!((told.as_secs_f64() - since).abs() < 0.001, "{file} at {moment}: {told:?}, not {since}");
        }
    }
}

#[test]
fn every_layout_shows_at_each_moment_what_ffmpeg_shows() {
    let folder = tempfile::tempdir().unwrap();
    let reordered = ["-bf", "3", "-b_strategy", "0", "-g", "25"];
    for (name, arguments) in [
        ("plain.mp4", &["-bf", "0", "-g", "12"][..]),
        ("b.mp4", &reordered),
        ("pyramid.mp4", &["-g", "30", "-x264-params", "bframes=5:b-pyramid=normal:b-adapt=0"]),
        ("open.mp4", &["-x264-params", "open-gop=1:bframes=3:b-adapt=0:keyint=15:min-keyint=15:scenecut=0"]),
        (
            "fragments.mp4",
            &["-bf", "3", "-g", "25", "-movflags", "frag_keyframe+empty_moov+default_base_moof"],
        ),
        ("delayed.mp4", &["-bf", "3", "-g", "25", "-movflags", "frag_keyframe+empty_moov+delay_moov"]),
        ("ntsc.mp4", &["-bf", "2", "-g", "25", "-vf", "setpts=N*1001/30000/TB", "-r", "30000/1001"]),
        ("uneven.mp4", &["-bf", "2", "-g", "25", "-vf", "select='not(eq(mod(n,7),3))'", "-fps_mode", "vfr"]),
    ] {
        compare(&made(folder.path(), name, arguments), 3);
    }
}

#[test]
fn edit_lists_that_cut_the_beginning_or_put_it_off_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let whole = made(folder.path(), "b.mp4", &["-bf", "3", "-b_strategy", "0", "-g", "30"]);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // What is decoded before the cut is there and not shown.
    let cut = path("cut.mp4");
    run("ffmpeg", &["-y", "-ss", "0.6", "-i", &whole, "-c", "copy", &cut]);
    let first = number(&shown(&cut)[0].1);
    assert!((12..=17).contains(&first), "{first} is not what was cut to");
    compare(&cut, 2);
    // Sound begins before the pictures do.
    let late = path("late.mp4");
    let tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=3"];
    let (input, output) = (["-y", "-itsoffset", "0.5", "-i", &whole], ["-c:v", "copy", "-c:a", "aac", &late]);
    run("ffmpeg", &[&input[..], &tone, &["-map", "0:v", "-map", "1:a"], &output].concat());
    assert!(shown(&late)[0].0 >= 0.5);
    compare(&late, 5);
    // Before the first picture is shown it counts all the same, and tells when it is.
    let (rgb, since) = at(&std::fs::read(&late).unwrap(), Duration::ZERO).unwrap();
    assert_eq!((number(&rgb), since), (0, Duration::from_millis(500)));
}

#[test]
fn the_last_picture_is_shown_to_the_very_end_and_nothing_is_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = made(folder.path(), "a.mp4", &["-bf", "2", "-g", "25"]);
    let bytes = std::fs::read(file).unwrap();
    for ms in [2960, 2999, 3000] {
        assert_eq!(number(&at(&bytes, Duration::from_millis(ms)).unwrap().0), 74, "{ms}");
    }
    for moment in [Duration::from_millis(3001), Duration::MAX] {
        let Err(NoPicture::PastEnd(end)) = at(&bytes, moment) else { panic!("a picture of {moment:?}") };
        assert_eq!(end, Duration::from_secs(3));
    }
}

#[test]
fn what_cannot_be_decoded_exactly_is_an_error_and_time_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let file = made(folder.path(), "a.mp4", &["-bf", "0", "-g", "75", "-movflags", "+faststart"]);
    let mut bytes = std::fs::read(file).unwrap();
    let mut demuxer = Demuxer::open(bytes.clone().into_boxed_slice(), PIXELS_MAX).unwrap();
    let mut decoder = StreamDecoder::new(PIXELS_MAX, Metrics::new());
    let (now, asked) = (Clock::manual().now(), std::cell::Cell::new(0));
    let goes_on = || asked.replace(asked.get() + 1) < 10;
    let slow = picture_at(&mut demuxer, &mut decoder, Duration::from_secs(2), now, &goes_on);
    assert!(matches!(slow, Err(NoPicture::Decode(DecodeError::OutOfTime))));
    assert_eq!(asked.get(), 11, "asked before each unit");
    // A picture in the middle of the group is damaged: those before it are there, those after it are not.
    let half = bytes.len() * 2 / 3;
    bytes[half..half + 3000].fill(0xFF);
    assert_eq!(number(&at(&bytes, Duration::from_millis(200)).unwrap().0), 5);
    assert!(at(&bytes, Duration::from_millis(2900)).is_err());
}

/// A service over a folder with one film, `sub/film.mp4`.
fn service(folder: &Path, threads: usize) -> (FilePictureService, Metrics) {
    std::fs::create_dir(folder.join("sub")).unwrap();
    made(folder, "sub/film.mp4", &["-bf", "2", "-g", "25"]);
    let settings =
        FilePictureSettings { media_dir: folder.to_owned(), limit: LIMIT, threads, pixels_max: PIXELS_MAX };
    let metrics = Metrics::new();
    (FilePictureService::start(settings, Clock::real(), metrics.clone()).unwrap(), metrics)
}

#[test]
fn a_picture_that_is_asked_for_again_is_decoded_once_until_its_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (service, metrics) = service(folder.path(), 2);
    let pictures = service.handle();
    let take = |ms, scale| {
        let source = pictures.source("sub/film.mp4").unwrap();
        (source.version(), pictures.take(source, Duration::from_millis(ms), scale).unwrap())
    };
    let (version, first) = take(1000, None);
    assert_eq!((first.width, first.height, first.at), (WIDTH, HEIGHT, Duration::from_secs(1)));
    let (width, height, rgb) = decode_png(&first.png);
    assert_eq!(read_number(&rgb, width, height), Some(25));
    assert!(Arc::ptr_eq(&first, &take(1000, None).1));
    assert_eq!(metrics.decode_runs_total.get(), 1);
    let small = Scale { width: Some(160), height: None, fit: Fit::Contain };
    assert_eq!((take(1000, Some(small)).1.width, metrics.decode_runs_total.get()), (160, 2));
    // Another file under the name.
    let file = folder.path().join("sub/film.mp4");
    std::fs::rename(&file, folder.path().join("old.mp4")).unwrap();
    made(folder.path(), "sub/film.mp4", &["-bf", "0", "-vf", "negate"]);
    let (other, changed) = take(1000, None);
    assert_ne!(other, version);
    assert_ne!(changed.png, first.png);
    assert!(service.stop(LIMIT));
}

#[test]
fn what_is_no_film_has_its_reason_and_more_than_can_be_done_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (service, metrics) = service(folder.path(), 1);
    let pictures = service.handle();
    std::fs::write(folder.path().join("text.mp4"), "this is no film").unwrap();
    let tone = ["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac"];
    run("ffmpeg", &[&tone[..], &[folder.path().join("sound.mp4").to_str().unwrap()]].concat());
    assert!(matches!(pictures.source("none.mp4"), Err(FilePictureError::NotFound)));
    let take = |name: &str, s| {
        pictures.take(pictures.source(name).unwrap(), Duration::from_secs(s), None).unwrap_err()
    };
    assert!(matches!(take("text.mp4", 0), FilePictureError::Format));
    assert!(matches!(take("sound.mp4", 0), FilePictureError::NoVideo));
    assert!(matches!(take("sub/film.mp4", 4), FilePictureError::PastEnd(_)));
    let wrong = Scale { width: Some(0), height: None, fit: Fit::Contain };
    let source = pictures.source("sub/film.mp4").unwrap();
    let refused = pictures.take(source, Duration::ZERO, Some(wrong));
    assert!(matches!(refused, Err(FilePictureError::Scale(_))));

    // Two hundred at once, at moments of their own: what waits is bounded, the others hear so.
    let results: Vec<_> = std::thread::scope(|scope| {
        let ask = |n: u64| {
            let pictures = pictures.clone();
            move || {
                let source = pictures.source("sub/film.mp4").unwrap();
                pictures.take(source, Duration::from_millis(n * 14), None).map(|picture| (n, picture))
            }
        };
        let askers: Vec<_> = (0..200).map(|n| scope.spawn(ask(n))).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    let mut refused = 0;
    for result in results {
        match result {
            Ok((n, picture)) => {
                let (width, height, rgb) = decode_png(&picture.png);
                assert_eq!(read_number(&rgb, width, height), Some((n * 14 / 40) as u32));
            }
            Err(FilePictureError::Busy) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused > 0 && refused <= 200 - 64, "{refused} were refused");
    assert_eq!(metrics.file_pictures_total.with_label_values(&["busy"]).get(), refused);
    assert!(service.stop(LIMIT));
    let source = pictures.source("sub/film.mp4").unwrap();
    assert!(matches!(pictures.take(source, Duration::ZERO, None), Err(FilePictureError::Stopping)));
}
