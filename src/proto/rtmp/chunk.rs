//! The chunk stream (RTMP section 5.3): messages cut into chunks, which several chunk streams take turns to send.
//!
//! What belongs here: framing both ways. What messages mean belongs in `link` and above.

use std::time::Instant;

use bytes::Bytes;

use super::RtmpError;
use crate::media::h264::assemble::UNIT_BYTES_MAX;

/// Chunk size before anybody says another (section 5.4.1).
pub const CHUNK_BYTES_INITIAL: usize = 128;
/// Largest message that is taken: the largest access unit, and room for its tag. The field could say 16 MiB.
pub const MESSAGE_BYTES_MAX: usize = UNIT_BYTES_MAX + 4096;
/// Most bytes that the unfinished messages of a connection may claim together: one large picture, and sound beside it.
pub const UNFINISHED_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 256 * 1024;
/// Most chunk streams of a connection. Encoders use four or five.
pub const CHUNK_STREAMS_MAX: usize = 32;
/// A timestamp field of this value says that the time stands in an extended one.
const EXTENDED: u32 = 0x00FF_FFFF;

/// `message type id` (sections 5.4 and 7.1).
pub mod kind {
    /// Set Chunk Size.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message.
    pub const ABORT: u8 = 2;
    /// Acknowledgement.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control Message.
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size.
    pub const WINDOW_ACK_SIZE: u8 = 5;
    /// Set Peer Bandwidth.
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// Sound.
    pub const AUDIO: u8 = 8;
    /// Pictures.
    pub const VIDEO: u8 = 9;
    /// Data, AMF 3.
    pub const DATA_AMF3: u8 = 15;
    /// Command, AMF 3.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data, AMF 0.
    pub const DATA_AMF0: u8 = 18;
    /// Command, AMF 0.
    pub const COMMAND_AMF0: u8 = 20;
    /// Several messages in one.
    pub const AGGREGATE: u8 = 22;
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is: one of [`kind`], or something that nobody knows.
    pub kind: u8,
    /// The message stream that it belongs to; 0 is the connection itself.
    pub stream_id: u32,
    /// Milliseconds, modulo 2^32.
    pub timestamp: u32,
    /// When its first byte reached us.
    pub arrived: Instant,
    /// What it carries.
    pub payload: Bytes,
}

/// Puts messages together from chunks.
#[derive(Debug)]
pub struct ChunkReader {
    chunk_bytes: usize,
    streams: Vec<ChunkStream>,
    /// What the unfinished messages claim.
    unfinished_bytes: usize,
    /// The beginning of a header of which the rest has not come.
    held: Vec<u8>,
    /// The chunk being read: its stream's place in `streams`, and the bytes that it still lacks.
    open: Option<(usize, usize)>,
}

#[derive(Debug, Default)]
struct ChunkStream {
    id: u32,
    timestamp: u32,
    delta: u32,
    /// The last header had an extended timestamp of this value.
    extended: Option<u32>,
    length: usize,
    kind: u8,
    stream_id: u32,
    message: Option<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    payload: Vec<u8>,
    arrived: Instant,
}

/// A chunk's header, read.
struct Header {
    /// Bytes of it.
    size: usize,
    id: u32,
    format: u8,
    /// Timestamp (format 0) or difference (1 and 2), extended or not; of format 3 without meaning.
    time: u32,
    extended: Option<u32>,
    length: usize,
    kind: u8,
    stream_id: u32,
}

/// Reads fields one after the other; `None` when the bytes do not reach.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u24(&mut self) -> Option<u32> {
        self.take::<3>().map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }
}

