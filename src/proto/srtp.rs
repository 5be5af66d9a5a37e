//! SRTP and SRTCP (RFC 3711, RFC 7714): between bytes on the wire and plain packets.
//!
//! The `webrtc-srtp` crate does the cryptography, but for what is sent under AES-GCM. It trusts lengths, makes lasting state for every source that anyone
//! names, and takes reports whose encryption bit is clear without looking at their tag; all three are seen to here.

mod gcm;

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

use self::gcm::GcmSealer;
use super::rtp::header::{HEADER_BYTES, RtpPacket};

/// Packets that may be behind the newest and still be taken, of each source (RFC 3711 section 3.3.2): more than come
/// in the time that the jitter buffer waits.
const REPLAY_WINDOW: usize = 1024;
/// Most sources of each kind that a peer may use over its life. A browser's tracks are two, each simulcast layer and
/// each replaced track one more.
const SOURCES_MAX: usize = 64;

/// A protection profile of RFC 5764 section 4.1.2 and RFC 7714 section 14.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `SRTP_AES128_CM_HMAC_SHA1_80`.
    Aes128CmSha1_80,
    /// `SRTP_AEAD_AES_128_GCM`.
    AeadAes128Gcm,
}

impl Profile {
    /// Bytes of a master key.
    #[must_use]
    pub fn key_bytes(self) -> usize {
        16
    }

    /// Bytes of a master salt.
    #[must_use]
    pub fn salt_bytes(self) -> usize {
        match self {
            Self::Aes128CmSha1_80 => 14,
            Self::AeadAes128Gcm => 12,
        }
    }

    /// Bytes of the authentication tag.
    fn tag_bytes(self) -> usize {
        match self {
            Self::Aes128CmSha1_80 => 10,
            Self::AeadAes128Gcm => 16,
        }
    }

    fn of_crate(self) -> ProtectionProfile {
        match self {
            Self::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            Self::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        }
    }
}

/// Master key and salt of one direction.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// [`Profile::key_bytes`] bytes.
    pub key: Vec<u8>,
    /// [`Profile::salt_bytes`] bytes.
    pub salt: Vec<u8>,
}

/// Nothing of it is shown.
impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").finish_non_exhaustive()
    }
}

/// The keys of both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What was negotiated.
    pub profile: Profile,
    /// For what we send.
    pub local: MasterKey,
    /// For what we receive.
    pub remote: MasterKey,
}

/// Why a packet could not be protected or was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// Too short to hold header and tag, or not RTP or RTCP.
    #[error("srtp packet of {0} bytes is malformed")]
    Malformed(usize),
    /// SRTCP without encryption, which nobody negotiated (RFC 3711 section 3.4, E bit).
    #[error("srtcp packet is not encrypted")]
    NotEncrypted,
    /// Taken before, or too old to tell.
    #[error("srtp packet was replayed")]
    Replayed,
    /// The tag is wrong.
    #[error("srtp packet is not authentic")]
    NotAuthentic,
    /// The peer used more than 64 sources.
    #[error("more than {SOURCES_MAX} sources")]
    TooManySources,
    /// The keys do not fit the profile, or are used up (RFC 3711 section 9.2).
    #[error("srtp keys cannot be used")]
    Keys,
}

/// Both directions of one transport.
pub struct Srtp {
    keys: Keys,
    outbound: Context,
    /// With AES-GCM, what encrypts RTP instead of `outbound`.
    sealer: Option<GcmSealer>,
    inbound: Context,
    /// Sources of which at least one packet was authentic; only these have state in `inbound`.
    rtp_sources: HashSet<u32>,
    rtcp_sources: HashSet<u32>,
}

impl fmt::Debug for Srtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Srtp").field("profile", &self.keys.profile).finish_non_exhaustive()
    }
}

fn inbound(keys: &Keys) -> Result<Context, SrtpError> {
    Context::new(
        &keys.remote.key,
        &keys.remote.salt,
        keys.profile.of_crate(),
        Some(srtp_replay_protection(REPLAY_WINDOW)),
        Some(srtcp_replay_protection(REPLAY_WINDOW)),
    )
    .map_err(|_| SrtpError::Keys)
}

