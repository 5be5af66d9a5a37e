//! Publishes many WebRTC streams into a running server from one prepared H.264 file, cheaply, and tells at the end what
//! the server asked for.
//!
//! ```text
//! ffmpeg -i in.mp4 -an -c copy -bsf:v h264_mp4toannexb clip.h264
//! cargo run --release --example load-driver -- --file clip.h264 --streams 50 --seconds 60
//! ```

use std::io;
use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use stillcast::base::clock::Clock;
use stillcast::base::stop::StopSource;
use stillcast::proto::dtls::Certificate;

use support::browser::{Browser, BrowserSettings};
use support::clip::{Clip, ClipError};
use support::page::{Page, PageError};
use support::publishers::{Publisher, PublisherState, Publishers};

/// The clients that end-to-end tests use, too; they use more of them.
#[path = "../tests/support"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod support {
    pub mod browser;
    pub mod clip;
    pub mod page;
    pub mod publishers;
    pub mod viewer;
    pub mod watcher;
}

/// Publishes WebRTC streams from a prepared H.264 file.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server's WebSocket port, as host:port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    server: String,
    /// An H.264 byte stream (Annex B) without B pictures; it is looped.
    #[arg(long)]
    file: PathBuf,
    /// Pictures a second.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// How many streams.
    #[arg(long, default_value_t = 1)]
    streams: u32,
    /// Streams are named `<prefix>1`, `<prefix>2` …
    #[arg(long, default_value = "load")]
    prefix: String,
    /// For so long, from the moment that all are published.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// With a microphone: 50 packets a second more.
    #[arg(long)]
    audio: bool,
    /// Have the streams recorded.
    #[arg(long)]
    record: bool,
    /// When a keyframe is asked for, go back to the newest one of the file instead of on to the next.
    #[arg(long)]
    rewind: bool,
}

/// Pings are answered so often.
const PING_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    #[error("{0}: {1}")]
    Clip(PathBuf, ClipError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("{0}")]
    Certificate(#[from] stillcast::proto::dtls::CertificateError),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load-driver: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), DriverError> {
    let stream =
        std::fs::read(&arguments.file).map_err(|error| DriverError::File(arguments.file.clone(), error))?;
    let clip = Clip::read(&stream, arguments.fps)
        .map_err(|error| DriverError::Clip(arguments.file.clone(), error))?;
    let server = arguments.server.to_socket_addrs()?.next();
    let server = server.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let (clock, stop) = (Clock::real(), StopSource::new());
    let certificate = Arc::new(Certificate::generate()?);
    let mut pages = Vec::new();
    let mut publishers = Vec::new();
    for number in 1..=arguments.streams {
        let name = format!("{}{number}", arguments.prefix);
        let settings = BrowserSettings {
            seed: u64::from(number) << 32 | u64::from(std::process::id()),
            video: true,
            audio: arguments.audio,
            certificate: certificate.clone(),
        };
        let mut browser = Browser::new(settings, clock.now());
        let mut page = Page::connect(server)?;
        page.record = arguments.record;
        let answer = page.publish(&name, &browser.offer(), arguments.audio)?;
        let address = browser.take_answer(clock.now(), &answer);
        pages.push(page);
        publishers.push(Publisher::new(browser, address, clip.clone(), arguments.rewind, arguments.audio)?);
    }
    let publishers = Publishers::start(publishers, &clock)?;
    for page in &mut pages {
        page.wait_published()?;
    }
    println!("{} streams are published", pages.len());
    let token = stop.token();
    let end = clock.now() + Duration::from_secs(arguments.seconds);
    while clock.now() < end && !token.wait(PING_INTERVAL) {
        for page in &mut pages {
            page.answer_pings()?;
        }
    }
    let states = publishers.states();
    for page in pages {
        page.close()?;
    }
    drop(publishers);
    print(&states, arguments.seconds);
    Ok(())
}

fn print(states: &[PublisherState], seconds: u64) {
    let sum = |of: fn(&PublisherState) -> u64| states.iter().map(of).sum::<u64>();
    let alive = states.iter().filter(|state| state.closed.is_none()).count();
    println!("{alive} of {} streams were alive at the end", states.len());
    for (what, of) in [
        ("pictures", (|state| state.pictures) as fn(&PublisherState) -> u64),
        ("packets", |state| state.stats.packets),
        ("packets sent again", |state| state.stats.repeated),
        ("sequence numbers in NACKs", |state| state.stats.nacks),
        ("PLIs", |state| state.stats.plis),
        ("FIRs", |state| state.stats.firs),
        ("REMBs", |state| state.stats.rembs),
        ("receiver reports", |state| state.stats.reports),
    ] {
        println!("{:>12} {what}", sum(of));
    }
    let kbits = sum(|state| state.stats.bytes) * 8 / 1000 / seconds.max(1);
    let rembs = states.iter().map(|state| state.stats.remb_bps / 1000);
    println!("{kbits:>12} kbit/s sent, all streams together");
    let lowest = rembs.clone().min().unwrap_or_default();
    println!("{lowest:>12} kbit/s lowest newest REMB, {} highest", rembs.max().unwrap_or_default());
    for closed in states.iter().filter_map(|state| state.closed) {
        println!("a stream ended: {closed}");
    }
}
