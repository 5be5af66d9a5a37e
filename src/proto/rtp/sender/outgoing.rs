//! One source of ours: its numbers, its headers, its reports.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use webrtc_util::marshal::Marshal as _;

use crate::proto::rtp::header::RtpPacket;
use crate::proto::rtp::payload::{Packet, Payload};
use crate::proto::rtp::rtcp::RtcpWriter;

/// Identifiers of header extensions that were agreed on; `None` where one was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendExtensions {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid`, with the value to send.
    pub mid: Option<(u8, String)>,
    /// `abs-send-time`: with it the viewer estimates what its network carries.
    pub abs_send_time: Option<u8>,
    /// `urn:3gpp:video-orientation`.
    pub orientation: Option<u8>,
    /// Transport-wide sequence number: with it the viewer tells when each packet arrived.
    pub transport_wide: Option<u8>,
}

/// Where the transport-wide number stands in a packet that has one: it is the first extension, behind the fixed header (RFC 3550
/// section 5.1), the head of the extensions and its own (RFC 8285 section 4.2).
const NUMBER_AT: std::ops::Range<usize> = 17..19;

/// The same packet with its transport-wide number, which is known only when it leaves.
pub(super) fn numbered(packet: Packet, number: u16) -> Packet {
    let mut header = BytesMut::from(packet.header);
    if let Some(place) = header.get_mut(NUMBER_AT) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    Packet { header: header.freeze(), payload: packet.payload }
}

/// One payload on its way.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) payload: Payload,
    pub(super) marker: bool,
    pub(super) timestamp: u32,
    /// Value of the orientation extension, on the last piece of a picture.
    pub(super) orientation: Option<u8>,
}

/// Sequence numbers and totals of one source (RFC 3550 section 5.1).
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) ssrc: u32,
    payload_type: u8,
    extensions: SendExtensions,
    /// Of the next packet, not wrapped.
    next: u64,
    packets: u32,
    payload_bytes: u32,
}

/// Values of `mid` longer than this do not fit the one-byte form (RFC 8285 section 4.2).
const EXTENSION_BYTES_MAX: usize = 16;

impl Outgoing {
    /// `first` is the first sequence number: below 2^15, so that the receiver's cipher cannot mistake a packet that overtakes
    /// another for a wrap (RFC 3711 section 3.3.1).
    pub(super) fn new(ssrc: u32, payload_type: u8, mut extensions: SendExtensions, first: u16) -> Self {
        extensions.mid = extensions.mid.filter(|(_, mid)| (1..=EXTENSION_BYTES_MAX).contains(&mid.len()));
        let next = u64::from(first & 0x7FFF);
        Self { ssrc, payload_type, extensions, next, packets: 0, payload_bytes: 0 }
    }

    /// The next packet, with its sequence number before wrapping.
    pub(super) fn packet(&mut self, piece: Piece, since_origin: Duration) -> (u64, Packet) {
        let sequence = self.next;
        self.next += 1;
        self.packets = self.packets.wrapping_add(1);
        self.payload_bytes = self.payload_bytes.wrapping_add(piece.payload.len() as u32);
        let mut header = ::rtp::header::Header {
            version: 2,
            marker: piece.marker,
            payload_type: self.payload_type & 0x7F,
            sequence_number: sequence as u16,
            timestamp: piece.timestamp,
            ssrc: self.ssrc,
            ..::rtp::header::Header::default()
        };
        let mut extend = |id: u8, value: Bytes| {
            // Identifiers are 1 to 14 and values 1 to 16 bytes: nothing can be refused.
            let _ = header.set_extension(id, value);
        };
        if let Some(id) = self.extensions.transport_wide {
            extend(id, Bytes::from_static(&[0, 0]));
        }
        if let Some(id) = self.extensions.abs_send_time {
            extend(id, Bytes::copy_from_slice(&abs_send_time(since_origin)));
        }
        if let Some((id, mid)) = &self.extensions.mid {
            extend(*id, Bytes::copy_from_slice(mid.as_bytes()));
        }
        if let (Some(id), Some(value)) = (self.extensions.orientation, piece.orientation) {
            extend(id, Bytes::copy_from_slice(&[value]));
        }
        let header = header.marshal().unwrap_or_default();
        (sequence, Packet { header, payload: piece.payload })
    }

    /// A packet of another source as a repetition on this one (RFC 4588 section 4).
    pub(super) fn repetition(&mut self, original: &Packet, since_origin: Duration) -> Option<Packet> {
        let read = RtpPacket::parse_header(&original.header).ok()?;
        let payload = original.payload.behind(read.sequence.to_be_bytes());
        let piece = Piece { payload, marker: read.marker, timestamp: read.timestamp, orientation: None };
        Some(self.packet(piece, since_origin).1)
    }

    /// A sender report with the source's name (RFC 3550 sections 6.4.1 and 6.5.1), which says that `ntp` is `rtp_time`; `None` before
    /// the first packet.
    pub(super) fn report(&self, ntp: u64, rtp_time: Option<u32>, cname: &str) -> Option<Vec<u8>> {
        let rtp_time = rtp_time.filter(|_| self.packets > 0)?;
        let mut writer = RtcpWriter::new();
        writer.sender_report(self.ssrc, ntp, rtp_time, (self.packets, self.payload_bytes), &[]);
        writer.canonical_name(self.ssrc, cname);
        Some(writer.finish())
    }
}

/// Seconds as 6.18 fixed point, modulo 64 s.
fn abs_send_time(since_origin: Duration) -> [u8; 3] {
    let fixed = (since_origin.as_nanos() << 18) / 1_000_000_000;
    let [.., a, b, c] = (fixed as u32).to_be_bytes();
    [a, b, c]
}