/// What the crate says, in our words.
fn refusal(error: &webrtc_srtp::Error) -> SrtpError {
    match error {
        webrtc_srtp::Error::SrtpSsrcDuplicated(..) | webrtc_srtp::Error::SrtcpSsrcDuplicated(..) => {
            SrtpError::Replayed
        }
        _ => SrtpError::NotAuthentic,
    }
}

/// The part of a header that the crate needs: source, sequence number and size in bytes.
///
/// The size it would compute itself from header extensions is that of its own way to write them, which differs from
/// the packet's when that holds padding between elements. A list of contributing sources has no such freedom, and
/// headers are whole words, so the size is expressed in those.
fn header_of(packet: &[u8]) -> Result<rtp::header::Header, SrtpError> {
    let malformed = SrtpError::Malformed(packet.len());
    let read = RtpPacket::parse_header(packet).map_err(|_| malformed)?;
    let size = packet.len().saturating_sub(read.payload.len());
    Ok(rtp::header::Header {
        version: 2,
        sequence_number: read.sequence,
        ssrc: read.ssrc,
        csrc: vec![0; size.saturating_sub(HEADER_BYTES) / 4],
        ..rtp::header::Header::default()
    })
}

impl Srtp {
    /// Contexts for these keys.
    ///
    /// # Errors
    /// When the keys do not fit the profile.
    pub fn new(keys: Keys) -> Result<Self, SrtpError> {
        let outbound = Context::new(&keys.local.key, &keys.local.salt, keys.profile.of_crate(), None, None)
            .map_err(|_| SrtpError::Keys)?;
        let inbound = inbound(&keys)?;
        let sealer = match keys.profile {
            Profile::AeadAes128Gcm => Some(GcmSealer::new(&keys.local)?),
            Profile::Aes128CmSha1_80 => None,
        };
        let (rtp_sources, rtcp_sources) = (HashSet::new(), HashSet::new());
        Ok(Self { keys, outbound, sealer, inbound, rtp_sources, rtcp_sources })
    }

    /// Encrypts an RTP packet.
    ///
    /// # Errors
    /// When it is malformed, or the keys are used up.
    pub fn protect_rtp(&mut self, packet: &[u8]) -> Result<Bytes, SrtpError> {
        let read = RtpPacket::parse_header(packet).map_err(|_| SrtpError::Malformed(packet.len()))?;
        let (header, payload) = packet.split_at(packet.len() - read.payload.len());
        self.protect_rtp_parts(header, &[payload])
    }

