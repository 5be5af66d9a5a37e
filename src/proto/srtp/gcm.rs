//! SRTP with AES-GCM (RFC 7714), the sending side: in one pass over the bytes, where they shall lie.
//!
//! Why not the `webrtc-srtp` crate, which does everything else: `docs/DECISIONS.md`.

use std::collections::HashMap;

use aes::Aes128;
use aes::cipher::{BlockEncrypt as _, KeyInit as _};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{MasterKey, SrtpError};
use crate::proto::rtp::header::RtpPacket;

/// Bytes of the salt of a session, and of the vector that is made of it.
const SALT_BYTES: usize = 12;
/// Labels of RFC 3711 section 4.3.2.
const LABEL_KEY: u8 = 0;
const LABEL_SALT: u8 = 2;

/// Encrypts RTP packets under one master key.
pub(super) struct GcmSealer {
    key: LessSafeKey,
    salt: [u8; SALT_BYTES],
    /// The highest index so far of each of our sources: rollover counter and sequence number (RFC 3711 section 3.3.1).
    newest: HashMap<u32, u64>,
}

impl GcmSealer {
    /// The session's key and salt, made of the master key's (RFC 3711 section 4.3, with a key derivation rate of 0).
    pub(super) fn new(master: &MasterKey) -> Result<Self, SrtpError> {
        let cipher = Aes128::new_from_slice(&master.key).map_err(|_| SrtpError::Keys)?;
        let master_salt: &[u8; SALT_BYTES] =
            master.salt.as_slice().try_into().map_err(|_| SrtpError::Keys)?;
        // The first block of the key stream is all that either needs. A salt of 96 bits stands in the upper bits of the
        // 112 that the derivation has (RFC 7714 section 11).
        let derive = |label: u8| {
            let mut block = [0; 16];
            if let Some(place) = block.first_chunk_mut() {
                *place = *master_salt;
            }
            if let Some(byte) = block.get_mut(7) {
                *byte ^= label;
            }
            let mut block = block.into();
            cipher.encrypt_block(&mut block);
            <[u8; 16]>::from(block)
        };
        let key = UnboundKey::new(&AES_128_GCM, &derive(LABEL_KEY)).map_err(|_| SrtpError::Keys)?;
        let [salt @ .., _, _, _, _] = derive(LABEL_SALT);
        Ok(Self { key: LessSafeKey::new(key), salt, newest: HashMap::new() })
    }

    /// Encrypts a packet where it lies, behind its header of `header_bytes`, and appends the tag.
    ///
    /// # Errors
    /// When the header is not one, or the source has used up its 2^48 packets; the packet is still in clear then.
    pub(super) fn seal(&mut self, packet: &mut Vec<u8>, header_bytes: usize) -> Result<(), SrtpError> {
        let malformed = SrtpError::Malformed(packet.len());
        let (header, payload) = packet.split_at_mut_checked(header_bytes).ok_or(malformed)?;
        let read = RtpPacket::parse_header(header).map_err(|_| malformed)?;
        if !read.payload.is_empty() {
            return Err(malformed);
        }
        let (ssrc, newest) = (read.ssrc, self.newest.get(&read.ssrc).copied());
        let index = match newest {
            None => u64::from(read.sequence),
            Some(newest) => nearest(newest, read.sequence).ok_or(malformed)?,
        };
        if index >> 48 != 0 {
            return Err(SrtpError::Keys);
        }
        let nonce = self.vector(ssrc, index);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload);
        packet.extend_from_slice(tag.map_err(|_| SrtpError::Keys)?.as_ref());
        if newest.is_none_or(|newest| index > newest) {
            self.newest.insert(ssrc, index);
        }
        Ok(())
    }

    /// The vector of a packet (RFC 7714 section 8.1): two zero bytes, source, rollover counter, sequence number; and the salt.
    fn vector(&self, ssrc: u32, index: u64) -> Nonce {
        let mut vector = [0; SALT_BYTES];
        let [_, _, index @ ..] = index.to_be_bytes();
        for (place, byte) in vector.iter_mut().skip(2).zip(ssrc.to_be_bytes().into_iter().chain(index)) {
            *place = byte;
        }
        for (place, byte) in vector.iter_mut().zip(self.salt) {
            *place ^= byte;
        }
        Nonce::assume_unique_for_key(vector)
    }
}

/// The index with this sequence number that is nearest to the newest one (RFC 3711 section 3.3.1); `None` for what would lie
/// before the first one. To give that any other index would be to use a vector twice.
fn nearest(newest: u64, sequence: u16) -> Option<u64> {
    let distance = sequence.wrapping_sub(newest as u16).cast_signed();
    newest.checked_add_signed(distance.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_goes_on_over_the_wrap_and_back_for_repetitions() {
        assert_eq!(nearest(0xFFFE, 0xFFFF), Some(0xFFFF));
        assert_eq!(nearest(0xFFFF, 1), Some(0x1_0001));
        assert_eq!(nearest(0x1_0001, 0xFFF0), Some(0xFFF0), "a repetition from before the wrap");
        assert_eq!(nearest(0x5_8000, 0x7FFF), Some(0x5_7FFF));
        assert_eq!(nearest(3, 0xFFFF), None, "nothing was before the first round");
    }

    /// RFC 7714 section 16.1.1, with its session key and salt as they are.
    #[test]
    fn a_packet_of_the_standard_is_sealed_as_there() {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
            digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
        };
        let key = UnboundKey::new(&AES_128_GCM, &bytes("000102030405060708090a0b0c0d0e0f")).unwrap();
        let salt = bytes("517569642070726f2071756f").try_into().unwrap();
        let mut sealer = GcmSealer { key: LessSafeKey::new(key), salt, newest: HashMap::new() };
        let header = bytes("8040f17b8041f8d35501a0b2");
        let payload = bytes("47616c6c696120657374206f6d6e69732064697669736120696e207061727465732074726573");
        let mut packet = [&header[..], &payload].concat();
        sealer.seal(&mut packet, header.len()).unwrap();
        let sealed = bytes(
            "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
             899d7f27beb16a9152cf765ee4390cce",
        );
        assert_eq!(packet, sealed);
    }
}
