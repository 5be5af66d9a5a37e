//! Plays one WebRTC stream to many viewers, cheaply, of a running server of ours or of the streaming plug-in of Janus with the
//! same client code, and tells what they got; or lets clients come and go a thousand times.
//!
//! ```text
//! cargo run --release --example play-driver -- watch --publish clip.h264 --viewers 50 --seconds 20
//! cargo run --release --example play-driver -- watch --janus 127.0.0.1:8188 --feed 127.0.0.1:5004 --publish clip.h264
//! cargo run --release --example play-driver -- cycles --stream cam --file clip.h264 --cycles 1000
//! ```
//!
//! What it prints is for `tools/bench-play`: one JSON object a line.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::json;
use stillcast::base::clock::Clock;
use stillcast::base::stop::StopSource;
use stillcast::proto::dtls::Certificate;

use cycles::Cycles;
use feed::Feed;
use janus::Janus;
use support::browser::{Browser, BrowserSettings};
use support::clip::Clip;
use support::page::{Page, PageError};
use support::publishers::{Publisher, Publishers};
use support::watcher::{Departures, Manner, Travel, Watcher, WatcherStats};
use support::watchers::Watchers;

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
    pub mod watchers;
}

#[path = "play_driver/cycles.rs"]
mod cycles;
#[path = "play_driver/feed.rs"]
mod feed;
#[path = "play_driver/janus.rs"]
mod janus;

/// Plays WebRTC streams.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Many viewers of one stream; says `playing` when all have a picture, and counts from then on.
    Watch(Watch),
    /// Players and publishers that come and go, some of them rudely.
    Cycles(Cycles),
}

/// Where the viewers go, and what they see.
#[derive(Debug, clap::Args)]
struct Watch {
    /// The server's WebSocket port, as host:port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    server: String,
    /// Janus's WebSocket port instead.
    #[arg(long)]
    janus: Option<String>,
    /// Janus's mountpoint.
    #[arg(long, default_value_t = 1)]
    mountpoint: u64,
    /// Publish this H.264 byte stream (Annex B, without B pictures), looped: by WebRTC, or by RTP to `--feed`.
    #[arg(long)]
    publish: Option<PathBuf>,
    /// Where Janus takes the RTP of the mountpoint's video.
    #[arg(long, default_value = "127.0.0.1:5004")]
    feed: String,
    /// Pictures a second.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// The stream to publish and to watch.
    #[arg(long, default_value = "play")]
    stream: String,
    /// How many viewers.
    #[arg(long, default_value_t = 1)]
    viewers: u32,
    /// For so long, from the moment that all of them have a picture.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Of so many packets one is checked and decrypted.
    #[arg(long, default_value_t = 64)]
    check_every: u64,
    /// Sockets are looked at so often; 0 looks at each datagram at once.
    #[arg(long, default_value_t = 5)]
    pause_ms: u64,
    /// Measure how long each picture was on its way; wants `--publish`.
    #[arg(long)]
    latency: bool,
}

