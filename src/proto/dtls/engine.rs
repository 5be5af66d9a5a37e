//! The `dtls` crate, turned by hand: a private runtime of tokio without threads or sockets, and a connection that is
//! two queues.

use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dtls::cipher_suite::CipherSuiteId;
use dtls::config::{ClientAuthType, Config};
use dtls::conn::DTLSConn;
use dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use webrtc_util::KeyingMaterialExporter as _;
use webrtc_util::conn::Conn;

use super::{Certificate, DATAGRAM_MAX_BYTES, DtlsFailure, FLIGHT_INTERVAL, Side};
use crate::proto::srtp::{Keys, MasterKey, Profile};

/// Most datagrams on the way into or out of the crate. A flight has at most four; a full queue loses datagrams, as
/// networks do.
const QUEUE_MAX: usize = 32;
/// Rounds of the scheduler in one turn. Each runs all that is ready; what that makes ready runs in the next. A
/// received flight with the answer to it takes three.
const ROUNDS: usize = 8;
/// RFC 5764 section 4.2.
const EXPORTER_LABEL: &str = "EXTRACTOR-dtls_srtp";
/// Longest wait for the crate to hand out its goodbye. It never waits for anything but its own tasks.
const GOODBYE_LIMIT: Duration = Duration::from_millis(20);

/// How far a handshake is.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing new.
    Going,
    /// Done; told once.
    Connected {
        /// What SRTP is to use.
        keys: Keys,
        /// What the other side showed, in DER.
        certificate: Option<Vec<u8>>,
    },
    /// Over: the handshake failed, or the other side closed afterwards.
    Failed(DtlsFailure),
}

/// The two queues.
#[derive(Default)]
struct Link {
    inbound: Mutex<VecDeque<Vec<u8>>>,
    arrived: Notify,
    outbound: Mutex<VecDeque<Vec<u8>>>,
}

impl Link {
    async fn next(&self, buffer: &mut [u8]) -> usize {
        loop {
            let next = self.inbound.lock().pop_front();
            if let Some(datagram) = next {
                let fitting = datagram.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..fitting), datagram.get(..fitting)) {
                    to.copy_from_slice(from);
                }
                return fitting;
            }
            self.arrived.notified().await;
        }
    }

    fn send(&self, datagram: &[u8]) {
        let mut outbound = self.outbound.lock();
        if outbound.len() < QUEUE_MAX {
            outbound.push_back(datagram.to_vec());
        }
    }
}

type ConnResult<T> = Result<T, webrtc_util::Error>;

