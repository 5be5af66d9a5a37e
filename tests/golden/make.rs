//! Streams made with ffmpeg from the test card, and ffmpeg's own pictures of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::SystemTime;

use stillcast::base::clock::Clock;
use stillcast::media::h264::assemble::{UnitBuilder, UnitTimes, annex_b_pictures};
use stillcast::media::time::Timestamp;
use stillcast::media::track::{Colour, Matrix};
use stillcast::media::unit::AccessUnit;
use stillcast::services::test_card::TestCard;

use crate::table::Row;

/// A stream to publish.
pub(crate) struct Stream {
    /// In sending order.
    pub(crate) units: Vec<AccessUnit>,
    /// Of each unit: which frame of which file it is, in the order in which they are shown.
    frames: Vec<Frame>,
    parts: Vec<Part>,
    /// ffmpeg filters that make RGB of a frame as the stream's colours say.
    to_rgb: String,
    /// What was decoded already: most moments come twice.
    decoded: RefCell<HashMap<Frame, Rc<Vec<u8>>>>,
}

/// A frame of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Frame {
    pub(crate) part: usize,
    /// Counted in the order in which they are shown.
    pub(crate) index: usize,
}

/// One file.
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) size: (u32, u32),
}

impl Stream {
    /// The frame that is shown last of the first `sent` units.
    pub(crate) fn shown_last(&self, sent: usize) -> Frame {
        *self.frames[..sent].iter().max().unwrap()
    }

    /// The first file, in a container that can be read from a pipe.
    pub(crate) fn as_matroska(&self) -> Vec<u8> {
        let mut command = ffmpeg();
        command.arg("-i").arg(&self.parts[0].path);
        run(command.args(["-c", "copy", "-f", "matroska", "-"]), &mut |_| Ok(()))
    }

    /// ffmpeg's RGB of a frame, and its size.
    pub(crate) fn expected(&self, frame: Frame) -> ((u32, u32), Rc<Vec<u8>>) {
        let part = &self.parts[frame.part];
        if let Some(rgb) = self.decoded.borrow().get(&frame) {
            return (part.size, rgb.clone());
        }
        let filter = format!("select=eq(n\\,{}),{}", frame.index, self.to_rgb);
        let mut command = ffmpeg();
        command.arg("-i").arg(&part.path).args(["-vf", &filter, "-frames:v", "1", "-f", "rawvideo", "-"]);
        let rgb = Rc::new(run(&mut command, &mut |_| Ok(())));
        self.decoded.borrow_mut().insert(frame, rgb.clone());
        (part.size, rgb)
    }
}

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-nostats", "-y"]);
    command
}

/// Runs a program, writes its input, and returns its output; a failure fails the test.
fn run(
    command: &mut Command,
    write: &mut dyn FnMut(&mut std::process::ChildStdin) -> std::io::Result<()>,
) -> Vec<u8> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let written = write(&mut input);
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?} failed ({written:?})");
    output.stdout
}

/// Whether there is an ffmpeg that can encode H.264.
pub(crate) fn look_for_ffmpeg() -> Result<(), String> {
    let output = Command::new("ffmpeg").args(["-hide_banner", "-encoders"]).output();
    let output = output.map_err(|error| error.to_string())?;
    let listed = String::from_utf8_lossy(&output.stdout).contains("libx264");
    if listed { Ok(()) } else { Err("no libx264".into()) }
}

