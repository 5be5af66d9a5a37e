//! What automatic pictures cost: every 30th frame of a stream with a keyframe every 30 frames, through the whole
//! service (hub, taker, writer, files), against decoding the same keyframes and encoding them, and nothing else.
//!
//! `cargo run --release --example bench-auto [FILE]`; FILE is H.264 as Annex B (`tools/make-media` makes some),
//! without it the numbered test card. Times are of the processor, all threads of this process together.

use std::num::NonZeroU64;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::base::metrics::Metrics;
use stillcast::hub::{GopLimits, Publication, Registry, SourceProtocol};
use stillcast::media::h264::assemble::{UnitBuilder, UnitTimes, annex_b_pictures};
use stillcast::media::time::Timestamp;
use stillcast::media::unit::AccessUnit;
use stillcast::services::auto::{AutoSettings, AutoSnapshots, Naming};
use stillcast::services::colour::to_rgb;
use stillcast::services::decode::StreamDecoder;
use stillcast::services::png::{Origin, PngText, encode};
use stillcast::services::retention::Keep;
use stillcast::services::test_card::{CardEncoder, CardSettings};

const RATE: u64 = 30;
const ROUNDS: usize = 5;
const PIXELS_MAX: u64 = 8192 * 4352;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let clock = Clock::real();
    let units = match std::env::args().nth(1) {
        Some(path) => read(&std::fs::read(path)?, &clock)?,
        None => cards(&clock)?,
    };
    let keys = units.iter().filter(|unit| unit.key).count();
    println!("{} units, {keys} keyframes, one picture every {RATE} units", units.len());
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (alone_ms, pictures) = alone(&units, &clock)?;
        let (service_ms, decoded, written) = service(&units, &clock)?;
        ratios.push(service_ms / alone_ms);
        println!(
            "alone {:.2} ms a picture ({pictures}); service {:.2} ms a picture ({written}, {decoded} units decoded): {:.2}x",
            alone_ms,
            service_ms,
            service_ms / alone_ms
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("median {:.2}x", ratios[ROUNDS / 2]);
    Ok(())
}

/// Decodes each unit that the service would, where it is a keyframe, and makes a PNG of it: ms a picture.
fn alone(units: &[AccessUnit], clock: &Clock) -> Result<(f64, usize), Failure> {
    let mut decoder = StreamDecoder::new(PIXELS_MAX, Metrics::new());
    let mut pictures = 0;
    let before = processor_ms()?;
    for unit in units.iter().step_by(RATE as usize).filter(|unit| unit.key) {
        if let Some(picture) = decoder.step(unit, true)? {
            let text = PngText {
                stream_name: "bench",
                origin: Origin::Stream { captured: clock.wall(), epoch: 0 },
                sample_aspect_ratio: (1, 1),
            };
            std::hint::black_box(encode(&to_rgb(&picture), &text)?);
            decoder.recycle(picture);
            pictures += 1;
        }
    }
    Ok(((processor_ms()? - before) / pictures as f64, pictures))
}

/// The same stream through the hub and the running service: ms a picture, units decoded, pictures written.
fn service(units: &[AccessUnit], clock: &Clock) -> Result<(f64, u64, u64), Failure> {
    let dir = std::env::temp_dir().join(format!("bench-auto-{}", std::process::id()));
    let metrics = Metrics::new();
    let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 9);
    let rate = NonZeroU64::new(RATE).ok_or("no rate")?;
    let settings = AutoSettings {
        dir: dir.clone(),
        naming: Naming::StreamName,
        rate,
        retention: 20,
        keep: Keep::default(),
        pixels_max: PIXELS_MAX,
    };
    let auto = AutoSnapshots::start(settings, &registry, clock.clone(), metrics.clone())?;
    let publisher = registry.publish(publication(clock)?, None)?;
    let written = metrics.auto_pictures_total.with_label_values(&["written"]);
    let before = processor_ms()?;
    for run in units.chunks(RATE as usize) {
        let due = written.get() + 1;
        run.iter().for_each(|unit| publisher.push_video(unit.clone()));
        // A stream in real time leaves the service its second; here it is as long as the service needs.
        while written.get() < due {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let spent_ms = processor_ms()? - before;
    drop(publisher);
    auto.stop();
    std::fs::remove_dir_all(&dir)?;
    Ok((spent_ms / written.get() as f64, metrics.units_decoded_total.get(), written.get()))
}

/// Time that this process has used the processor, ended threads included. Linux counts it in hundredths of a second.
fn processor_ms() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, the name in brackets, may hold spaces; `utime` and `stime` are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks =
        |field: usize| fields.get(field - 3).ok_or("short /proc/self/stat")?.parse().map_err(Failure::from);
    let (user, system): (f64, f64) = (ticks(14)?, ticks(15)?);
    Ok((user + system) * 10.0)
}

fn cards(clock: &Clock) -> Result<Vec<AccessUnit>, Failure> {
    let mut encoder = CardEncoder::new(CardSettings::sized(1280, 720))?;
    let before = processor_ms()?;
    let units: Vec<_> =
        (0..600).map(|number| encoder.encode(number, clock.now(), clock.wall())).collect::<Result<_, _>>()?;
    let bytes: usize = units.iter().map(|unit| unit.data.len()).sum();
    println!(
        "test card 1280x720 at 30 frames/s: {:.2} ms to draw and encode a frame, {} kbit/s",
        (processor_ms()? - before) / units.len() as f64,
        bytes * 8 * 30 / units.len() / 1000
    );
    Ok(units)
}

fn read(stream: &[u8], clock: &Clock) -> Result<Vec<AccessUnit>, Failure> {
    let mut builder = UnitBuilder::new(PIXELS_MAX);
    let mut units = Vec::new();
    for (number, picture) in (0_i64..).zip(annex_b_pictures(stream)) {
        picture.iter().for_each(|nal| builder.push(nal));
        let pts = Timestamp::video(number * 3000);
        units.extend(builder.finish(UnitTimes { arrived: clock.now(), pts, dts: pts })?);
    }
    Ok(units)
}

fn publication(clock: &Clock) -> Result<Publication, Failure> {
    Ok(Publication::new(
        StreamName::new("bench")?,
        MediaSessionId::new("bench")?,
        SourceProtocol::TestCard,
        clock.wall(),
    ))
}
