//! The body of a request: collected up to a bound, by length or by chunks (RFC 9112 sections 6 and 7.1).
//!
//! Pure: it is given bytes as they come and says how many of them belong to the body.

use super::RequestError;
use super::head::BodyLength;

/// Longest line that gives a chunk's length, extensions included.
const SIZE_LINE_BYTES_MAX: usize = 256;
/// Most bytes of header fields after the last chunk; they are read over.
const TRAILER_BYTES_MAX: usize = 4096;

/// Collects one body.
#[derive(Debug)]
pub struct BodyCollector {
    state: State,
    body: Vec<u8>,
    bytes_max: usize,
}

#[derive(Debug)]
enum State {
    /// So many bytes are missing of a body of known length.
    Fixed(usize),
    /// In the line that gives a chunk's length.
    SizeLine(Vec<u8>),
    /// So many bytes are missing of a chunk.
    Chunk(usize),
    /// At the line end after a chunk; `true`: its CR was read.
    ChunkEnd(bool),
    /// After the last chunk: bytes of trailers so far, and whether the present line is empty up to here.
    Trailers {
        bytes: usize,
        line: Vec<u8>,
    },
    Done,
}

impl BodyCollector {
    /// A collector of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When the length that the head gives is already too much.
    pub fn new(length: BodyLength, bytes_max: usize) -> Result<Self, RequestError> {
        let state = match length {
            BodyLength::Fixed(0) => State::Done,
            BodyLength::Fixed(length) => match usize::try_from(length) {
                Ok(length) if length <= bytes_max => State::Fixed(length),
                _ => return Err(RequestError::BodyTooLarge),
            },
            BodyLength::Chunked => State::SizeLine(Vec::new()),
        };
        Ok(Self { state, body: Vec::new(), bytes_max })
    }

    /// Whether the body is whole.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The body.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Takes what belongs to the body from the front of `input`; returns how many bytes that were. What is left is the
    /// beginning of the next request.
    ///
    /// # Errors
    /// When the chunks are malformed or the body is too large.
    pub fn push(&mut self, input: &[u8]) -> Result<usize, RequestError> {
        let mut rest = input;
        loop {
            match &mut self.state {
                State::Done => break,
                State::Fixed(missing) => {
                    let (taken, after) = rest.split_at((*missing).min(rest.len()));
                    self.body.extend_from_slice(taken);
                    *missing -= taken.len();
                    rest = after;
                    if *missing > 0 {
                        break;
                    }
                    self.state = State::Done;
                }
                State::Chunk(missing) => {
                    let (taken, after) = rest.split_at((*missing).min(rest.len()));
                    self.body.extend_from_slice(taken);
                    *missing -= taken.len();
                    rest = after;
                    if *missing > 0 {
                        break;
                    }
                    self.state = State::ChunkEnd(false);
                }
                _ => {
                    let Some((byte, after)) = rest.split_first() else { break };
                    rest = after;
                    self.push_framing(*byte)?;
                }
            }
        }
        Ok(input.len() - rest.len())
    }

    /// Takes one byte of what stands between chunks.
    fn push_framing(&mut self, byte: u8) -> Result<(), RequestError> {
        match &mut self.state {
            State::SizeLine(line) => {
                line.push(byte);
                if let Some(line) = line.strip_suffix(b"\r\n") {
                    let size = chunk_size(line)?;
                    if size > self.bytes_max - self.body.len() {
                        return Err(RequestError::BodyTooLarge);
                    }
                    self.state = match size {
                        0 => State::Trailers { bytes: 0, line: Vec::new() },
                        size => State::Chunk(size),
                    };
                } else if byte == b'\n' || line.len() >= SIZE_LINE_BYTES_MAX {
                    return Err(RequestError::Malformed("chunk size"));
                }
            }
            State::ChunkEnd(after_cr) => match (byte, *after_cr) {
                (b'\r', false) => *after_cr = true,
                (b'\n', true) => self.state = State::SizeLine(Vec::new()),
                _ => return Err(RequestError::Malformed("chunk end")),
            },
            State::Trailers { bytes, line } => {
                *bytes += 1;
                line.push(byte);
                if line == b"\r\n" {
                    self.state = State::Done;
                } else if byte == b'\n' {
                    line.clear();
                } else if *bytes >= TRAILER_BYTES_MAX {
                    return Err(RequestError::HeadTooLarge);
                }
            }
            State::Fixed(_) | State::Chunk(_) | State::Done => {}
        }
        Ok(())
    }
}

