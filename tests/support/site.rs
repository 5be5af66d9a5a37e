//! The HTTP side of the server alone, over a hub that the test fills by hand: what is published, frame by frame, is the test's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::base::metrics::Metrics;
use stillcast::base::threads;
use stillcast::edge::accept::{AcceptSettings, Acceptor, ConnectionLimits, Connections};
use stillcast::edge::http::{HttpServer, HttpSettings};
use stillcast::edge::ports::{MediaPorts, PortSettings};
use stillcast::edge::rest::access::{CorsSettings, Credentials};
use stillcast::edge::rest::{Rest, RestSettings};
use stillcast::edge::tls::Transport;
use stillcast::edge::web::{Site, WebSettings};
use stillcast::hub::{Bell, GopLimits, Publication, Publisher, Registry, SourceProtocol};
use stillcast::services::snapshot::{SnapshotService, SnapshotSettings};
use stillcast::services::test_card::{CardEncoder, CardSettings, push_cards, read_number};

use super::rest::LIMIT;

/// What a test wants different.
pub struct Options {
    /// Patience and bounds of connections.
    pub http: HttpSettings,
    /// Snapshots.
    pub snapshots: SnapshotSettings,
    /// User and password; `None`: open.
    pub credentials: Option<Credentials>,
    /// Folder over the embedded pages.
    pub web_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            http: HttpSettings::usual(),
            snapshots: SnapshotSettings {
                limit: Duration::from_secs(10),
                attempts: 30,
                watch: Duration::ZERO,
                watched_max: 0,
                decoders: 1,
                encoders: 1,
                queue_max: 32,
                keyframe_units: 1000,
                pixels_max: 8192 * 4352,
            },
            credentials: None,
            web_dir: None,
        }
    }
}

/// A running server.
pub struct TestSite {
    acceptor: Option<Acceptor>,
    snapshots: Option<SnapshotService>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its streams.
    pub registry: Registry,
    /// Its clock.
    pub clock: Clock,
    /// Its counts.
    pub metrics: Metrics,
}

impl TestSite {
    /// Starts a server as the options say.
    pub fn start(options: Options) -> Self {
        let (clock, metrics) = (Clock::real(), Metrics::new());
        let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 26 }, 100);
        let service =
            SnapshotService::start(options.snapshots, registry.clone(), clock.clone(), metrics.clone())
                .unwrap();
        let settings = RestSettings {
            cors: CorsSettings {
                allow_origin: "*".into(),
                allow_headers: "content-type,x-requested-with".into(),
                allow_methods: "POST".into(),
            },
            credentials: options.credentials,
            node_id: "n".repeat(32) + "@192.0.2.1",
        };
        let rest = Rest::new(settings, registry.clone(), service.handle(), metrics.clone(), clock.clone());
        let ports = MediaPorts::new(PortSettings {
            address: "127.0.0.1".parse().unwrap(),
            from: 40_000,
            to: 40_099,
            receive_buffer_bytes: 65_536,
            send_buffer_bytes: 65_536,
        });
        let web = WebSettings { web_dir: options.web_dir };
        let site = Site::new(web, rest, registry.clone(), metrics.clone(), ports, clock.clone());
        let http = HttpServer::new(options.http, Arc::new(site), metrics.clone(), clock.clone());
        let limits = ConnectionLimits { total: 200, per_address: 200 };
        let acceptor = Acceptor::start(
            AcceptSettings {
                name: "http",
                address: "127.0.0.1:0".parse().unwrap(),
                stack_bytes: threads::STACK_PROTOCOL_BYTES,
            },
            Connections::new(limits, metrics.clone()),
            metrics.clone(),
            clock.clone(),
            move |connection| {
                http.serve(Transport::plain(connection.stream), connection.peer, connection.stop);
            },
        )
        .unwrap();
        let address = acceptor.address();
        Self { acceptor: Some(acceptor), snapshots: Some(service), address, registry, clock, metrics }
    }

    /// Publishes an empty stream.
    pub fn publish(
        &self,
        name: &str,
        change: impl FnOnce(&mut Publication),
        bell: Option<Bell>,
    ) -> Publisher {
        // The addresses of sources are theirs alone.
        let protocol = if name.contains("://") { SourceProtocol::RtspPull } else { SourceProtocol::WebRtc };
        let mut publication = Publication {
            session_id: "/198.51.100.4:52110/203.0.113.7:8443".into(),
            sdp: "v=0\r\na=ice-ufrag:abcd\r\na=ice-pwd:secret\r\na=mid:0\r\n".into(),
            bitrates_kbps: [0, 100, 2000],
            cvo_extension: true,
            ..Publication::new(
                StreamName::new(name).unwrap(),
                MediaSessionId::new(&format!("session of {name}")).unwrap(),
                protocol,
                self.clock.wall(),
            )
        };
        change(&mut publication);
        let publisher = self.registry.publish(publication, bell).unwrap();
        publisher.set_publishing();
        publisher
    }

    /// Publishes cards 0 to `newest` of this size; only the first is a keyframe.
    pub fn publish_cards(&self, name: &str, size: (u32, u32), newest: u32) -> (Publisher, CardEncoder) {
        let publisher = self.publish(name, |_| {}, None);
        let settings = CardSettings { keyframe_interval: u32::MAX, ..CardSettings::sized(size.0, size.1) };
        let mut encoder = CardEncoder::new(settings).unwrap();
        push_cards(&publisher, &mut encoder, 0..newest + 1, &self.clock).unwrap();
        (publisher, encoder)
    }

    /// Stops the server as the application does: no new requests, then snapshots, then what is under way.
    pub fn stop(&mut self) -> bool {
        let mut acceptor = self.acceptor.take().unwrap();
        acceptor.begin_stop();
        let ended = self.snapshots.take().unwrap().stop(LIMIT);
        acceptor.stop(&self.clock, LIMIT) && ended
    }
}

impl Drop for TestSite {
    fn drop(&mut self) {
        if self.acceptor.is_some() && !std::thread::panicking() {
            assert!(self.stop(), "did not stop");
        }
    }
}

/// Width, height and the number of the card that a PNG shows.
pub fn read_png(png: &[u8]) -> (u32, u32, Option<u32>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    rgb.truncate(info.buffer_size());
    (info.width, info.height, read_number(&rgb, info.width, info.height))
}
