//! Measures snapshots in process: floors alone, then the service over the same pictures, in one run and one table.
//!
//! `cargo run --release --example bench-snapshot -- FILE …` with H.264 files as Annex B and VP8 as `.ivf`, one after the
//! other (`tools/make-media` makes some). Each file is measured for itself: its distance of keyframes is what "cold" means.

use std::error::Error;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rand::{Rng as _, SeedableRng as _};
use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName, random_id};
use stillcast::base::metrics::Metrics;
use stillcast::base::stop::StopSource;
use stillcast::base::threads::{self, STACK_PROTOCOL_BYTES};
use stillcast::hub::{Gop, GopLimits, Publication, Publisher, Registry, SourceProtocol};
use stillcast::media::h264::assemble::{UnitBuilder, UnitTimes, annex_b_pictures};
use stillcast::media::picture::RgbPicture;
use stillcast::media::time::Timestamp;
use stillcast::media::track::Colour;
use stillcast::media::unit::AccessUnit;
use stillcast::media::vp8::FrameUnits;
use stillcast::services::colour;
use stillcast::services::decode::{StreamDecoder, decoder_has_assembly};
use stillcast::services::png::{self, Origin, PngText};
use stillcast::services::snapshot::{SnapshotRequest, SnapshotService, SnapshotSettings};
use stillcast::services::test_card::TestCard;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Moments of a cold start, asked for in each file.
const COLD_STARTS: usize = 40;
/// Requests to a watched stream, one after the other, three frames apart.
const WATCHED_REQUESTS: usize = 60;
/// Callers at once.
const CALLERS: usize = 100;

fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        return Err("usage: bench-snapshot FILE.h264|FILE.ivf …".into());
    }
    println!("decoder built with assembly: {}", if decoder_has_assembly() { "yes" } else { "no" });
    let mut with_table = true;
    for file in files {
        println!("\n## {file}\n");
        Bench::load(&file)?.measure(std::mem::take(&mut with_table))?;
    }
    Ok(())
}

struct Bench {
    clock: Clock,
    units: Vec<Arc<AccessUnit>>,
}

impl Bench {
    fn load(file: &str) -> Result<Self> {
        let clock = Clock::real();
        let stream = std::fs::read(file)?;
        let units = if file.ends_with(".ivf") { vp8(&stream, &clock)? } else { h264(&stream, &clock)? };
        let first = units.first().ok_or("no pictures in the file")?;
        let keys = units.iter().filter(|unit| unit.key).count();
        let bytes: usize = units.iter().map(|unit| unit.data.len()).sum();
        let (width, height) = (first.params.width, first.params.height);
        println!("{width}x{height}, {} pictures, {keys} keyframes, {bytes} bytes\n", units.len());
        Ok(Self { clock, units })
    }

    fn measure(&self, with_table: bool) -> Result<()> {
        let floors = self.floors()?;
        if with_table {
            self.png_table()?;
        }
        self.watched(&floors)?;
        self.cold()?;
        self.at_once()
    }

    fn decoder(&self) -> StreamDecoder {
        StreamDecoder::new(8192 * 4352, Metrics::new())
    }

    fn time<T>(&self, body: impl FnOnce() -> T) -> (Duration, T) {
        let began = self.clock.now();
        let value = body();
        (self.clock.now() - began, value)
    }

    /// The median of `times` runs.
    fn median_of<T>(&self, times: usize, mut body: impl FnMut() -> T) -> Duration {
        median((0..times).map(|_| self.time(|| black_box(body())).0).collect())
    }

