//! The wiring: what is started, in which order, with which settings; and how it is stopped.
//!
//! [`App`] owns every handle. Whoever holds it can read the addresses that were opened, so that tests run on ports 0.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::conf::Config;
use crate::edge::accept::{AcceptSettings, Acceptor, Connection, ConnectionLimits, Connections};
use crate::edge::tls::{self, TlsError, TlsSettings};
use crate::hub::{GopLimits, Registry};
use crate::services::test_card::{CardError, CardSettings, DemoPublisher, DemoSettings};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder that the server writes to cannot be made.
    #[error("{key}: cannot make the folder {}", folder.display())]
    Folder {
        /// The key that names it.
        key: &'static str,
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A port cannot be opened.
    #[error("{key}: cannot listen on {address}{}", hint(source))]
    Listen {
        /// The key that names it.
        key: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The TLS ports have no certificate.
    #[error("no certificate for the TLS ports")]
    Tls(#[from] TlsError),
    /// The test card cannot be published.
    #[error("cannot publish the test card")]
    Demo(#[from] CardError),
}

/// What an operator can do about a port that cannot be opened.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program uses this port; 0 takes any free one)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege: CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (this machine does not have the address that ip_local names)",
        _ => "",
    }
}

/// An open TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Which one: `ws`, `wss`, `http`, `https`, `legacy_https`, `legacy_http`.
    pub name: &'static str,
    /// Scheme of its addresses.
    pub scheme: &'static str,
    /// What it serves, for people.
    pub serves: &'static str,
    /// Where it listens, with the port that was taken.
    pub address: SocketAddr,
}

/// How long a stop may take in all.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub struct App {
    clock: Clock,
    metrics: Metrics,
    registry: Registry,
    connections: Connections,
    doors: Vec<Door>,
    demo: Option<DemoPublisher>,
    acceptors: Vec<(&'static str, Acceptor)>,
}

impl App {
    /// Starts everything; `demo` also publishes the test card.
    ///
    /// # Errors
    /// When something that was asked for cannot be had; what was started before is stopped again.
    pub fn start(config: &Config, demo: bool) -> Result<Self, StartError> {
        std::fs::create_dir_all(&config.data_dir).map_err(|source| StartError::Folder {
            key: "data_dir",
            folder: config.data_dir.clone(),
            source,
        })?;
        let clock = Clock::real();
        let metrics = Metrics::new();
        let registry = Registry::new(
            GopLimits { units: size(config.gop_units_max), bytes: config.gop_bytes_max },
            size(config.streams_max),
        );
        let limits = ConnectionLimits {
            total: size(config.connections_max),
            per_address: size(config.connections_per_address_max),
        };
        let connections = Connections::new(limits, metrics.clone());
        let mut app = Self {
            clock,
            metrics,
            registry,
            connections,
            doors: Vec::new(),
            demo: None,
            acceptors: Vec::new(),
        };
        if demo {
            app.demo = Some(DemoPublisher::start(demo_settings(config), &app.registry, app.clock.clone())?);
        }
        Ok(app)
    }

    /// The open TCP ports.
    #[must_use]
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// Where the port of this name listens; `None` when it is closed.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.doors.iter().find(|door| door.name == name).map(|door| door.address)
    }

    /// The streams.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The clock that everything runs by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Stops everything within [`STOP_LIMIT`]; returns the names of what did not end.
    #[must_use]
    pub fn stop(mut self) -> Vec<String> {
        let deadline = self.clock.now() + STOP_LIMIT;
        let mut stuck = Vec::new();
        for (_, acceptor) in &mut self.acceptors {
            acceptor.begin_stop();
        }
        if self.demo.take().is_some_and(|demo| !demo.stop()) {
            stuck.push("test card".to_owned());
        }
        for (name, acceptor) in std::mem::take(&mut self.acceptors) {
            if !acceptor.stop(&self.clock, left(&self.clock, deadline)) {
                stuck.push(format!("connections of {name}"));
            }
        }
        stuck
    }
}

fn left(clock: &Clock, deadline: Instant) -> Duration {
    deadline.saturating_duration_since(clock.now())
}

/// A number from the configuration as a size; the table of keys keeps it far below the bound.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn demo_settings(config: &Config) -> DemoSettings {
    let (width, height) = config.demo_size;
    let card = CardSettings {
        frames_per_second: u32::try_from(config.demo_fps).unwrap_or(30),
        keyframe_interval: u32::try_from(config.demo_keyframe_interval).unwrap_or(60),
        ..CardSettings::sized(width, height)
    };
    DemoSettings { card, ..DemoSettings::standard() }
}
