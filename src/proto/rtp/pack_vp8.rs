//! VP8 into RTP payloads (RFC 7741): a frame in pieces of nearly equal size, each after a descriptor with a picture
//! identifier of 15 bits.

use bytes::Bytes;

use super::pack_h264::piece_bytes;
use super::payload::Payload;

/// Bytes of the descriptor that is written here.
const DESCRIPTOR_BYTES: usize = 4;

/// Counts the frames of one source.
#[derive(Clone, Copy, Debug)]
pub struct Vp8Packer {
    picture_id: u16,
}

impl Vp8Packer {
    /// One whose first frame bears this picture identifier, of 15 bits; RFC 7741 section 4.2 wants it random.
    #[must_use]
    pub fn new(picture_id: u16) -> Self {
        Self { picture_id: picture_id & 0x7FFF }
    }

    /// [`Vp8Packer::cut`], with the bytes of each payload in one piece.
    #[must_use]
    pub fn pack(&mut self, frame: &[u8], payload_bytes_max: usize) -> Vec<Vec<u8>> {
        let pieces = self.pieces(frame, payload_bytes_max);
        pieces.map(|(descriptor, piece)| [&descriptor[..], piece].concat()).collect()
    }

    /// Cuts the next frame into payloads of at most `payload_bytes_max` bytes, in sending order. The last one takes the
    /// marker bit. An empty frame gives none. A `payload_bytes_max` below 16 counts as 16. The frame is not copied.
    #[must_use]
    pub fn cut(&mut self, frame: &Bytes, payload_bytes_max: usize) -> Vec<Payload> {
        let pieces = self.pieces(frame, payload_bytes_max);
        pieces.map(|(descriptor, piece)| Payload::new(&descriptor, frame.slice_ref(piece))).collect()
    }

    fn pieces<'a>(
        &mut self,
        frame: &'a [u8],
        payload_bytes_max: usize,
    ) -> impl Iterator<Item = ([u8; DESCRIPTOR_BYTES], &'a [u8])> + use<'a> {
        let [high, low] = self.picture_id.to_be_bytes();
        if !frame.is_empty() {
            self.picture_id = self.picture_id.wrapping_add(1) & 0x7FFF;
        }
        let most = payload_bytes_max.max(16) - DESCRIPTOR_BYTES;
        frame.chunks(piece_bytes(frame.len(), most)).enumerate().map(move |(position, piece)| {
            // X with S in the first piece, I, M with the identifier. Partitions may be cut anywhere (section 4.4); that
            // all pieces name partition 0 then only says where the first one begins.
            let start = if position == 0 { 0x10 } else { 0 };
            ([0x80 | start, 0x80, 0x80 | high, low], piece)
        })
    }
}