/// Reads the line before a chunk, without its line end: a hexadecimal length, then extensions that nobody knows.
fn chunk_size(line: &[u8]) -> Result<usize, RequestError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    // 64 bits have sixteen digits; more would be leading zeros, which nobody needs.
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(RequestError::Malformed("chunk size"));
    }
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    let size = u64::from_str_radix(digits, 16).map_err(|_| RequestError::Malformed("chunk size"))?;
    usize::try_from(size).map_err(|_| RequestError::BodyTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `step` bytes; returns the body and what was left over.
    fn collect(length: BodyLength, input: &[u8], step: usize) -> Result<(Vec<u8>, usize), RequestError> {
        let mut collector = BodyCollector::new(length, 100)?;
        let mut at = 0;
        while at < input.len() && !collector.is_done() {
            let piece = &input[at..(at + step).min(input.len())];
            at += collector.push(piece)?;
        }
        assert!(collector.is_done(), "incomplete");
        Ok((collector.into_body(), input.len() - at))
    }

    #[test]
    fn a_body_is_the_same_however_it_was_cut_and_what_follows_is_left() {
        let chunked =
            b"4\r\nWiki\r\n6;x=\"y\"\r\npedia \r\nE \r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\nGET /";
        for step in 1..=chunked.len() {
            let (body, left) = collect(BodyLength::Chunked, chunked, step).unwrap();
            assert_eq!(body, b"Wikipedia in \r\n\r\nchunks.");
            assert_eq!(left, 5);
            assert_eq!(collect(BodyLength::Fixed(4), b"WikiGET /", step).unwrap(), (b"Wiki".to_vec(), 5));
        }
        assert_eq!(collect(BodyLength::Fixed(0), b"GET /", 3).unwrap(), (Vec::new(), 5));
    }

    #[test]
    fn chunks_that_could_be_read_in_two_ways_are_refused() {
        for input in [
            &b"4\nWiki\r\n0\r\n\r\n"[..],
            b"4\r\nWiki0\r\n\r\n",
            b"4\r\nWiki\n0\r\n\r\n",
            b"+4\r\nWiki\r\n0\r\n\r\n",
            b"0x4\r\nWiki\r\n0\r\n\r\n",
            b"\r\n",
            b"11111111111111111\r\n",
        ] {
            let refused = collect(BodyLength::Chunked, input, 1);
            assert!(matches!(refused, Err(RequestError::Malformed(_))), "{refused:?}");
        }
    }

    #[test]
    fn too_much_is_refused_before_it_is_kept() {
        assert_eq!(collect(BodyLength::Fixed(101), b"", 1), Err(RequestError::BodyTooLarge));
        assert_eq!(collect(BodyLength::Fixed(u64::MAX), b"", 1), Err(RequestError::BodyTooLarge));
        let sixty = format!("3c\r\n{}\r\n", "x".repeat(60)).repeat(2);
        assert_eq!(collect(BodyLength::Chunked, sixty.as_bytes(), 7), Err(RequestError::BodyTooLarge));
        let huge = b"ffffffffffffffff\r\n";
        assert_eq!(collect(BodyLength::Chunked, huge, 7), Err(RequestError::BodyTooLarge));
        let line = [b"1;".as_slice(), &[b'x'; 300]].concat();
        assert!(matches!(collect(BodyLength::Chunked, &line, 300), Err(RequestError::Malformed(_))));
        let trailers = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(1000)].concat();
        assert_eq!(collect(BodyLength::Chunked, &trailers, 999), Err(RequestError::HeadTooLarge));
        let line = [b"0\r\n".as_slice(), &[b'x'; 5000]].concat();
        assert_eq!(collect(BodyLength::Chunked, &line, 999), Err(RequestError::HeadTooLarge));
    }
}