#[async_trait]
impl Conn for Link {
    async fn connect(&self, _: SocketAddr) -> ConnResult<()> {
        Ok(())
    }
    async fn recv(&self, buffer: &mut [u8]) -> ConnResult<usize> {
        Ok(self.next(buffer).await)
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> ConnResult<(usize, SocketAddr)> {
        Ok((self.next(buffer).await, NOWHERE))
    }
    async fn send(&self, datagram: &[u8]) -> ConnResult<usize> {
        Self::send(self, datagram);
        Ok(datagram.len())
    }
    async fn send_to(&self, datagram: &[u8], _: SocketAddr) -> ConnResult<usize> {
        Self::send(self, datagram);
        Ok(datagram.len())
    }
    fn local_addr(&self) -> ConnResult<SocketAddr> {
        Ok(NOWHERE)
    }
    fn remote_addr(&self) -> Option<SocketAddr> {
        None
    }
    async fn close(&self) -> ConnResult<()> {
        Ok(())
    }
    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

/// The crate wants addresses of a connection that has none.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// A finished handshake.
struct Done {
    connection: Arc<DTLSConn>,
    keys: Keys,
    certificate: Option<Vec<u8>>,
}

pub(super) struct Engine {
    link: Arc<Link>,
    connection: Option<Arc<DTLSConn>>,
    /// What the tasks report: the end of the handshake, later the end of the association.
    report: Arc<Mutex<Option<Result<Done, DtlsFailure>>>>,
    /// The handshake, then the reader of what follows.
    task: tokio::task::JoinHandle<()>,
    /// Last, because its end drops the tasks.
    runtime: Runtime,
}

impl Engine {
    /// Begins; a client's first datagram waits after the first turn. `None` when the system refuses a runtime.
    pub(super) fn start(side: Side, certificate: &Certificate) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
        let link = Arc::new(Link::default());
        let report = Arc::new(Mutex::new(None));
        let (their_link, their_report) = (Arc::clone(&link), Arc::clone(&report));
        let config = config(side, certificate);
        let task = runtime.spawn(async move {
            let result = handshake(side, their_link, config).await;
            *their_report.lock() = Some(result);
        });
        Some(Self { link, connection: None, report, task, runtime })
    }

    /// Queues a datagram of the other side.
    pub(super) fn receive(&self, datagram: Vec<u8>) {
        let mut inbound = self.link.inbound.lock();
        if inbound.len() < QUEUE_MAX && datagram.len() <= 2 * DATAGRAM_MAX_BYTES {
            inbound.push_back(datagram);
            self.link.arrived.notify_one();
        }
    }

    /// Takes what the crate wants sent.
    pub(super) fn sent(&self) -> VecDeque<Vec<u8>> {
        std::mem::take(&mut *self.link.outbound.lock())
    }

    /// Runs all that is ready, timers that have run out included. Does not wait.
    pub(super) fn turn(&mut self) -> Progress {
        self.runtime.block_on(async {
            for _ in 0..ROUNDS {
                tokio::task::yield_now().await;
            }
        });
        let report = self.report.lock().take();
        match report {
            Some(Ok(done)) => {
                let connection = Arc::clone(&done.connection);
                let report = Arc::clone(&self.report);
                self.task = self.runtime.spawn(async move {
                    // Data was not negotiated and does not pass the sieve, so this ends when the association does.
                    let _ = connection.read(&mut [0], None).await;
                    *report.lock() = Some(Err(DtlsFailure::Handshake));
                });
                self.connection = Some(done.connection);
                Progress::Connected { keys: done.keys, certificate: done.certificate }
            }
            Some(Err(failure)) => Progress::Failed(failure),
            // A task that ended without a report has panicked.
            None if self.task.is_finished() => Progress::Failed(DtlsFailure::Handshake),
            None => Progress::Going,
        }
    }

    /// Queues `close_notify` where there is an association.
    pub(super) fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let goodbye = async { tokio::time::timeout(GOODBYE_LIMIT, connection.close()).await };
            // Nobody waits for an answer to a goodbye.
            let _ = self.runtime.block_on(goodbye);
        }
    }
}

fn config(side: Side, certificate: &Certificate) -> Config {
    Config {
        certificates: vec![certificate.inner()],
        // RFC 8827 section 6.5 demands the first; both are authenticated and keep past sessions secret.
        cipher_suites: vec![
            CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
            CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
        ],
        srtp_protection_profiles: vec![
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
        ],
        // A certificate is demanded, and its key proven by the crate. Nobody signs these certificates: what is trusted
        // is the fingerprint, which is compared when the handshake ends.
        client_auth: ClientAuthType::RequireAnyClientCert,
        insecure_skip_verify: true,
        flight_interval: FLIGHT_INTERVAL,
        server_name: if side == Side::Client { "webrtc.invalid".into() } else { String::new() },
        ..Config::default()
    }
}

async fn handshake(side: Side, link: Arc<Link>, config: Config) -> Result<Done, DtlsFailure> {
    let connection = DTLSConn::new(link, config, side == Side::Client, None).await.map_err(|error| {
        tracing::debug!("handshake failed: {error}");
        DtlsFailure::Handshake
    })?;
    let profile = match connection.selected_srtpprotection_profile() {
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => Profile::Aes128CmSha1_80,
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => Profile::AeadAes128Gcm,
        _ => return Err(DtlsFailure::Profile),
    };
    let state = connection.connection_state().await;
    let (key_bytes, salt_bytes) = (profile.key_bytes(), profile.salt_bytes());
    let material = state.export_keying_material(EXPORTER_LABEL, &[], 2 * (key_bytes + salt_bytes)).await;
    let material = material.map_err(|_| DtlsFailure::Handshake)?;
    // RFC 5764 section 4.2: client key, server key, client salt, server salt.
    let part = |from: usize, size: usize| {
        material.get(from..from + size).map(<[u8]>::to_vec).ok_or(DtlsFailure::Handshake)
    };
    let client = MasterKey { key: part(0, key_bytes)?, salt: part(2 * key_bytes, salt_bytes)? };
    let server =
        MasterKey { key: part(key_bytes, key_bytes)?, salt: part(2 * key_bytes + salt_bytes, salt_bytes)? };
    let (local, remote) = match side {
        Side::Client => (client, server),
        Side::Server => (server, client),
    };
    Ok(Done {
        connection: Arc::new(connection),
        keys: Keys { profile, local, remote },
        certificate: state.peer_certificates.into_iter().next(),
    })
}