/// Makes the stream of a row.
pub(crate) fn stream(row: &Row, folder: &Path) -> Stream {
    let sizes = std::iter::once(row.size).chain(row.then);
    let parts: Vec<_> = sizes
        .enumerate()
        .map(|(number, size)| {
            let path = folder.join(format!("{}.{number}.mp4", row.name));
            encode(row, size, &path);
            Part { path, size }
        })
        .collect();
    let mut builder = UnitBuilder::new(u64::MAX);
    let (mut units, mut frames) = (Vec::new(), Vec::new());
    let mut offset = 0;
    let arrived = Clock::manual().now();
    for (part, file) in parts.iter().enumerate() {
        let (stream, times) = copy(&file.path);
        let pictures = annex_b_pictures(&stream);
        assert_eq!(pictures.len(), times.len(), "{}: packets and pictures", row.name);
        let mut order: Vec<i64> = times.iter().map(|time| time.0).collect();
        order.sort_unstable();
        let first = times.iter().map(|time| time.1).min().unwrap_or(0);
        for (nals, (pts, dts)) in pictures.into_iter().zip(&times) {
            nals.into_iter().for_each(|nal| builder.push(nal));
            let ticks = |ticks: i64| Timestamp::video(ticks - first + offset);
            let unit = builder.finish(UnitTimes { arrived, pts: ticks(*pts), dts: ticks(*dts) });
            frames.push(Frame { part, index: order.binary_search(pts).unwrap() });
            // What cannot stand at the beginning is refused by any ingest; here it comes only where a row says so.
            units.push(unit.unwrap().unwrap());
        }
        offset += order.last().unwrap() - first + 90_000 / i64::from(row.fps);
    }
    if let Some((from, by_ms)) = row.jump {
        for unit in &mut units[from..] {
            let moved = |time: Timestamp| Timestamp::video(time.ticks + by_ms * 90);
            (unit.pts, unit.dts) = (moved(unit.pts), moved(unit.dts));
        }
    }
    units.drain(..row.drop_first);
    frames.drain(..row.drop_first);
    let deinterlace = if row.fields { "pp=li," } else { "" };
    let to_rgb = format!(
        "{deinterlace}scale=in_color_matrix={}:in_range={}:flags=accurate_rnd+full_chroma_int+neighbor,format=rgb24",
        matrix(row.colour),
        range(row.colour)
    );
    Stream { units, frames, parts, to_rgb, decoded: RefCell::default() }
}

/// Draws the cards and has them encoded. Between the bars and the number something moves that is not easily coded.
fn encode(row: &Row, (width, height): (u32, u32), path: &Path) {
    let mut card = TestCard::new(width, height, row.colour).unwrap();
    let mut command = ffmpeg();
    let (fps, size) = (row.fps.to_string(), format!("{width}x{height}"));
    command.args(["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", &fps, "-i", "-"]);
    // The panel of the card, from 256 to 560 of 720 rows.
    let (top, rows) = (height * 256 / 720 / 2 * 2, height * 280 / 720 / 2 * 2);
    let moving = format!(
        "mandelbrot=size={width}x{rows}:rate={fps}:start_scale=0.02:end_scale=0.002:end_pts={}:maxiter=200",
        row.frames
    );
    command.args(["-f", "lavfi", "-i", &moving]);
    let extra = if row.filter.is_empty() { String::new() } else { format!(",{}", row.filter) };
    let filter = format!("[1]format=yuv420p,noise=alls=6:allf=t[m];[0][m]overlay=0:{top}:shortest=1{extra}");
    command.args(["-filter_complex", &filter, "-c:v", "libx264", "-threads", "2"]);
    if !row.encode.contains("-pix_fmt") {
        command.args(["-pix_fmt", "yuv420p"]);
    }
    command.args(row.encode.split_ascii_whitespace());
    if row.tagged {
        let matrix = if row.colour.matrix == Matrix::Bt709 { "bt709" } else { "smpte170m" };
        command.args(["-colorspace", matrix, "-color_primaries", matrix, "-color_trc", matrix]);
        command.args(["-color_range", range(row.colour)]);
    }
    command.args(["-video_track_timescale", "90000"]).arg(path);
    run(&mut command, &mut |input| {
        for number in 0..row.frames {
            let picture = card.draw(number, SystemTime::UNIX_EPOCH);
            for plane in [&picture.y, &picture.u, &picture.v] {
                input.write_all(plane)?;
            }
        }
        Ok(())
    });
}

/// The byte stream of a file, and pts and dts of each packet in 90 kHz.
fn copy(path: &Path) -> (Vec<u8>, Vec<(i64, i64)>) {
    let mut command = ffmpeg();
    command.arg("-i").arg(path).args(["-map", "0:v", "-c", "copy", "-f", "h264", "-"]);
    let stream = run(&mut command, &mut |_| Ok(()));
    let mut command = ffmpeg();
    command.arg("-i").arg(path).args(["-map", "0:v", "-c", "copy", "-f", "framecrc", "-"]);
    let listed = String::from_utf8(run(&mut command, &mut |_| Ok(()))).unwrap();
    assert!(listed.contains("#tb 0: 1/90000"), "time base of {path:?}");
    let packets = listed.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut fields = line.split(',').skip(1).map(|field| field.trim().parse::<i64>().unwrap());
        let (dts, pts) = (fields.next().unwrap(), fields.next().unwrap());
        (pts, dts)
    });
    let packets = packets.collect();
    (stream, packets)
}

fn matrix(colour: Colour) -> &'static str {
    if colour.matrix == Matrix::Bt709 { "bt709" } else { "bt601" }
}

fn range(colour: Colour) -> &'static str {
    if colour.full_range { "pc" } else { "tv" }
}