/// Pings are answered so often.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// All viewers have a picture after so long, or it failed.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error("{0}: {1}")]
    File(PathBuf, String),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Janus(#[from] janus::JanusError),
    #[error("{0}")]
    Certificate(#[from] stillcast::proto::dtls::CertificateError),
    #[error("{0}")]
    Failed(String),
}

fn main() -> ExitCode {
    let done = match &Arguments::parse().what {
        What::Watch(watch) => watch.run(),
        What::Cycles(cycles) => cycles.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("play-driver: {error}");
            ExitCode::FAILURE
        }
    }
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.to_socket_addrs()?.next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn clip(file: &Path, fps: u32) -> Result<Arc<Clip>, DriverError> {
    let failed = |error: &dyn std::fmt::Display| DriverError::File(file.to_owned(), error.to_string());
    let stream = std::fs::read(file).map_err(|error| failed(&error))?;
    Clip::read(&stream, fps).map_err(|error| failed(&error))
}

/// A page that publishes, with the browser behind it.
struct Published {
    page: Page,
    publishers: Publishers,
}

impl Published {
    fn start(
        server: SocketAddr,
        name: &str,
        clip: Arc<Clip>,
        departures: Option<Arc<Departures>>,
        clock: &Clock,
    ) -> Result<Self, DriverError> {
        let settings = BrowserSettings {
            seed: rand::random(),
            video: true,
            audio: false,
            certificate: Arc::new(Certificate::generate()?),
        };
        let mut browser = Browser::new(settings, clock.now());
        let mut page = Page::connect(server)?;
        let answer = page.publish(name, &browser.offer(), false)?;
        let media = browser.take_answer(clock.now(), &answer);
        let mut publisher = Publisher::new(browser, media, clip, false, false)?;
        if let Some(departures) = departures {
            publisher.note_departures(departures);
        }
        let publishers = Publishers::start(vec![publisher], clock)?;
        page.wait_published()?;
        Ok(Self { page, publishers })
    }
}

/// Whoever has to be answered while viewers watch.
struct Signalling {
    pages: Vec<Page>,
    janus: Option<Janus>,
    published: Option<Published>,
    fed: Option<Feed>,
}

impl Signalling {
    fn tend(&mut self, clock: &Clock) -> Result<(), DriverError> {
        for page in self.pages.iter_mut().chain(self.published.as_mut().map(|published| &mut published.page))
        {
            page.answer_pings()?;
        }
        if let Some(janus) = &mut self.janus {
            janus.keep_alive(clock.now())?;
        }
        Ok(())
    }
}

impl Watch {
    fn run(&self) -> Result<(), DriverError> {
        let (clock, stop) = (Clock::real(), StopSource::new());
        let token = stop.token();
        let departures = self.latency.then(|| Arc::new(Departures::default()));
        let mut signalling = self.publish(departures.clone(), &clock)?;
        let certificate = Arc::new(Certificate::generate()?);
        let mut watchers = Vec::new();
        for number in 0..self.viewers {
            let seed = u64::from(number) << 32 | u64::from(std::process::id());
            let certificate = certificate.clone();
            let mut watcher =
                Watcher::new(seed, certificate, Manner::Watches, self.check_every, departures.clone())?;
            if let Some(janus) = &mut signalling.janus {
                let (handle, offer) = janus.watch(self.mountpoint)?;
                let answer = watcher.answer(clock.now(), &offer)?;
                janus.start(handle, &answer)?;
            } else {
                // Each viewer is a page of its own, as viewers are.
                let mut page = Page::connect(address(&self.server)?)?;
                let answer = page.play(&format!("v{number}"), &self.stream, &watcher.offer())?;
                watcher.take_answer(clock.now(), &answer)?;
                signalling.pages.push(page);
            }
            watchers.push(watcher);
        }
        let pause = (self.pause_ms > 0).then(|| Duration::from_millis(self.pause_ms));
        let watchers = Watchers::start(watchers, pause, &clock)?;
        let limit = clock.now() + START_LIMIT;
        while watchers.stats().iter().any(|stats| stats.first_picture.is_none()) {
            if clock.now() >= limit {
                let late = watchers.stats().iter().filter(|stats| stats.first_picture.is_none()).count();
                return Err(DriverError::Failed(format!("{late} viewers have no picture")));
            }
            signalling.tend(&clock)?;
            let _ = token.wait(Duration::from_millis(50));
        }
        println!("{}", json!({"event": "playing", "viewers": self.viewers}));
        let before = watchers.stats();
        departures.as_ref().map(|departures| departures.take());
        let began = clock.now();
        let end = began + Duration::from_secs(self.seconds);
        while clock.now() < end && !token.wait(PING_INTERVAL) {
            signalling.tend(&clock)?;
        }
        let after = watchers.stats();
        let seconds = (clock.now() - began).as_secs_f64();
        let travels = departures.map(|departures| departures.take()).unwrap_or_default();
        let signalling_left = signalling;
        watchers.close();
        for page in signalling_left.pages {
            page.leave()?;
        }
        if let Some(Published { page, publishers }) = signalling_left.published {
            page.close()?;
            drop(publishers);
        }
        drop(signalling_left.fed);
        report(&before, &after, seconds, &travels)
    }

    fn publish(&self, departures: Option<Arc<Departures>>, clock: &Clock) -> Result<Signalling, DriverError> {
        let janus = match &self.janus {
            Some(janus) => Some(Janus::connect(address(janus)?, clock.now())?),
            None => None,
        };
        let mut signalling = Signalling { pages: Vec::new(), janus, published: None, fed: None };
        if let Some(file) = &self.publish {
            let clip = clip(file, self.fps)?;
            if signalling.janus.is_some() {
                signalling.fed = Some(Feed::start(address(&self.feed)?, clip, departures, clock)?);
            } else {
                let server = address(&self.server)?;
                signalling.published = Some(Published::start(server, &self.stream, clip, departures, clock)?);
            }
        }
        Ok(signalling)
    }
}

/// Prints what came in between, of all viewers together and of the one who got least.
fn report(
    before: &[WatcherStats],
    after: &[WatcherStats],
    seconds: f64,
    travels: &[Travel],
) -> Result<(), DriverError> {
    let sum = |of: fn(&WatcherStats) -> u64| {
        let all = |stats: &[WatcherStats]| stats.iter().map(of).sum::<u64>();
        all(after) - all(before)
    };
    let pictures = before.iter().zip(after).map(|(before, after)| after.pictures - before.pictures);
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let of = |of: fn(&Travel) -> Duration| travels.iter().map(|travel| ms(of(travel))).collect::<Vec<_>>();
    println!(
        "{}",
        json!({
            "event": "done", "seconds": seconds, "viewers": after.len(),
            "packets": sum(|stats| stats.packets), "bytes": sum(|stats| stats.bytes),
            "pictures": sum(|stats| stats.pictures), "pictures_least": pictures.min(),
            "missed": sum(|stats| stats.missed), "lost": sum(|stats| stats.lost),
            "checked": sum(|stats| stats.checked), "forged": sum(|stats| stats.forged),
            "closed": after.iter().filter(|stats| stats.is_closed).count(),
            "since_sent_ms": of(|travel| travel.since_sent),
            "since_captured_ms": of(|travel| travel.since_captured),
        })
    );
    match sum(|stats| stats.forged) {
        0 => Ok(()),
        forged => Err(DriverError::Failed(format!("{forged} packets were not authentic"))),
    }
}
