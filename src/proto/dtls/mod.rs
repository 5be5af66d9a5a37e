//! DTLS (RFC 6347) for SRTP keys (RFC 5764).

pub mod certificate;

pub use certificate::{Certificate, CertificateError, Fingerprint};