impl ChunkReader {
    /// At the beginning of a chunk stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            chunk_bytes: CHUNK_BYTES_INITIAL,
            streams: Vec::new(),
            unfinished_bytes: 0,
            held: Vec::new(),
            open: None,
        }
    }

    /// The other end says another chunk size (section 5.4.1).
    ///
    /// # Errors
    /// When it is 0 or more than 31 bits.
    pub fn set_chunk_size(&mut self, size: u32) -> Result<(), RtmpError> {
        if size == 0 || size > i32::MAX as u32 {
            return Err(RtmpError::ChunkSize(size));
        }
        // No message is longer; and all arithmetic stays small.
        self.chunk_bytes = usize::try_from(size).unwrap_or(usize::MAX).min(MESSAGE_BYTES_MAX);
        Ok(())
    }

    /// The other end gives the unfinished message of a chunk stream up (section 5.4.2); returns what kind of message it
    /// would have become, `None` when there was none.
    pub fn abort(&mut self, id: u32) -> Option<u8> {
        let stream = self.streams.iter_mut().find(|stream| stream.id == id)?;
        stream.message.take()?;
        self.unfinished_bytes -= stream.length;
        Some(stream.kind)
    }

    /// Reads on until a message is whole or `input` is used up (`None`). `now` is when the bytes came.
    ///
    /// # Errors
    /// When the bytes are no chunk stream, or claim more than is taken; there is no way on then.
    pub fn next(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Message>, RtmpError> {
        loop {
            let message = match self.open.take() {
                Some((place, lacking)) => {
                    let lacking = self.read_payload(place, lacking, input)?;
                    if lacking > 0 {
                        self.open = Some((place, lacking));
                        return Ok(None);
                    }
                    self.finish_if_whole(place)
                }
                None => {
                    let Some(header) = self.read_header(input)? else { return Ok(None) };
                    let place = self.begin(&header, now)?;
                    let stream = self.streams.get(place).ok_or(RtmpError::NoHeader)?;
                    let have = stream.message.as_ref().map_or(0, |message| message.payload.len());
                    self.open = Some((place, (stream.length - have).min(self.chunk_bytes)));
                    continue;
                }
            };
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Copies what is there of a chunk's payload; returns how much it still lacks.
    fn read_payload(&mut self, place: usize, lacking: usize, input: &mut &[u8]) -> Result<usize, RtmpError> {
        let stream = self.streams.get_mut(place).ok_or(RtmpError::NoHeader)?;
        let message = stream.message.as_mut().ok_or(RtmpError::NoHeader)?;
        let of_held = lacking.min(self.held.len());
        message.payload.extend(self.held.drain(..of_held));
        let lacking = lacking - of_held;
        let (taken, rest) = input.split_at_checked(lacking).unwrap_or((input, &[]));
        message.payload.extend_from_slice(taken);
        let lacking = lacking - taken.len();
        *input = rest;
        Ok(lacking)
    }

    fn finish_if_whole(&mut self, place: usize) -> Option<Message> {
        let stream = self.streams.get_mut(place)?;
        let length = stream.length;
        let Unfinished { payload, arrived } =
            stream.message.take_if(|message| message.payload.len() >= length)?;
        self.unfinished_bytes -= length;
        Some(Message {
            kind: stream.kind,
            stream_id: stream.stream_id,
            timestamp: stream.timestamp,
            arrived,
            payload: payload.into(),
        })
    }

    /// The next header, or `None` when it is not whole yet: what came of it is held.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, RtmpError> {
        if self.held.is_empty() {
            return Ok(match self.parse_header(input)? {
                Some(header) => {
                    *input = input.get(header.size..).unwrap_or_default();
                    Some(header)
                }
                None => {
                    self.held.extend_from_slice(input);
                    *input = &[];
                    None
                }
            });
        }
        loop {
            if let Some(header) = self.parse_header(&self.held)? {
                // Something may remain: bytes looked at for an extended timestamp that was none.
                self.held.drain(..header.size.min(self.held.len()));
                return Ok(Some(header));
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            self.held.push(byte);
            *input = rest;
        }
    }

    /// Reads a header (section 5.3.1) from the beginning of these bytes; `None` when they do not reach.
    fn parse_header(&self, bytes: &[u8]) -> Result<Option<Header>, RtmpError> {
        let mut fields = Fields(bytes);
        let Some(first) = fields.u8() else { return Ok(None) };
        let format = first >> 6;
        let id = match first & 0x3F {
            0 => fields.u8().map(|byte| u32::from(byte) + 64),
            1 => fields.take::<2>().map(|bytes| u32::from(u16::from_le_bytes(bytes)) + 64),
            id => Some(u32::from(id)),
        };
        let Some(id) = id else { return Ok(None) };
        let known = self.streams.iter().find(|stream| stream.id == id);
        if format == 3 {
            let known = known.ok_or(RtmpError::NoHeader)?;
            return Ok(repeated_header(known, bytes.len() - fields.0.len(), fields.0));
        }
        // Some libraries begin their first ping with format 1; what it does not say is then 0.
        if known.is_none() && format == 2 {
            return Err(RtmpError::NoHeader);
        }
        let (mut length, mut kind) = known.map_or((0, 0), |known| (known.length, known.kind));
        let mut stream_id = known.map_or(0, |known| known.stream_id);
        let Some(mut time) = fields.u24() else { return Ok(None) };
        if format < 2 {
            let (Some(said_length), Some(said_kind)) = (fields.u24(), fields.u8()) else { return Ok(None) };
            length = usize::try_from(said_length).unwrap_or(usize::MAX);
            kind = said_kind;
        }
        if format == 0 {
            let Some(said) = fields.take::<4>() else { return Ok(None) };
            stream_id = u32::from_le_bytes(said);
        }
        let mut extended = None;
        if time == EXTENDED {
            let Some(said) = fields.take::<4>() else { return Ok(None) };
            time = u32::from_be_bytes(said);
            extended = Some(time);
        }
        let size = bytes.len() - fields.0.len();
        Ok(Some(Header { size, id, format, time, extended, length, kind, stream_id }))
    }

    /// Takes a header into account; returns the place of its chunk stream, which then has an unfinished message.
    fn begin(&mut self, header: &Header, now: Instant) -> Result<usize, RtmpError> {
        let place = match self.streams.iter().position(|stream| stream.id == header.id) {
            Some(place) => place,
            None if self.streams.len() >= CHUNK_STREAMS_MAX => return Err(RtmpError::TooManyChunkStreams),
            None => {
                self.streams.push(ChunkStream { id: header.id, ..ChunkStream::default() });
                self.streams.len() - 1
            }
        };
        let stream = self.streams.get_mut(place).ok_or(RtmpError::NoHeader)?;
        if stream.message.is_some() {
            // Only format 3 goes on with a message.
            return if header.format == 3 { Ok(place) } else { Err(RtmpError::Interrupted) };
        }
        if header.length > MESSAGE_BYTES_MAX {
            return Err(RtmpError::MessageTooLarge(header.length));
        }
        if self.unfinished_bytes + header.length > UNFINISHED_BYTES_MAX {
            return Err(RtmpError::TooMuchUnfinished);
        }
        match header.format {
            0 => stream.timestamp = header.time,
            3 => stream.timestamp = stream.timestamp.wrapping_add(stream.delta),
            _ => stream.timestamp = stream.timestamp.wrapping_add(header.time),
        }
        if header.format != 3 {
            // After format 0 this is the timestamp itself: so it is meant (section 5.3.1.2.4), and so senders write.
            stream.delta = header.time;
            stream.extended = header.extended;
            stream.length = header.length;
            stream.kind = header.kind;
            stream.stream_id = header.stream_id;
        }
        self.unfinished_bytes += header.length;
        stream.message = Some(Unfinished { payload: Vec::with_capacity(header.length), arrived: now });
        Ok(place)
    }
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self::new()
    }
}

/// A header of format 3, of which `size` bytes were read. An extended timestamp is repeated in it (section 5.3.1.3),
/// but by some senders not: it is one when it has the value of the last.
fn repeated_header(known: &ChunkStream, size: usize, rest: &[u8]) -> Option<Header> {
    let mut header = Header {
        size,
        id: known.id,
        format: 3,
        time: 0,
        extended: known.extended,
        length: known.length,
        kind: known.kind,
        stream_id: known.stream_id,
    };
    if let Some(extended) = known.extended {
        let expected = extended.to_be_bytes();
        let seen = rest.get(..4).unwrap_or(rest);
        if expected.starts_with(seen) {
            if seen.len() < 4 {
                return None;
            }
            header.size += 4;
        }
    }
    Some(header)
}

/// Cuts messages into chunks. Each begins with a whole header: eleven bytes more than the shortest form, and nothing
/// that two implementations could understand differently.
#[derive(Debug)]
pub struct ChunkWriter {
    chunk_bytes: usize,
}

impl ChunkWriter {
    /// At the beginning of a chunk stream.
    #[must_use]
    pub fn new() -> Self {
        Self { chunk_bytes: CHUNK_BYTES_INITIAL }
    }

    /// Chunks are of this size from here on; the other end must have been told (and 0 is none).
    pub fn set_chunk_size(&mut self, size: usize) {
        self.chunk_bytes = size.max(1);
    }

    /// Appends a message to `out`. `chunk_stream` is one of 2 to 63; the payload is all `parts` together, which must stay
    /// below 16 MiB.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        chunk_stream: u8,
        (kind, stream_id, timestamp): (u8, u32, u32),
        parts: &[&[u8]],
    ) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let chunks = length / self.chunk_bytes + 1;
        out.reserve(length + 16 + chunks * 5);
        let extended = (timestamp >= EXTENDED).then_some(timestamp.to_be_bytes());
        let [_, time @ ..] = timestamp.min(EXTENDED).to_be_bytes();
        let [_, size @ ..] = u32::try_from(length).unwrap_or(EXTENDED).to_be_bytes();
        out.push(chunk_stream & 0x3F);
        out.extend_from_slice(&time);
        out.extend_from_slice(&size);
        out.push(kind);
        out.extend_from_slice(&stream_id.to_le_bytes());
        out.extend_from_slice(extended.as_ref().map_or(&[], |bytes| bytes));
        let mut room = self.chunk_bytes;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                if room == 0 {
                    out.push(0xC0 | (chunk_stream & 0x3F));
                    out.extend_from_slice(extended.as_ref().map_or(&[], |bytes| bytes));
                    room = self.chunk_bytes;
                }
                let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
                out.extend_from_slice(now);
                room -= now.len();
                rest = later;
            }
        }
    }
}

impl Default for ChunkWriter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