    /// The steps of a snapshot, each alone.
    fn floors(&self) -> Result<Duration> {
        let mut decoder = self.decoder();
        let (mut key, mut inter) = (Vec::new(), Vec::new());
        for unit in &self.units {
            let (time, result) = self.time(|| decoder.step(unit, false));
            result?;
            if unit.key { &mut key } else { &mut inter }.push(time);
        }
        let picture = self.decoder().step(&self.units[0], true)?.ok_or("no picture")?;
        let rgb = colour::to_rgb(&picture);
        let convert = self.median_of(50, || colour::to_rgb(&picture));
        let encoding = self.median_of(50, || encode(&rgb, self.clock.wall()));
        let png = encode(&rgb, self.clock.wall());
        let engine = base64::engine::general_purpose::STANDARD;
        let text = self.median_of(50, || engine.encode(&png));
        println!("| step alone | median ms |\n|---|---|");
        println!("| keyframe | {} |", ms(median(key)));
        println!("| inter frame | {} |", ms(median(inter)));
        println!("| YUV to RGB | {} |", ms(convert));
        println!("| PNG ({} KiB) | {} |", png.len() / 1024, ms(encoding));
        println!("| base64 | {} |\n", ms(text));
        Ok(convert + encoding)
    }

    /// What was tried for PNG, on a picture of the file and on a drawn one.
    fn png_table(&self) -> Result<()> {
        use ::png::{DeflateCompression as D, Filter as F};
        let natural = self.decoder().step(&self.units[0], true)?.ok_or("no picture")?;
        let natural = colour::to_rgb(&natural);
        let mut card = TestCard::new(1280, 720, Colour::unsaid(1280, 720))?;
        let drawn = card.draw(42, self.clock.wall());
        let mut picture = self.decoder().step(&self.units[0], true)?.ok_or("no picture")?;
        let drawn_rgb = {
            let mut params = (*picture.params).clone();
            (params.width, params.height) = (drawn.width, drawn.height);
            picture.params = Arc::new(params);
            (picture.y, picture.u, picture.v) = (drawn.y.clone(), drawn.u.clone(), drawn.v.clone());
            colour::to_rgb(&picture)
        };
        let tried = [
            (
                "fdeflate",
                D::FdeflateUltraFast,
                &[F::Sub, F::Up, F::Avg, F::Paeth, F::Adaptive, F::MinEntropy][..],
            ),
            ("level 1", D::Level(1), &[F::Up, F::Paeth, F::Adaptive]),
            ("level 6", D::Level(6), &[F::Paeth, F::Adaptive]),
            ("none", D::NoCompression, &[F::NoFilter]),
        ];
        println!("| deflate | filter | natural ms | KiB | drawn ms | KiB |\n|---|---|---|---|---|---|");
        for (name, deflate, filters) in tried {
            for filter in filters {
                print!("| {name} | {filter:?} |");
                for rgb in [&natural, &drawn_rgb] {
                    let times = if name.starts_with("level") { 3 } else { 15 };
                    let time = self.median_of(times, || plain_png(rgb, deflate, *filter));
                    print!(" {} | {} |", ms(time), plain_png(rgb, deflate, *filter).len() / 1024);
                }
                println!();
            }
        }
        println!();
        Ok(())
    }

    /// One caller after the other, of a stream that flows at 30 pictures a second.
    fn watched(&self, alone: &Duration) -> Result<()> {
        let scene = Scene::new(self, Duration::from_secs(60))?;
        let feed = Feed::start(self, &scene.registry)?;
        let snapshots = scene.service.handle();
        snapshots.take(feed.request())?;
        let (mut times, mut ages) = (Vec::new(), Vec::new());
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        for _ in 0..WATCHED_REQUESTS {
            thread::sleep(Duration::from_millis(random.random_range(80..120)));
            let (time, snapshot) = self.time(|| snapshots.take(feed.request()));
            let snapshot = snapshot?;
            black_box(snapshot.base64());
            times.push(time);
            ages.push(snapshot.age(self.clock.now()));
        }
        times.sort();
        let (p50, p95) = (times[times.len() / 2], times[times.len() * 95 / 100]);
        let ratio = p50.as_secs_f64() / alone.as_secs_f64();
        println!("| watched, one caller | measured | must reach |\n|---|---|---|");
        println!("| median ms | {} | 12 |", ms(p50));
        println!("| 95 of 100 within ms | {} | |", ms(p95));
        println!("| median : conversion + PNG alone ({} ms) | {ratio:.2} | 1.5 |", ms(*alone));
        println!("| median age of the picture at the answer, ms | {} | |", ms(median(ages)));
        println!("| decoding runs | {} | |\n", scene.metrics.decode_runs_total.get());
        Ok(())
    }

