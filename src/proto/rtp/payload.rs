//! RTP payloads and packets on their way out, which hold parts of pictures without copying them.
//!
//! A picture that many watch is there once. What each viewer has of its own are headers.

use bytes::Bytes;

/// Most bytes that may stand before a part of a picture: those of a payload format, and the number of a repeated packet
/// (RFC 4588 section 4).
const PREFIX_BYTES_MAX: usize = 8;

/// A payload: the bytes that its format wants first, and a part of a picture or a frame of sound.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    prefix: [u8; PREFIX_BYTES_MAX],
    prefix_bytes: usize,
    body: Bytes,
}

impl Payload {
    /// A payload of these bytes in front of `body`; of more than eight the rest is left out.
    #[must_use]
    pub fn new(front: &[u8], body: Bytes) -> Self {
        let mut prefix = [0; PREFIX_BYTES_MAX];
        prefix.iter_mut().zip(front).for_each(|(place, byte)| *place = *byte);
        Self { prefix, prefix_bytes: front.len().min(PREFIX_BYTES_MAX), body }
    }

    /// The same behind two more bytes.
    #[must_use]
    pub fn behind(&self, [high, low]: [u8; 2]) -> Self {
        let [a, b, c, d, e, f, ..] = self.prefix;
        let front = [high, low, a, b, c, d, e, f];
        Self::new(front.get(..self.prefix_bytes + 2).unwrap_or(&front), self.body.clone())
    }

    /// Its bytes, in two parts.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.prefix.get(..self.prefix_bytes).unwrap_or_default(), &self.body]
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefix_bytes + self.body.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts().concat()
    }
}

/// A packet that is still to be encrypted.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The RTP header with its extensions.
    pub header: Bytes,
    /// What follows.
    pub payload: Payload,
}

impl Packet {
    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let [prefix, body] = self.payload.parts();
        [&self.header, prefix, body].concat()
    }
}
