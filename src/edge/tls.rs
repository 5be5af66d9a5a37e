//! TLS for every port that wants it: the server's certificate, and a transport that is plain or TLS.
//!
//! The transport has two manners: non-blocking, for threads that sleep in a [`Waiter`](crate::base::wait::Waiter); and [`Timed`], for exchanges
//! that have one deadline as a whole (handshakes, request and response), so that a client that sends a byte a
//! second gains nothing by it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
pub use rustls::{ClientConfig, ServerConfig};
use sha2::{Digest as _, Sha256};

mod client;
mod transport;

pub use client::{client_config, server_name};
pub use transport::{Timed, Transport};

/// Where the server's certificate comes from.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// PEM file of the certificate, followed by its intermediates. Given together with `key`, or not at all.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: Option<PathBuf>,
    /// Folder of what the server writes; a certificate that we make is kept in its `tls` folder.
    pub data_dir: PathBuf,
    /// Host names and addresses for a certificate that we make; `localhost` and the loopback addresses are always in it.
    pub names: Vec<String>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of `tls.cert` and `tls.key` without the other.
    #[error("tls.cert and tls.key must be given together")]
    HalfAPair,
    /// A file cannot be read or is not PEM.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// No certificate in the file.
    #[error("no certificate in {path}", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit together, or their kind is not supported.
    #[error("certificate and key cannot be used")]
    Pair(#[source] rustls::Error),
    /// Nothing can be connected to by TLS.
    #[error("no TLS towards others")]
    Client(#[source] rustls::Error),
    /// No certificate could be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// The certificate that was made cannot be kept.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A certificate that we make ourselves is valid for this long; whoever wants another one removes the files.
const SELF_SIGNED_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The configuration for all TLS ports of the server; the certificate's fingerprint is logged. `wall` is the time now.
///
/// # Errors
/// When the files that were given cannot be used, or no certificate could be made and kept.
pub fn server_config(settings: &TlsSettings, wall: SystemTime) -> Result<Arc<ServerConfig>, TlsError> {
    let (config, fingerprint, origin) = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => {
            let (config, fingerprint) = load(cert, key)?;
            (config, fingerprint, cert.clone())
        }
        (None, None) => self_signed(settings, wall)?,
        _ => return Err(TlsError::HalfAPair),
    };
    tracing::info!("TLS certificate {}, SHA-256 fingerprint {fingerprint}", origin.display());
    Ok(Arc::new(config))
}

fn load(cert: &Path, key: &Path) -> Result<(ServerConfig, String), TlsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        |source| TlsError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(read(cert))?;
    let Some(first) = chain.first() else { return Err(TlsError::NoCertificate { path: cert.to_owned() }) };
    let fingerprint = fingerprint_sha256(first);
    let key = PrivateKeyDer::from_pem_file(key).map_err(read(key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, fingerprint))
}

/// SHA-256 of a certificate as browsers show it: pairs of hex digits with colons.
#[must_use]
pub fn fingerprint_sha256(certificate: &CertificateDer<'_>) -> String {
    let pairs: Vec<_> = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// The certificate that we made earlier, or a new one.
fn self_signed(
    settings: &TlsSettings,
    wall: SystemTime,
) -> Result<(ServerConfig, String, PathBuf), TlsError> {
    let folder = settings.data_dir.join("tls");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if cert.exists() && key.exists() {
        match load(&cert, &key) {
            Ok((config, fingerprint)) => return Ok((config, fingerprint, cert)),
            // Ours to repair: a crash between the two files leaves a pair that does not fit.
            Err(error) => tracing::warn!("making a new certificate: {error} in {}", folder.display()),
        }
    }
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    names.extend(settings.names.iter().filter(|name| !name.is_empty()).cloned());
    let mut params = rcgen::CertificateParams::new(names).map_err(TlsError::Make)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "Stillcast");
    params.not_before = (wall - Duration::from_secs(24 * 3600)).into();
    params.not_after = (wall + SELF_SIGNED_VALIDITY).into();
    let pair = rcgen::KeyPair::generate().map_err(TlsError::Make)?;
    let certificate = params.self_signed(&pair).map_err(TlsError::Make)?;

    fs::create_dir_all(&folder).map_err(|source| TlsError::Write { path: folder.clone(), source })?;
    replace(&key, 0o600, pair.serialize_pem().as_bytes())?;
    replace(&cert, 0o644, certificate.pem().as_bytes())?;
    let (config, fingerprint) = load(&cert, &key)?;
    Ok((config, fingerprint, cert))
}

/// Writes a file under a temporary name that nobody else may read meanwhile, then renames it.
fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), TlsError> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