    /// Random moments of a group, each against the same pictures decoded and encoded alone.
    fn cold(&self) -> Result<()> {
        let scene = Scene::new(self, Duration::ZERO)?;
        let snapshots = scene.service.handle();
        let mut random = rand::rngs::StdRng::seed_from_u64(2);
        let (mut ratios, mut through, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..COLD_STARTS {
            let target = random.random_range(0..self.units.len());
            let first = self.units[..=target].iter().rposition(|unit| unit.key).ok_or("no keyframe")?;
            let units = &self.units[first..=target];
            let gop = Gop { units: units.to_vec() };
            let publisher = publish(&scene.registry)?;
            units.iter().for_each(|unit| publisher.push_video(self.fresh(unit)));
            let name = publisher.stream().publication().name.to_string();
            let request = SnapshotRequest { stream_name: name, ..SnapshotRequest::default() };
            let (time, snapshot) = self.time(|| snapshots.take(request));
            snapshot?;
            let (by_itself, result) = self.time(|| {
                let picture = self.decoder().picture(&gop, self.units[target].seq)?;
                Result::Ok(encode(&colour::to_rgb(&picture), self.clock.wall()))
            });
            result?;
            ratios.push(time.as_secs_f64() / by_itself.as_secs_f64());
            through.push(time);
            alone.push(by_itself);
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "| cold, random moment of a group, {COLD_STARTS} times | measured | must reach |\n|---|---|---|"
        );
        println!("| median ms | {} | |", ms(median(through)));
        println!(
            "| the same pictures decoded, converted and encoded alone, median ms | {} | |",
            ms(median(alone))
        );
        println!("| ratio, median | {:.2} | 1.3 |", ratios[ratios.len() / 2]);
        println!("| ratio, 90 of 100 within | {:.2} | |\n", ratios[ratios.len() * 9 / 10]);
        Ok(())
    }

    /// Everybody at once, on a stream that flows and that nobody asked for before.
    fn at_once(&self) -> Result<()> {
        let scene = Scene::new(self, Duration::ZERO)?;
        let feed = Feed::start(self, &scene.registry)?;
        thread::sleep(Duration::from_millis(700));
        let snapshots = scene.service.handle();
        let (single, snapshot) = self.time(|| snapshots.take(feed.request()));
        snapshot?;
        let counts = || (scene.metrics.decode_runs_total.get(), scene.metrics.pictures_encoded_total.get());
        let before = counts();
        let barrier = Barrier::new(CALLERS);
        let times: Vec<Duration> = thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        let (time, snapshot) = self.time(|| snapshots.take(feed.request()));
                        snapshot.map(|_| time)
                    })
                })
                .collect();
            callers.into_iter().filter_map(|caller| caller.join().ok()?.ok()).collect()
        });
        let after = counts();
        let last = times.iter().max().copied().unwrap_or_default();
        println!("| {CALLERS} callers at once, cold | measured | must reach |\n|---|---|---|");
        println!("| served | {} | {CALLERS} |", times.len());
        println!("| decodes, encodes | {}, {} | 2, 2 |", after.0 - before.0, after.1 - before.1);
        println!("| a single caller before, ms | {} | |", ms(single));
        println!("| the last one, ms | {} | {} |", ms(last), ms(single * 2));
        Ok(())
    }

    /// A unit as if it had come now.
    fn fresh(&self, unit: &AccessUnit) -> AccessUnit {
        AccessUnit { arrived: self.clock.now(), ..unit.clone() }
    }
}

/// A service with nothing published.
struct Scene {
    registry: Registry,
    metrics: Metrics,
    service: SnapshotService,
}

impl Scene {
    fn new(bench: &Bench, watch: Duration) -> Result<Self> {
        let registry = Registry::new(GopLimits { units: 600, bytes: 16 << 20 }, 100);
        let metrics = Metrics::new();
        let settings = SnapshotSettings {
            limit: Duration::from_secs(30),
            attempts: 30,
            watch,
            watched_max: 8,
            decoders: 2,
            encoders: 2,
            queue_max: 32,
            keyframe_units: 60,
            pixels_max: 8192 * 4352,
        };
        let service =
            SnapshotService::start(settings, registry.clone(), bench.clock.clone(), metrics.clone())?;
        Ok(Self { registry, metrics, service })
    }
}

