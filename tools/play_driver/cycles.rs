//! Players and publishers that come and go: orderly, by a connection that breaks, without ever checking connectivity, and
//! without ever shaking hands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use stillcast::base::clock::Clock;
use stillcast::base::stop::StopSource;
use stillcast::base::threads::{STACK_CODEC_BYTES, spawn};
use stillcast::proto::dtls::Certificate;

use super::{DriverError, address, clip};
use crate::support::browser::{Browser, BrowserSettings};
use crate::support::clip::Clip;
use crate::support::page::Page;
use crate::support::publishers::{Publisher, Publishers};
use crate::support::watcher::{Manner, Watcher};
use crate::support::watchers::Watchers;

/// Who comes and goes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Cycles {
    /// The server's WebSocket port, as host:port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    server: String,
    /// A stream that is published, to be played.
    #[arg(long)]
    stream: String,
    /// What the publishers publish.
    #[arg(long)]
    file: PathBuf,
    /// So many players, and as many publishers.
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// So many at a time.
    #[arg(long, default_value_t = 4)]
    at_once: u32,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// It says so, and waits for the answer.
    Stops,
    /// Its connection breaks, and its media with it.
    Breaks,
}

/// What the players do, in turn; half of them are as they should be.
const PLAYERS: [(Manner, Leave); 8] = [
    (Manner::Watches, Leave::Stops),
    (Manner::Watches, Leave::Breaks),
    (Manner::Watches, Leave::Stops),
    (Manner::NeverChecks, Leave::Stops),
    (Manner::Watches, Leave::Stops),
    (Manner::NeverChecks, Leave::Breaks),
    (Manner::Watches, Leave::Stops),
    (Manner::NeverShakesHands, Leave::Breaks),
];
/// Likewise the publishers; `false` is one that sends no media.
const PUBLISHERS: [(bool, Leave); 4] =
    [(true, Leave::Stops), (true, Leave::Breaks), (true, Leave::Stops), (false, Leave::Breaks)];
/// The first picture is there within this.
const PICTURE_LIMIT: Duration = Duration::from_secs(20);

impl Cycles {
    pub(super) fn run(&self) -> Result<(), DriverError> {
        let (clock, stop) = (Clock::real(), StopSource::new());
        let one = Arc::new(One {
            server: address(&self.server)?,
            stream: self.stream.clone(),
            clip: clip(&self.file, 30)?,
            certificate: Arc::new(Certificate::generate()?),
            clock: clock.clone(),
            stop,
        });
        let next = Arc::new(AtomicU32::new(0));
        let failure = Arc::new(Mutex::new(None));
        let began = clock.now();
        let mut threads = Vec::new();
        for number in 0..self.at_once.max(1) {
            let (one, next, failure, total) = (one.clone(), next.clone(), failure.clone(), self.cycles);
            threads.push(spawn(format!("cycles-{number}"), STACK_CODEC_BYTES, move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total || failure.lock().is_some() {
                        return;
                    }
                    if let Err(error) = one.play(number).and_then(|()| one.publish(number)) {
                        *failure.lock() = Some(format!("cycle {number}: {error}"));
                        return;
                    }
                }
            })?);
        }
        for thread in threads {
            thread.join(Duration::from_secs(3600));
        }
        if let Some(failure) = failure.lock().take() {
            return Err(DriverError::Failed(failure));
        }
        let seconds = (clock.now() - began).as_secs_f64();
        println!("{}", json!({"event": "done", "cycles": self.cycles, "seconds": seconds}));
        Ok(())
    }
}

/// What one client needs.
struct One {
    server: SocketAddr,
    stream: String,
    clip: Arc<Clip>,
    certificate: Arc<Certificate>,
    clock: Clock,
    stop: StopSource,
}

impl One {
    fn play(&self, number: u32) -> Result<(), DriverError> {
        let (manner, leave) = PLAYERS[number as usize % PLAYERS.len()];
        let mut page = Page::connect(self.server)?;
        let mut watcher = Watcher::new(u64::from(number), self.certificate.clone(), manner, 1, None)?;
        let id = format!("cycle-{number}");
        let answer = page.play(&id, &self.stream, &watcher.offer())?;
        watcher.take_answer(self.clock.now(), &answer)?;
        let watchers = Watchers::start(vec![watcher], None, &self.clock)?;
        let end = self.clock.now() + PICTURE_LIMIT;
        while manner == Manner::Watches && watchers.stats()[0].first_picture.is_none() {
            if self.clock.now() >= end {
                return Err(DriverError::Failed("no picture".into()));
            }
            let _ = self.stop.token().wait(Duration::from_millis(5));
        }
        if let Leave::Stops = leave {
            page.stop(&id)?;
            page.leave()?;
        }
        Ok(())
    }

    fn publish(&self, number: u32) -> Result<(), DriverError> {
        let (sends, leave) = PUBLISHERS[number as usize % PUBLISHERS.len()];
        let settings = BrowserSettings {
            seed: u64::from(number) << 8,
            video: true,
            audio: false,
            certificate: self.certificate.clone(),
        };
        let mut browser = Browser::new(settings, self.clock.now());
        let mut page = Page::connect(self.server)?;
        let answer = page.publish(&format!("cycle{number}"), &browser.offer(), false)?;
        let media = browser.take_answer(self.clock.now(), &answer);
        if !sends {
            return Ok(());
        }
        let publisher = Publisher::new(browser, media, self.clip.clone(), false, false)?;
        let publishers = Publishers::start(vec![publisher], &self.clock)?;
        page.wait_published()?;
        if let Leave::Stops = leave {
            page.unpublish()?;
            page.leave()?;
        }
        drop(publishers);
        Ok(())
    }
}
