//! The wiring: what is started, in which order, with which settings; and how it is stopped.
//!
//! [`App`] owns every handle. Whoever holds it can read the addresses that were opened, so that tests run on ports 0.

mod settings;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::threads::STACK_PROTOCOL_BYTES;
use crate::conf::Config;
use crate::edge::accept::{AcceptSettings, Acceptor, Connections};
use crate::edge::http::HttpServer;
use crate::edge::ports::MediaPorts;
use crate::edge::pull::{Pulls, PullsError};
use crate::edge::rest::Rest;
use crate::edge::rtc::RtcService;
use crate::edge::rtmp::RtmpService;
use crate::edge::rtsp::RtspService;
use crate::edge::tls::{self, ServerConfig, TlsError, Transport};
use crate::edge::web::Site;
use crate::edge::whip::Whip;
use crate::edge::ws::{self, WsService};
use crate::hub::Registry;
use crate::proto::dtls::{Certificate, CertificateError};
use crate::services::auto::AutoSnapshots;
use crate::services::record::RecordService;
use crate::services::snapshot::{SnapshotService, Snapshots};
use crate::services::test_card::{CardError, DemoPublisher};
use crate::services::transcode::Renditions;
use crate::services::vod::{FilePictureService, Vods};

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
    /// The system refuses threads or file descriptors.
    #[error("cannot start {what}")]
    Service {
        /// What needs them.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Media has no certificate.
    #[error("no certificate for media")]
    Certificate(#[from] CertificateError),
    /// Sources cannot be pulled as the configuration says.
    #[error("sources cannot be pulled")]
    Pulls(#[from] PullsError),
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
    /// Which one: `ws`, `wss`, `http`, `https`, `legacy_https`, `legacy_http`, `rtmp`, `rtmps`, `rtsp`.
    pub name: &'static str,
    /// Scheme of its addresses.
    pub scheme: &'static str,
    /// What it serves, for people.
    pub serves: &'static str,
    /// Where it listens, with the port that was taken.
    pub address: SocketAddr,
}

/// What is spoken on a TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// The WebSocket of pages.
    Signalling,
    /// HTTP: pages, pictures, REST.
    Pages,
    Rtmp,
    Rtsp,
}

/// A TCP port that the configuration knows.
struct Plan {
    name: &'static str,
    key: &'static str,
    port: Option<u16>,
    is_secure: bool,
    spoken: Spoken,
    serves: &'static str,
}

impl Plan {
    fn scheme(&self) -> &'static str {
        match (self.spoken, self.is_secure) {
            (Spoken::Signalling, false) => "ws",
            (Spoken::Signalling, true) => "wss",
            (Spoken::Pages, false) => "http",
            (Spoken::Pages, true) => "https",
            (Spoken::Rtmp, false) => "rtmp",
            (Spoken::Rtmp, true) => "rtmps",
            (Spoken::Rtsp, _) => "rtsp",
        }
    }
}

/// All of them, in the order of the banner.
fn plans(config: &Config) -> Vec<Plan> {
    let plan =
        |name, key, port, is_secure, spoken, serves| Plan { name, key, port, is_secure, spoken, serves };
    let (pages, tls_pages) = ("pages, pictures, REST", "the same over TLS");
    vec![
        plan("ws", "ws.port", config.ws_port, false, Spoken::Signalling, "signalling"),
        plan("wss", "wss.port", config.wss_port, true, Spoken::Signalling, "signalling over TLS"),
        plan("http", "http.port", config.http_port, false, Spoken::Pages, pages),
        plan("https", "https.port", config.https_port, true, Spoken::Pages, tls_pages),
        plan("legacy_https", "legacy_https.port", config.legacy_https_port, true, Spoken::Pages, tls_pages),
        plan("legacy_http", "legacy_http.port", config.legacy_http_port, false, Spoken::Pages, pages),
        plan("rtmp", "rtmp.port", config.rtmp_port, false, Spoken::Rtmp, "encoders and players"),
        plan("rtmps", "rtmps.port", config.rtmps_port, true, Spoken::Rtmp, "the same over TLS"),
        plan("rtsp", "rtsp.port", config.rtsp_port, false, Spoken::Rtsp, "encoders and players"),
    ]
}

/// How long a stop may take in all.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How much of it the signalling connections and their publications may take.
const CONNECTIONS_STOP_LIMIT: Duration = Duration::from_millis(2500);
/// How much of it each thread of the snapshots may take.
const SNAPSHOTS_STOP_LIMIT: Duration = Duration::from_secs(1);