/// A stream that flows at 30 pictures a second, the file over and over, until it is dropped.
struct Feed {
    name: String,
    _stop: StopSource,
}

impl Feed {
    fn start(bench: &Bench, registry: &Registry) -> Result<Self> {
        let publisher = publish(registry)?;
        let name = publisher.stream().publication().name.to_string();
        let stop = StopSource::new();
        let (token, clock, units) = (stop.token(), bench.clock.clone(), bench.units.clone());
        threads::spawn("feed", STACK_PROTOCOL_BYTES, move || {
            let began: Instant = clock.now();
            for (number, unit) in units.iter().cycle().enumerate() {
                publisher.push_video(AccessUnit { arrived: clock.now(), ..(**unit).clone() });
                let due = began + Duration::from_micros(33_333) * (number as u32 + 1);
                if token.wait(due.saturating_duration_since(clock.now())) {
                    return;
                }
            }
        })?;
        // The first picture is there before anybody asks.
        thread::sleep(Duration::from_millis(100));
        Ok(Self { name, _stop: stop })
    }

    fn request(&self) -> SnapshotRequest {
        SnapshotRequest { stream_name: self.name.clone(), ..SnapshotRequest::default() }
    }
}

fn h264(stream: &[u8], clock: &Clock) -> Result<Vec<Arc<AccessUnit>>> {
    let mut builder = UnitBuilder::new(8192 * 4352);
    let mut units: Vec<Arc<AccessUnit>> = Vec::new();
    for nals in annex_b_pictures(stream) {
        nals.iter().for_each(|nal| builder.push(nal));
        let pts = Timestamp::video(i64::try_from(units.len())? * 3000);
        let times = UnitTimes { arrived: clock.now(), pts, dts: pts };
        if let Some(unit) = builder.finish(times)? {
            units.push(Arc::new(AccessUnit { seq: units.len() as u64, ..unit }));
        }
    }
    Ok(units)
}

/// The frames of an IVF file: 32 bytes of header, then each after 12 bytes that begin with its size.
fn vp8(file: &[u8], clock: &Clock) -> Result<Vec<Arc<AccessUnit>>> {
    let mut frames = FrameUnits::new(8192 * 4352);
    let mut units: Vec<Arc<AccessUnit>> = Vec::new();
    let mut rest = file.get(32..).ok_or("not an IVF file")?;
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let (frame, after) = after.split_at_checked(size).ok_or("a frame is cut short")?;
        rest = after;
        let pts = Timestamp::video(i64::try_from(units.len())? * 3000);
        let unit = frames.unit(frame, clock.now(), pts)?;
        units.push(Arc::new(AccessUnit { seq: units.len() as u64, ..unit }));
    }
    Ok(units)
}

fn publish(registry: &Registry) -> Result<Publisher> {
    let id = random_id();
    let publication = Publication::new(
        StreamName::new(&id)?,
        MediaSessionId::new(&id)?,
        SourceProtocol::TestCard,
        Clock::real().wall(),
    );
    Ok(registry.publish(publication, None)?)
}

fn encode(rgb: &RgbPicture, captured: std::time::SystemTime) -> Vec<u8> {
    let origin = Origin::Stream { captured, epoch: 1 };
    let text = PngText { stream_name: "bench", origin, sample_aspect_ratio: (1, 1) };
    png::encode(rgb, &text).unwrap_or_default()
}

fn plain_png(rgb: &RgbPicture, deflate: ::png::DeflateCompression, filter: ::png::Filter) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rgb.rgb.len() / 2);
    let mut encoder = ::png::Encoder::new(&mut bytes, rgb.width, rgb.height);
    encoder.set_color(::png::ColorType::Rgb);
    encoder.set_depth(::png::BitDepth::Eight);
    encoder.set_deflate_compression(deflate);
    encoder.set_filter(filter);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&rgb.rgb));
    written.map(|()| bytes).unwrap_or_default()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}
