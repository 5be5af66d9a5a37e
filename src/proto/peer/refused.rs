//! Datagrams that are of no use, by kind.

use crate::proto::srtp::SrtpError;

/// Kinds of datagrams that are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Larger than [`super::DATAGRAM_MAX_BYTES`].
    Oversize,
    /// No protocol of ours.
    Unknown,
    /// STUN that is damaged or not a binding request.
    StunMalformed,
    /// A connectivity check without the right password.
    StunCredentials,
    /// A connectivity check that was answered by another error.
    StunRefused,
    /// DTLS from an address that sent no good check.
    DtlsStranger,
    /// DTLS records that cannot be part of the association.
    DtlsMalformed,
    /// RTP or RTCP from an address that sent no good check.
    RtpStranger,
    /// RTP or RTCP before there are keys.
    RtpEarly,
    /// RTP of a source that belongs to no track.
    RtpUnbound,
    /// SRTP or SRTCP with impossible lengths.
    SrtpMalformed,
    /// SRTP or SRTCP with a wrong tag, or in clear.
    SrtpForged,
    /// SRTP or SRTCP that was taken before, or is too old to tell.
    SrtpReplayed,
    /// Authentic RTP that cannot be used.
    RtpUnusable,
    /// Authentic RTCP that cannot be used.
    RtcpUnusable,
}

impl Refused {
    /// All kinds.
    pub const ALL: [Self; 15] = [
        Self::Oversize,
        Self::Unknown,
        Self::StunMalformed,
        Self::StunCredentials,
        Self::StunRefused,
        Self::DtlsStranger,
        Self::DtlsMalformed,
        Self::RtpStranger,
        Self::RtpEarly,
        Self::RtpUnbound,
        Self::SrtpMalformed,
        Self::SrtpForged,
        Self::SrtpReplayed,
        Self::RtpUnusable,
        Self::RtcpUnusable,
    ];

    /// A short name for counts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oversize => "datagram_oversize",
            Self::Unknown => "datagram_unknown",
            Self::StunMalformed => "stun_malformed",
            Self::StunCredentials => "stun_credentials",
            Self::StunRefused => "stun_refused",
            Self::DtlsStranger => "dtls_stranger",
            Self::DtlsMalformed => "dtls_malformed",
            Self::RtpStranger => "rtp_stranger",
            Self::RtpEarly => "rtp_early",
            Self::RtpUnbound => "rtp_unbound",
            Self::SrtpMalformed => "srtp_malformed",
            Self::SrtpForged => "srtp_forged",
            Self::SrtpReplayed => "srtp_replayed",
            Self::RtpUnusable => "rtp_unusable",
            Self::RtcpUnusable => "rtcp_unusable",
        }
    }
}

impl From<SrtpError> for Refused {
    fn from(error: SrtpError) -> Self {
        match error {
            SrtpError::Malformed(_) => Self::SrtpMalformed,
            SrtpError::Replayed => Self::SrtpReplayed,
            SrtpError::NotEncrypted | SrtpError::NotAuthentic | SrtpError::Keys => Self::SrtpForged,
            SrtpError::TooManySources => Self::RtpUnbound,
        }
    }
}

/// How many datagrams of each kind were not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedCounts([u64; Refused::ALL.len()]);

impl RefusedCounts {
    /// The count of one kind.
    #[must_use]
    pub fn get(&self, kind: Refused) -> u64 {
        self.0.get(kind as usize).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, kind: Refused, number: u64) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count += number;
        }
    }
}