/// A running server.
#[derive(Debug)]
pub struct App {
    clock: Clock,
    metrics: Metrics,
    registry: Registry,
    connections: Connections,
    snapshots: SnapshotService,
    auto: Option<AutoSnapshots>,
    recordings: Option<RecordService>,
    demo: Option<DemoPublisher>,
    whip: Option<Arc<Whip>>,
    pulls: Option<Pulls>,
    vods: Option<Vods>,
    file_pictures: Option<FilePictureService>,
    rtc: Option<RtcService>,
    doors: Vec<Door>,
    /// What is spoken, the name, the port.
    acceptors: Vec<(Spoken, &'static str, Acceptor)>,
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
        let registry = settings::registry(config);
        let failed = |what| move |source| StartError::Service { what, source };
        let snapshots = SnapshotService::start(
            settings::snapshots(config),
            registry.clone(),
            clock.clone(),
            metrics.clone(),
        )
        .map_err(failed("snapshots"))?;
        let mut app = Self {
            connections: Connections::new(settings::connections(config), metrics.clone()),
            clock,
            metrics,
            registry,
            snapshots,
            auto: None,
            recordings: None,
            demo: None,
            whip: None,
            pulls: None,
            vods: None,
            file_pictures: None,
            rtc: None,
            doors: Vec::new(),
            acceptors: Vec::new(),
        };
        if let Some(auto) = settings::automatic_snapshots(config) {
            let auto = AutoSnapshots::start(auto, &app.registry, app.clock.clone(), app.metrics.clone());
            app.auto = Some(auto.map_err(failed("automatic snapshots"))?);
        }
        let recordings = RecordService::start(
            settings::recordings(config),
            &app.registry,
            app.clock.clone(),
            app.metrics.clone(),
        );
        app.recordings = Some(recordings.map_err(failed("recordings"))?);
        if demo {
            app.demo = Some(DemoPublisher::start(settings::demo(config), &app.registry, app.clock.clone())?);
        }
        app.open_doors(config)?;
        Ok(app)
    }

    /// Opens every port that has a number.
    fn open_doors(&mut self, config: &Config) -> Result<(), StartError> {
        let wanted = plans(config);
        let tls = if wanted.iter().any(|plan| plan.port.is_some() && plan.is_secure) {
            Some(tls::server_config(&settings::tls(config), self.clock.wall())?)
        } else {
            None
        };
        let media_ports = MediaPorts::new(settings::media_ports(config));
        let renditions = Renditions::new(
            settings::transcoding(config),
            self.registry.clone(),
            self.metrics.clone(),
            self.clock.clone(),
        );
        let rtc = RtcService::new(
            settings::rtc(config),
            media_ports.clone(),
            Arc::new(Certificate::generate()?),
            self.registry.clone(),
            renditions,
            self.metrics.clone(),
            self.clock.clone(),
        );
        let pulls = Pulls::new(
            settings::pulls(config),
            media_ports.clone(),
            self.registry.clone(),
            self.metrics.clone(),
            self.clock.clone(),
        )?;
        self.pulls = Some(pulls.clone());
        let vods = Vods::new(settings::vods(config), self.registry.clone(), self.clock.clone());
        self.vods = Some(vods.clone());
        let file_pictures = FilePictureService::start(
            settings::file_pictures(config),
            self.clock.clone(),
            self.metrics.clone(),
        )
        .map_err(|source| StartError::Service { what: "pictures of files", source })?;
        let pictures_of_files = file_pictures.handle();
        self.file_pictures = Some(file_pictures);
        let rtsp = RtspService::new(
            settings::rtsp(config),
            media_ports.clone(),
            self.registry.clone(),
            self.metrics.clone(),
            self.clock.clone(),
        );
        self.rtc = Some(rtc.clone());
        let ws = WsService::new(
            settings::ws(config),
            self.registry.clone(),
            ws::take_from(self.snapshots.handle()),
            rtc.clone(),
            self.metrics.clone(),
            self.clock.clone(),
        )
        .with_pulls(pulls.clone())
        .with_vods(vods.clone());
        let recordings = self.recordings.as_ref().map(RecordService::handle);
        let ws = match &recordings {
            Some(recordings) => ws.with_recordings(recordings.clone()),
            None => ws,
        };
        let whip = Arc::new(Whip::new(settings::whip(config), rtc, self.metrics.clone(), self.clock.clone()));
        self.whip = Some(whip.clone());
        let mut rest = Rest::new(
            settings::rest(config),
            self.registry.clone(),
            self.snapshots.handle(),
            self.metrics.clone(),
            self.clock.clone(),
        )
        .with_pulls(pulls)
        .with_vods(vods)
        .with_file_pictures(pictures_of_files)
        .with_connections(ws.connected());
        if let Some(recordings) = &recordings {
            rest = rest.with_recordings(recordings.clone());
        }
        let mut site = Site::new(
            settings::web(config),
            rest,
            self.registry.clone(),
            self.metrics.clone(),
            media_ports,
            self.clock.clone(),
        )
        .with_whip(whip);
        if let Some(recordings) = recordings {
            site = site.with_records(recordings.dir().to_owned());
        }
        let site = Arc::new(site);
        let http = HttpServer::new(
            settings::http(config),
            Arc::clone(&site) as _,
            self.metrics.clone(),
            self.clock.clone(),
        );
        let rtmp = RtmpService::new(
            settings::rtmp(config),
            self.registry.clone(),
            self.metrics.clone(),
            self.clock.clone(),
        );
        for plan in wanted {
            let Some(port) = plan.port else { continue };
            let address = SocketAddr::new(config.ip_local, port);
            let tls = tls.clone().filter(|_| plan.is_secure);
            let acceptor = match plan.spoken {
                Spoken::Signalling => ws.listen(plan.name, address, tls, self.connections.clone()),
                Spoken::Pages => self.listen_http(plan.name, address, tls, http.clone()),
                Spoken::Rtmp => rtmp.listen(plan.name, address, tls, self.connections.clone()),
                Spoken::Rtsp => rtsp.listen(plan.name, address, self.connections.clone()),
            };
            let acceptor =
                acceptor.map_err(|source| StartError::Listen { key: plan.key, address, source })?;
            self.doors.push(Door {
                name: plan.name,
                scheme: plan.scheme(),
                serves: plan.serves,
                address: acceptor.address(),
            });
            self.acceptors.push((plan.spoken, plan.name, acceptor));
        }
        site.announce_ports(self.doors.iter().map(|door| (door.name, door.address.port())));
        Ok(())
    }

