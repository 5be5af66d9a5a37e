//! Everything under one address: pages, statistics, metrics and health here, REST and pictures in [`super::rest`].
//!
//! The demo pages lie in `pages/`, are part of the binary, and are served under both prefixes that manuals print.

mod files;
mod statistics;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rouille::{Request, Response};

use self::files::Files;
use self::statistics::Statistics;
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::threads;
use crate::edge::http::{Handler, RequestError};
use crate::edge::ports::MediaPorts;
use crate::edge::rest::error::ApiError;
use crate::edge::rest::{Rest, path_of};
use crate::edge::whip::Whip;
use crate::hub::{Registry, SourceProtocol};

/// Where the demo page is.
pub const DEMO_PAGE: &str = "/client2/examples/demo/streaming/stream-snapshot/stream-snapshot.html";

/// What the server's bare address leads to: all live streams, and the way to the other pages.
pub const START_PAGE: &str = "/client2/examples/demo/streaming/streams/streams.html";

/// The web client's prefixes, the same below both.
const PREFIXES: [&str; 2] = ["/client2/", "/client/"];

/// What pages are served.
#[derive(Clone, Debug)]
pub struct WebSettings {
    /// A folder whose files stand over the embedded pages, `None`: the embedded pages alone (`web_dir`).
    pub web_dir: Option<PathBuf>,
}

/// Answers every request to the HTTP ports.
#[derive(Debug)]
pub struct Site {
    rest: Rest,
    whip: Option<Arc<Whip>>,
    files: Files,
    records: Option<Files>,
    statistics: Statistics,
    registry: Registry,
    metrics: Metrics,
    open_ports: OnceLock<BTreeMap<&'static str, u16>>,
}

impl Site {
    /// The site over these parts; `ports` are only counted.
    #[must_use]
    pub fn new(
        settings: WebSettings,
        rest: Rest,
        registry: Registry,
        metrics: Metrics,
        ports: MediaPorts,
        clock: Clock,
    ) -> Self {
        let statistics = Statistics::new(registry.clone(), metrics.clone(), ports, clock);
        let files = Files::new(settings.web_dir);
        Self {
            rest,
            whip: None,
            files,
            records: None,
            statistics,
            registry,
            metrics,
            open_ports: OnceLock::new(),
        }
    }

    /// Opens the door for publishing by WHIP as well.
    #[must_use]
    pub fn with_whip(mut self, whip: Arc<Whip>) -> Self {
        self.whip = Some(whip);
        self
    }

    /// Serves complete recordings, and those that are being written, from this folder.
    #[must_use]
    pub fn with_records(mut self, folder: PathBuf) -> Self {
        self.records = Some(Files::records(folder));
        self
    }

    /// Tells pages which TCP ports the server has open, by name (`ws`, `wss`, `http` …). Once, when all are open.
    pub fn announce_ports(&self, ports: impl IntoIterator<Item = (&'static str, u16)>) {
        // A second announcement could only say the same.
        let _ = self.open_ports.set(ports.into_iter().collect());
    }

    /// `/health`: for load balancers, people, and pages that look for the signalling port; open to everybody, as it tells
    /// nothing about streams but their number.
    fn health(&self) -> Response {
        let mut body = serde_json::json!({
            "status": "ok",
            "version": env!("CARGO_PKG_VERSION"),
            "streams": self.registry.len(),
        });
        if let (Some(ports), Some(body)) = (self.open_ports.get(), body.as_object_mut()) {
            body.insert("ports".to_owned(), serde_json::json!(ports));
        }
        Response::json(&body).with_additional_header("Cache-Control", "no-store")
    }

    fn metrics(&self) -> Response {
        let streams = self.registry.list();
        let cached: usize = streams.iter().map(|stream| stream.facts().gop_bytes).sum();
        self.metrics.streams.set(i64::try_from(streams.len()).unwrap_or(i64::MAX));
        for protocol in SourceProtocol::ALL {
            let number = streams.iter().filter(|stream| stream.publication().protocol == protocol).count();
            let gauge = self.metrics.streams_by_protocol.with_label_values(&[protocol.label()]);
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        self.metrics.gop_bytes.set(i64::try_from(cached).unwrap_or(i64::MAX));
        self.metrics.panics.set(i64::try_from(threads::panics()).unwrap_or(i64::MAX));
        Response::from_data("text/plain; version=0.0.4; charset=utf-8", self.metrics.render())
    }

    /// Pages and what stands beside them; `None` when there is nothing at this path.
    fn page(&self, request: &Request, path: &str) -> Option<Response> {
        let to_start = || Response::redirect_302(START_PAGE);
        if matches!(path, "/" | "/client" | "/client2") {
            return Some(to_start());
        }
        let rest = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))?;
        if rest.is_empty() {
            return Some(to_start());
        }
        match files::record_name(rest) {
            Some(name) => self.records.as_ref()?.get_record(request, name),
            None => self.files.get(request, rest),
        }
    }
}

impl Handler for Site {
    fn handle(&self, request: &Request) -> Response {
        let path = path_of(request);
        if let Some(whip) = self.whip.as_ref().filter(|_| Whip::serves(path)) {
            return whip.handle(request);
        }
        if Rest::serves(path) {
            return self.rest.handle(request);
        }
        let is_statistics = path == "/" && request.get_param("action").as_deref() == Some("stat");
        if is_statistics || path == "/metrics" {
            return self.rest.guarded(request, |_| match request.method() {
                "GET" | "HEAD" if is_statistics => Ok(self.statistics.respond(request)),
                "GET" | "HEAD" => Ok(self.metrics()),
                _ => Err(ApiError::method_not_allowed("GET, HEAD, OPTIONS")),
            });
        }
        if !matches!(request.method(), "GET" | "HEAD") {
            return self.rest.fail(ApiError::method_not_allowed("GET, HEAD"), path);
        }
        let response = match path {
            "/health" => Some(self.health()),
            _ => self.page(request, path),
        };
        response.unwrap_or_else(|| self.rest.fail(ApiError::not_found("Not found"), path))
    }

    fn refuse(&self, error: RequestError, path: &str) -> Response {
        self.rest.refuse(error, path)
    }
}
