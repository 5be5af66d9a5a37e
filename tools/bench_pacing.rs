//! How evenly a file is played: when each picture of it comes out of the hub, against the file's own clock.
//!
//! `cargo run --release --example bench-pacing FILE [SECONDS]`; FILE is an MP4 file that is as long, 60 seconds when not said. Lateness is
//! counted from the picture that came earliest by its own time.

use std::path::Path;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::hub::{GopLimits, Registry};
use stillcast::media::unit::MediaUnit;
use stillcast::services::vod::{VodSettings, Vods};

const QUEUE: usize = 1000;
const LIMIT: Duration = Duration::from_secs(20);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("which file?")?;
    let seconds: f64 = arguments.next().map_or(Ok(60.0), |text| text.parse())?;
    let file = Path::new(&file).canonicalize()?;
    let name = file.file_name().and_then(|name| name.to_str()).ok_or("its name cannot be used")?;
    let clock = Clock::real();
    let registry = Registry::new(GopLimits { units: 1000, bytes: 64 << 20 }, 2);
    let settings = VodSettings {
        media_dir: file.parent().ok_or("it has no folder")?.to_owned(),
        live_loop: false,
        idle: Duration::from_secs(3600),
        files_max: 1,
        pixels_max: u64::MAX,
    };
    let vods = Vods::new(settings, registry.clone(), clock.clone());
    vods.start(&format!("vod-live://{name}"), Some("film"), None)?;
    let stream = registry.find("film").ok_or("it is over already")?;
    let live = stream.subscribe(QUEUE, None).live;
    let mut found: Vec<(f64, f64)> = Vec::new();
    let begun = clock.now();
    while let Ok(unit) = live.receiver().recv_timeout(LIMIT) {
        let at_ms = clock.now().saturating_duration_since(begun).as_secs_f64() * 1000.0;
        if let MediaUnit::Video(unit) = unit {
            found.push((unit.dts.ticks as f64 / 90.0, at_ms));
        }
        if at_ms > seconds * 1000.0 {
            break;
        }
    }
    vods.stop(LIMIT);
    let earliest = found.iter().map(|(due, at)| at - due).fold(f64::MAX, f64::min);
    let mut late: Vec<f64> = found.iter().map(|(due, at)| at - due - earliest).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let tenth = late.len() / 10;
    let (first, last) = (mean(&late[..tenth]), mean(&late[late.len() - tenth..]));
    let length = found.last().map_or(0.0, |(_, at)| at / 1000.0);
    late.sort_by(f64::total_cmp);
    let at = |part: f64| late.get((late.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    println!("{} pictures in {length:.1} s", late.len());
    println!(
        "late: median {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        at(0.5),
        at(0.99),
        late.last().unwrap_or(&f64::NAN)
    );
    println!("drift: {:.3} ms from the first tenth to the last", last - first);
    Ok(())
}