    fn listen_http(
        &self,
        name: &'static str,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        http: HttpServer,
    ) -> io::Result<Acceptor> {
        let settings = AcceptSettings { name, address, stack_bytes: STACK_PROTOCOL_BYTES };
        let (connections, metrics) = (self.connections.clone(), self.metrics.clone());
        Acceptor::start(settings, connections, metrics, self.clock.clone(), move |connection| {
            match Transport::new(connection.stream, tls.as_ref()) {
                Ok(transport) => http.serve(transport, connection.peer, connection.stop),
                Err(error) => tracing::warn!("{}: cannot serve: {error}", connection.peer),
            }
        })
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

    /// Pictures on request.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.handle()
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
        let clock = self.clock.clone();
        let left = || deadline.saturating_duration_since(clock.now());
        let mut stuck = Vec::new();
        let mut note = |ended: bool, what: &str| {
            if !ended {
                stuck.push(what.to_owned());
            }
        };
        let (mut http, mut media): (Vec<_>, Vec<_>) = std::mem::take(&mut self.acceptors)
            .into_iter()
            .partition(|(spoken, ..)| *spoken == Spoken::Pages);
        // Each connection tells its client and ends its publications. All at once, so that their times do not add up.
        media.iter_mut().for_each(|(_, _, acceptor)| acceptor.begin_stop());
        for (_, name, acceptor) in media {
            note(acceptor.stop(&clock, left().min(CONNECTIONS_STOP_LIMIT)), name);
        }
        if let Some(whip) = self.whip.take() {
            note(whip.stop(left().min(CONNECTIONS_STOP_LIMIT)), "whip");
        }
        if let Some(rtc) = self.rtc.take() {
            note(rtc.stop(left().min(SNAPSHOTS_STOP_LIMIT)), "sound for viewers");
        }
        if let Some(pulls) = self.pulls.take() {
            note(pulls.stop(left().min(CONNECTIONS_STOP_LIMIT)), "pulled sources");
        }
        if let Some(vods) = self.vods.take() {
            note(vods.stop(left().min(CONNECTIONS_STOP_LIMIT)), "files on demand");
        }
        if let Some(demo) = self.demo.take() {
            note(demo.stop(), "test card");
        }
        if let Some(auto) = self.auto.take() {
            note(auto.stop(), "automatic snapshots");
        }
        if let Some(recordings) = self.recordings.take() {
            note(recordings.stop(), "recordings");
        }
        note(self.snapshots.stop(left().min(SNAPSHOTS_STOP_LIMIT)), "snapshots");
        if let Some(pictures) = self.file_pictures.take() {
            note(pictures.stop(left().min(SNAPSHOTS_STOP_LIMIT)), "pictures of files");
        }
        // Last, so that whoever waits for a picture hears why there is none.
        http.iter_mut().for_each(|(_, _, acceptor)| acceptor.begin_stop());
        for (_, name, acceptor) in http {
            note(acceptor.stop(&clock, left()), name);
        }
        stuck
    }
}
