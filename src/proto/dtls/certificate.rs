//! The certificate that the server shows in every handshake, and fingerprints that stand for certificates in SDP.

use std::fmt;

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The server's own certificate with its key: ECDSA on P-256, self-signed, made once and shared by all peers.
///
/// WebRTC trusts no authority: the fingerprint in the session description, which came over the signalling channel, is
/// what a certificate is compared with (RFC 8827 section 5).
#[derive(Clone)]
pub struct Certificate {
    inner: dtls::crypto::Certificate,
    fingerprint: Fingerprint,
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a DTLS certificate: {0}")]
pub struct CertificateError(String);

impl Certificate {
    /// Makes a new key and a certificate for it. Keys come from the operating system's random numbers.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, CertificateError> {
        let failed = |error: &dyn fmt::Display| CertificateError(error.to_string());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| failed(&e))?;
        let mut parameters = rcgen::CertificateParams::default();
        // A name that tells nothing about the host.
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "WebRTC");
        let signed = parameters.self_signed(&key).map_err(|e| failed(&e))?;
        let private_key = dtls::crypto::CryptoPrivateKey::from_key_pair(&key).map_err(|e| failed(&e))?;
        let fingerprint = Fingerprint::sha256_of(signed.der());
        let inner = dtls::crypto::Certificate { certificate: vec![signed.der().clone()], private_key };
        Ok(Self { inner, fingerprint })
    }

    /// Its SHA-256 fingerprint, for `a=fingerprint`.
    #[must_use]
    pub fn fingerprint_sha256(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) fn inner(&self) -> dtls::crypto::Certificate {
        self.inner.clone()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Hash functions of fingerprints that count as proof.
///
/// RFC 8122 section 5 forbids MD2 and MD5; SHA-1 no longer stands against collisions and no browser writes it, so it
/// does not count either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// What every browser writes.
    Sha256,
    /// Also allowed.
    Sha384,
    /// Also allowed.
    Sha512,
}

/// The hash of a certificate as it stands in `a=fingerprint` (RFC 8122 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The hash function.
    pub hash: Hash,
    /// The hash of the certificate in DER.
    pub value: Vec<u8>,
}

impl Fingerprint {
    /// The SHA-256 fingerprint of a certificate in DER.
    #[must_use]
    pub fn sha256_of(der: &[u8]) -> Self {
        Self { hash: Hash::Sha256, value: Sha256::digest(der).to_vec() }
    }

    /// Reads the value of `a=fingerprint`: `<hash> <bytes in hex, separated by colons>`. `None` for hash functions
    /// that do not count, and for values that are not as long as their hash.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (hash, hex) = text.trim().split_once(char::is_whitespace)?;
        let hash = match hash.to_ascii_lowercase().as_str() {
            "sha-256" => Hash::Sha256,
            "sha-384" => Hash::Sha384,
            "sha-512" => Hash::Sha512,
            _ => return None,
        };
        // The longest has 64 bytes: stop reading soon after.
        let bytes = hex.trim().split(':').take(65).map(|pair| {
            let both_digits = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            both_digits.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
        });
        let value = bytes.collect::<Option<Vec<u8>>>()?;
        (value.len() == hash.size_bytes()).then_some(Self { hash, value })
    }

    /// Whether this is the fingerprint of that certificate in DER.
    #[must_use]
    pub fn matches(&self, der: &[u8]) -> bool {
        let value = match self.hash {
            Hash::Sha256 => Sha256::digest(der).to_vec(),
            Hash::Sha384 => Sha384::digest(der).to_vec(),
            Hash::Sha512 => Sha512::digest(der).to_vec(),
        };
        value == self.value
    }
}

impl Hash {
    fn size_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }
}

/// The value of `a=fingerprint`.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hash.name())?;
        for (index, byte) in self.value.iter().enumerate() {
            let separator = if index == 0 { ' ' } else { ':' };
            write!(f, "{separator}{byte:02X}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_stands_for_one_certificate() {
        let (one, other) = (Certificate::generate().unwrap(), Certificate::generate().unwrap());
        let written = one.fingerprint_sha256().to_string();
        let read = Fingerprint::parse(&written).unwrap();
        assert!(read.matches(&one.inner.certificate[0]));
        assert!(!read.matches(&other.inner.certificate[0]));
        assert_eq!(written.len(), "sha-256 ".len() + 32 * 3 - 1);
        assert_eq!(Fingerprint::parse(&written.to_lowercase()), Some(read), "hex of either case");
    }

    #[test]
    fn longer_hashes_count_and_weak_ones_do_not() {
        let der = b"not really a certificate";
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
        let sha512 = Fingerprint::parse(&format!("SHA-512 {}", hex(&Sha512::digest(der)))).unwrap();
        assert!(sha512.matches(der) && !sha512.matches(b"another"));
        assert!(Fingerprint::parse(&format!("sha-384 {}", hex(&Sha384::digest(der)))).unwrap().matches(der));
        assert_eq!(Fingerprint::parse(&format!("sha-1 {}", hex(&[7; 20]))), None);
        assert_eq!(Fingerprint::parse(&format!("sha-256 {}", hex(&[7; 31]))), None, "one byte short");
        assert_eq!(Fingerprint::parse(&format!("sha-256 {}", hex(&[7; 90_000]))), None);
        assert_eq!(Fingerprint::parse("sha-256 +1:02"), None);
    }
}
