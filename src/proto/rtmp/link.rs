//! What both ends of a connection do alike: handshake, chunks, and the control messages that concern the connection
//! itself (RTMP sections 5.4 and 7.1.7). What is left are messages for `server` and `client`.

use std::time::Instant;

use bytes::Bytes;

use super::RtmpError;
use super::amf0::{self, Value};
use super::chunk::{ChunkReader, ChunkWriter, Message, kind};
use super::handshake::{Handshake, RANDOM_BYTES};

/// Largest command or data message that is looked at. `connect` of encoders has some hundreds of bytes.
const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// Size of the chunks that we send: few headers, and sound never waits long behind a picture.
const CHUNK_BYTES_OUT: u32 = 16 * 1024;
/// What we promise to acknowledge by, and wish to be acknowledged by (sections 5.4.4, 5.4.5).
const WINDOW_BYTES: u32 = 2_500_000;
/// Most parts of one aggregate message. Each may be as small as its header, and costs many times as much when it is taken.
const AGGREGATE_PARTS_MAX: u32 = 1024;
/// The output buffer keeps this much when it is empty.
const OUT_KEPT_BYTES: usize = 16 * 1024;

/// Chunk streams that we send on (section 5.4 sets the first; the others are customary).
mod chunk_stream {
    pub(super) const CONTROL: u8 = 2;
    pub(super) const COMMAND: u8 = 3;
    pub(super) const AUDIO: u8 = 4;
    pub(super) const DATA: u8 = 5;
    pub(super) const VIDEO: u8 = 6;
}

/// Events of user control messages (section 7.1.7).
pub(super) mod event {
    pub(in crate::proto::rtmp) const STREAM_BEGIN: u16 = 0;
    pub(in crate::proto::rtmp) const STREAM_EOF: u16 = 1;
    pub(in crate::proto::rtmp) const SET_BUFFER_LENGTH: u16 = 3;
    pub(in crate::proto::rtmp) const PING_REQUEST: u16 = 6;
    pub(in crate::proto::rtmp) const PING_RESPONSE: u16 = 7;
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    handshake: Option<Handshake>,
    reader: ChunkReader,
    writer: ChunkWriter,
    out: Vec<u8>,
    /// Bytes at the beginning of `out` that went out already.
    out_sent: usize,
    /// Bytes received and acknowledged, and how many the other end lets pass without an acknowledgement.
    received: u64,
    acknowledged: u64,
    window: Option<u32>,
    aggregate: Option<Aggregate>,
}

/// An aggregate message of which not all parts were taken (section 7.1.6).
#[derive(Debug)]
struct Aggregate {
    whole: Message,
    rest: Bytes,
    /// Parts that were taken.
    parts: u32,
    /// What to add to the times of its parts.
    shift_ms: Option<u32>,
}

impl Aggregate {
    /// The next part: a tag header (FLV annex E.4.1), a body, and the size of both.
    fn next(&mut self) -> Result<Option<Message>, RtmpError> {
        const MALFORMED: RtmpError = RtmpError::Malformed("aggregate message");
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > AGGREGATE_PARTS_MAX {
            return Err(RtmpError::Malformed("aggregate message: it has too many parts"));
        }
        let &[kind, a, b, c, x, y, z, high, ..] = self.rest.first_chunk::<11>().ok_or(MALFORMED)?.as_slice()
        else {
            return Err(MALFORMED);
        };
        let size = usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(|_| MALFORMED)?;
        let time = u32::from_be_bytes([high, x, y, z]);
        if self.rest.len() < 11 + size {
            return Err(MALFORMED);
        }
        let _header = self.rest.split_to(11);
        let payload = self.rest.split_to(size);
        // The size of the part, which some senders leave out behind the last one.
        let _ = self.rest.split_to(self.rest.len().min(4));
        let shift_ms = *self.shift_ms.get_or_insert(self.whole.timestamp.wrapping_sub(time));
        Ok(Some(Message { kind, timestamp: time.wrapping_add(shift_ms), payload, ..self.whole.clone() }))
    }
}