    /// Encrypts an RTP packet that lies in parts: the header, and the payload in pieces. They are copied once.
    ///
    /// # Errors
    /// When it is malformed, or the keys are used up.
    pub fn protect_rtp_parts(&mut self, header: &[u8], payload: &[&[u8]]) -> Result<Bytes, SrtpError> {
        let bytes = header.len() + payload.iter().map(|piece| piece.len()).sum::<usize>();
        // What is exactly filled becomes shared bytes without another allocation.
        let mut packet = Vec::with_capacity(bytes + self.keys.profile.tag_bytes());
        packet.extend_from_slice(header);
        payload.iter().for_each(|piece| packet.extend_from_slice(piece));
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(&mut packet, header.len())?;
            return Ok(packet.into());
        }
        let header = header_of(&packet)?;
        self.outbound.encrypt_rtp_with_header(&packet, &header).map_err(|_| SrtpError::Keys)
    }

    /// Encrypts a compound RTCP packet.
    ///
    /// # Errors
    /// When it is malformed, or the keys are used up.
    pub fn protect_rtcp(&mut self, compound: &[u8]) -> Result<Bytes, SrtpError> {
        if !is_rtcp(compound) {
            return Err(SrtpError::Malformed(compound.len()));
        }
        self.outbound.encrypt_rtcp(compound).map_err(|_| SrtpError::Keys)
    }

    /// Checks and decrypts an RTP packet. Packets of a source that nobody negotiated should be refused before.
    ///
    /// # Errors
    /// When it is malformed, forged or replayed; nothing is remembered of it then.
    pub fn unprotect_rtp(&mut self, packet: &[u8]) -> Result<Bytes, SrtpError> {
        let header = header_of(packet)?;
        let header_bytes = HEADER_BYTES + header.csrc.len() * 4;
        if packet.len() < header_bytes + self.keys.profile.tag_bytes() {
            return Err(SrtpError::Malformed(packet.len()));
        }
        if !self.rtp_sources.contains(&header.ssrc) {
            let on_trial = |context: &mut Context| context.decrypt_rtp_with_header(packet, &header).map(drop);
            try_source(&self.keys, &mut self.rtp_sources, header.ssrc, on_trial)?;
        }
        self.inbound.decrypt_rtp_with_header(packet, &header).map_err(|error| refusal(&error))
    }

    /// Checks and decrypts a compound RTCP packet.
    ///
    /// # Errors
    /// When it is malformed, forged or replayed; nothing is remembered of it then.
    pub fn unprotect_rtcp(&mut self, packet: &[u8]) -> Result<Bytes, SrtpError> {
        let malformed = SrtpError::Malformed(packet.len());
        // Header and sender's source, then tag, E bit and index (RFC 3711 section 3.4).
        if packet.len() < 8 + 4 + self.keys.profile.tag_bytes() || !is_rtcp(packet) {
            return Err(malformed);
        }
        // With GCM the index stands behind the tag, otherwise before it (RFC 7714 section 9.2).
        let index_at = match self.keys.profile {
            Profile::Aes128CmSha1_80 => packet.len() - 14,
            Profile::AeadAes128Gcm => packet.len() - 4,
        };
        if packet.get(index_at).is_none_or(|byte| byte & 0x80 == 0) {
            return Err(SrtpError::NotEncrypted);
        }
        let ssrc = packet.get(4..8).and_then(|bytes| bytes.try_into().ok()).ok_or(malformed)?;
        let ssrc = u32::from_be_bytes(ssrc);
        if !self.rtcp_sources.contains(&ssrc) {
            let on_trial = |context: &mut Context| context.decrypt_rtcp(packet).map(drop);
            try_source(&self.keys, &mut self.rtcp_sources, ssrc, on_trial)?;
        }
        self.inbound.decrypt_rtcp(packet).map_err(|error| refusal(&error))
    }
}

/// Lets a source in when its first packet is authentic, which a context of its own finds out: that one is thrown
/// away with all it remembers.
fn try_source(
    keys: &Keys,
    known: &mut HashSet<u32>,
    ssrc: u32,
    on_trial: impl FnOnce(&mut Context) -> Result<(), webrtc_srtp::Error>,
) -> Result<(), SrtpError> {
    if known.len() >= SOURCES_MAX {
        return Err(SrtpError::TooManySources);
    }
    on_trial(&mut inbound(keys)?).map_err(|error| refusal(&error))?;
    known.insert(ssrc);
    Ok(())
}