impl Link {
    /// The end that speaks second.
    pub(super) fn server(random: Box<[u8; RANDOM_BYTES]>) -> Self {
        Self::new(Handshake::server(random), Vec::new())
    }

    /// The end that speaks first.
    pub(super) fn client(random: Box<[u8; RANDOM_BYTES]>) -> Self {
        let mut out = Vec::new();
        let handshake = Handshake::client(random, &mut out);
        Self::new(handshake, out)
    }

    fn new(handshake: Handshake, out: Vec<u8>) -> Self {
        Self {
            handshake: Some(handshake),
            reader: ChunkReader::new(),
            writer: ChunkWriter::new(),
            out,
            out_sent: 0,
            received: 0,
            acknowledged: 0,
            window: None,
            aggregate: None,
        }
    }

    /// Whether the handshake is over.
    pub(super) fn is_up(&self) -> bool {
        self.handshake.is_none()
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The next message that the link does not handle itself; `None` when `input` is used up.
    pub(super) fn next(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Message>, RtmpError> {
        let before = input.len();
        let message = self.next_of_any(input, now);
        self.received += (before - input.len()) as u64;
        if let Some(window) = self.window
            && self.received - self.acknowledged >= u64::from(window)
        {
            self.acknowledged = self.received;
            // The sequence number wraps.
            self.control(kind::ACKNOWLEDGEMENT, &(self.received as u32).to_be_bytes());
        }
        message
    }

    fn next_of_any(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Message>, RtmpError> {
        if let Some(handshake) = &mut self.handshake {
            handshake.handle(input, &mut self.out)?;
            if !handshake.is_done() {
                return Ok(None);
            }
            self.handshake = None;
        }
        loop {
            if let Some(aggregate) = &mut self.aggregate {
                match aggregate.next()? {
                    Some(message) if matches!(message.kind, kind::AUDIO | kind::VIDEO | kind::DATA_AMF0) => {
                        return Ok(Some(message));
                    }
                    Some(_) => continue,
                    None => self.aggregate = None,
                }
            }
            let Some(message) = self.reader.next(input, now)? else { return Ok(None) };
            if self.handle_control(&message)? {
                continue;
            }
            if message.kind == kind::AGGREGATE {
                let rest = message.payload.clone();
                self.aggregate = Some(Aggregate { whole: message, rest, parts: 0, shift_ms: None });
                continue;
            }
            return Ok(Some(message));
        }
    }

    /// Handles a control message; returns whether it was one that concerns nobody else.
    fn handle_control(&mut self, message: &Message) -> Result<bool, RtmpError> {
        let number = || {
            let bytes = message.payload.first_chunk::<4>();
            bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(RtmpError::Malformed("control message"))
        };
        match message.kind {
            kind::SET_CHUNK_SIZE => self.reader.set_chunk_size(number()?)?,
            // Later pictures refer to one that was given up, and nothing in them says so.
            kind::ABORT => {
                if matches!(self.reader.abort(number()?), Some(kind::VIDEO | kind::AGGREGATE)) {
                    return Err(RtmpError::Malformed("abort message: it gives up a picture"));
                }
            }
            kind::WINDOW_ACK_SIZE => self.window = Some(number()?).filter(|&size| size > 0),
            // It asks us to limit what we send without an acknowledgement; TCP does that.
            kind::ACKNOWLEDGEMENT | kind::SET_PEER_BANDWIDTH => {}
            kind::USER_CONTROL => {
                let Some((event, data)) = message.payload.split_first_chunk::<2>() else {
                    return Err(RtmpError::Malformed("user control message"));
                };
                if u16::from_be_bytes(*event) != event::PING_REQUEST {
                    return Ok(false);
                }
                if let Some(&time) = data.first_chunk::<4>() {
                    self.user_control(event::PING_RESPONSE, &time);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn control(&mut self, kind: u8, payload: &[u8]) {
        self.writer.write(&mut self.out, chunk_stream::CONTROL, (kind, 0, 0), &[payload]);
    }

    /// Sends a user control message.
    pub(super) fn user_control(&mut self, event: u16, data: &[u8]) {
        let payload = [&event.to_be_bytes(), data].concat();
        self.control(kind::USER_CONTROL, &payload);
    }

    /// Tells how much we let pass before we acknowledge, and the size of our chunks, which counts from here on.
    pub(super) fn announce(&mut self) {
        self.control(kind::WINDOW_ACK_SIZE, &WINDOW_BYTES.to_be_bytes());
        self.control(kind::SET_CHUNK_SIZE, &CHUNK_BYTES_OUT.to_be_bytes());
        self.writer.set_chunk_size(CHUNK_BYTES_OUT as usize);
    }

    /// Asks the other end to acknowledge by the same window ("dynamic", section 5.4.5).
    pub(super) fn ask_bandwidth(&mut self) {
        let mut payload = WINDOW_BYTES.to_be_bytes().to_vec();
        payload.push(2);
        self.control(kind::SET_PEER_BANDWIDTH, &payload);
    }

    /// Sends a command.
    pub(super) fn command(&mut self, stream_id: u32, values: &[Value]) {
        let message = (kind::COMMAND_AMF0, stream_id, 0);
        self.writer.write(&mut self.out, chunk_stream::COMMAND, message, &[&amf0::encode(values)]);
    }

    /// Sends a data message.
    pub(super) fn data(&mut self, stream_id: u32, timestamp: u32, values: &[Value]) {
        let message = (kind::DATA_AMF0, stream_id, timestamp);
        self.writer.write(&mut self.out, chunk_stream::DATA, message, &[&amf0::encode(values)]);
    }

    /// Sends a video message whose body is all parts together.
    pub(super) fn video(&mut self, stream_id: u32, timestamp: u32, parts: &[&[u8]]) {
        self.writer.write(&mut self.out, chunk_stream::VIDEO, (kind::VIDEO, stream_id, timestamp), parts);
    }

    /// Likewise an audio message.
    pub(super) fn audio(&mut self, stream_id: u32, timestamp: u32, parts: &[&[u8]]) {
        self.writer.write(&mut self.out, chunk_stream::AUDIO, (kind::AUDIO, stream_id, timestamp), parts);
    }

    /// What is to be sent.
    pub(super) fn output(&self) -> &[u8] {
        self.out.get(self.out_sent..).unwrap_or_default()
    }

    /// So many bytes of it went out.
    pub(super) fn sent(&mut self, count: usize) {
        self.out_sent += count;
        if self.out_sent >= self.out.len() {
            self.out.clear();
            self.out.shrink_to(OUT_KEPT_BYTES);
            self.out_sent = 0;
        }
    }
}

/// The values of a command; `None` when the message is none.
pub(super) fn command_values(message: &Message) -> Result<Option<Vec<Value>>, RtmpError> {
    let payload = match message.kind {
        kind::COMMAND_AMF0 => &message.payload[..],
        // A byte that says "AMF 0 follows" comes first.
        kind::COMMAND_AMF3 => message.payload.get(1..).unwrap_or_default(),
        _ => return Ok(None),
    };
    if payload.len() > COMMAND_BYTES_MAX {
        return Err(RtmpError::Malformed("command: it is too long"));
    }
    Ok(Some(amf0::decode(payload)?))
}

/// The values of a data message; `None` when the message is none, or cannot be read: nothing depends on it.
pub(super) fn data_values(message: &Message) -> Option<Vec<Value>> {
    let payload = match message.kind {
        kind::DATA_AMF0 => &message.payload[..],
        kind::DATA_AMF3 => message.payload.get(1..).unwrap_or_default(),
        _ => return None,
    };
    amf0::decode(Some(payload).filter(|payload| payload.len() <= COMMAND_BYTES_MAX)?).ok()
}