/// Version 2, and long enough for the sender's source.
fn is_rtcp(packet: &[u8]) -> bool {
    packet.len() >= 8 && packet.first().is_some_and(|first| first >> 6 == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(profile: Profile) -> (Srtp, Srtp) {
        let key = |seed: u8| MasterKey {
            key: vec![seed; profile.key_bytes()],
            salt: vec![seed ^ 0x55; profile.salt_bytes()],
        };
        let keys = Keys { profile, local: key(1), remote: key(2) };
        let mirrored = Keys { profile, local: key(2), remote: key(1) };
        (Srtp::new(keys).unwrap(), Srtp::new(mirrored).unwrap())
    }

    fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 96];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 1]);
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(b"some payload");
        packet
    }

    const REPORT: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 9];
    const PROFILES: [Profile; 2] = [Profile::Aes128CmSha1_80, Profile::AeadAes128Gcm];

    #[test]
    fn packets_come_through_once() {
        for profile in PROFILES {
            let (mut sender, mut receiver) = pair(profile);
            // Across the wrap of the sequence number.
            for sequence in (65_000..=u16::MAX).chain(0..500) {
                let wire = sender.protect_rtp(&rtp(sequence, 7)).unwrap();
                assert_ne!(wire[12..20], b"some pay"[..]);
                assert_eq!(
                    receiver.unprotect_rtp(&wire).unwrap(),
                    rtp(sequence, 7),
                    "{profile:?} {sequence}"
                );
                assert_eq!(receiver.unprotect_rtp(&wire), Err(SrtpError::Replayed));
            }
            let wire = sender.protect_rtcp(&REPORT).unwrap();
            assert_eq!(receiver.unprotect_rtcp(&wire).unwrap(), REPORT[..]);
            assert_eq!(receiver.unprotect_rtcp(&wire), Err(SrtpError::Replayed));
        }
    }

    #[test]
    fn padding_between_header_extensions_does_not_shift_the_payload() {
        let mut packet = rtp(5, 7);
        packet[0] |= 0x10;
        // One element, three bytes of padding, another element, padding to eight bytes and four more.
        let extension = [0xBE, 0xDE, 0, 3, 0x10, 0xAA, 0, 0, 0, 0x20, 0xBB, 0, 0, 0, 0, 0];
        packet.splice(12..12, extension);
        for profile in PROFILES {
            let (mut sender, mut receiver) = pair(profile);
            let wire = sender.protect_rtp(&packet).unwrap();
            assert_eq!(wire[..28], packet[..28], "all of the header stays in clear");
            assert_ne!(wire[28..32], packet[28..32]);
            assert_eq!(receiver.unprotect_rtp(&wire).unwrap(), packet);
        }
    }

    #[test]
    fn short_packets_are_refused_whatever_their_length() {
        for profile in PROFILES {
            let (mut sender, mut receiver) = pair(profile);
            let (media, report) =
                (sender.protect_rtp(&rtp(1, 7)).unwrap(), sender.protect_rtcp(&REPORT).unwrap());
            for length in 0..media.len() {
                receiver.unprotect_rtp(&media[..length]).unwrap_err();
            }
            for length in 0..report.len() {
                receiver.unprotect_rtcp(&report[..length]).unwrap_err();
            }
            for first in 0..=255 {
                for length in 0..40 {
                    receiver.unprotect_rtcp(&vec![first; length]).unwrap_err();
                    receiver.unprotect_rtp(&vec![first; length]).unwrap_err();
                }
            }
            receiver.unprotect_rtp(&media).unwrap();
            receiver.unprotect_rtcp(&report).unwrap();
        }
    }

    #[test]
    fn forged_packets_leave_nothing_behind() {
        for profile in PROFILES {
            let (mut sender, mut receiver) = pair(profile);
            for ssrc in 0..200 {
                let mut wire = sender.protect_rtp(&rtp(1, ssrc)).unwrap().to_vec();
                *wire.last_mut().unwrap() ^= 1;
                assert_eq!(receiver.unprotect_rtp(&wire), Err(SrtpError::NotAuthentic));
                let mut report = REPORT;
                report[7] = u8::try_from(ssrc).unwrap();
                let mut wire = sender.protect_rtcp(&report).unwrap().to_vec();
                wire[5] ^= 1;
                assert_eq!(receiver.unprotect_rtcp(&wire), Err(SrtpError::NotAuthentic));
            }
            assert!(receiver.rtp_sources.is_empty() && receiver.rtcp_sources.is_empty());
            let wire = sender.protect_rtp(&rtp(2, 7)).unwrap();
            receiver.unprotect_rtp(&wire).unwrap();
        }
    }

    #[test]
    fn a_report_in_clear_is_refused() {
        for profile in PROFILES {
            let (mut sender, mut receiver) = pair(profile);
            let mut wire = sender.protect_rtcp(&REPORT).unwrap().to_vec();
            let at = if profile == Profile::AeadAes128Gcm { wire.len() - 4 } else { wire.len() - 14 };
            wire[at] &= 0x7F;
            assert_eq!(receiver.unprotect_rtcp(&wire), Err(SrtpError::NotEncrypted));
        }
    }

    #[test]
    fn even_an_authentic_peer_has_a_limited_number_of_sources() {
        let (mut sender, mut receiver) = pair(Profile::Aes128CmSha1_80);
        let results: Vec<_> = (0..100)
            .map(|ssrc| receiver.unprotect_rtp(&sender.protect_rtp(&rtp(1, ssrc)).unwrap()).map(drop))
            .collect();
        assert!(results[..SOURCES_MAX].iter().all(Result::is_ok));
        assert!(results[SOURCES_MAX..].iter().all(|result| *result == Err(SrtpError::TooManySources)));
    }
}
