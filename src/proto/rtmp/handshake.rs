//! The handshake (RTMP section 5.2), in its simple form and in the one with digests that Flash Media Server uses since
//! version 3: some encoders and players check ours, and ffmpeg does.
//!
//! The digest proves nothing, as its keys are known to all; so a wrong one is no reason to refuse, and the simple form
//! is then answered.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::RtmpError;

/// The version byte that begins each direction.
const VERSION: u8 = 3;
/// Bytes of C1, C2, S1 and S2.
pub const PART_BYTES: usize = 1536;
/// Random bytes that a handshake needs.
pub const RANDOM_BYTES: usize = 2 * PART_BYTES;
const DIGEST_BYTES: usize = 32;
/// A digest lies within so many bytes after the four that tell where.
const OFFSETS: usize = 728;
/// Where those four stand in each scheme.
const OFFSET_AT: [usize; 2] = [8, 772];

/// What the client signs C1 with.
const CLIENT_KEY: &[u8] = b"Genuine Adobe Flash Player 001";
/// What the server signs S1 with; followed by [`KEY_TAIL`] it makes the key of S2.
const SERVER_KEY: &[u8] = b"Genuine Adobe Flash Media Server 001";
const KEY_TAIL: [u8; 32] = [
    0xF0, 0xEE, 0xC2, 0x4A, 0x80, 0x68, 0xBE, 0xE8, 0x2E, 0x00, 0xD0, 0xD1, 0x02, 0x9E, 0x7E, 0x57, 0x6E,
    0xEC, 0x5D, 0x2D, 0x29, 0x80, 0x6F, 0xAB, 0x93, 0xB8, 0xE6, 0x36, 0xCF, 0xEB, 0x31, 0xAE,
];
/// The version that stands in S1 with a digest: not zero, which would say that there is none.
const SERVER_VERSION: [u8; 4] = [4, 5, 0, 1];

type Part = [u8; PART_BYTES];
type Digest = [u8; DIGEST_BYTES];

/// One end of a handshake.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    /// What came of the part that is waited for.
    received: Vec<u8>,
    random: Box<[u8; RANDOM_BYTES]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The server waits for C0 and C1.
    Hello,
    /// The client waits for S0, S1 and S2.
    Answer,
    /// The server waits for C2.
    Echo,
    Done,
}

impl Handshake {
    /// The server's end, which speaks second.
    #[must_use]
    pub fn server(random: Box<[u8; RANDOM_BYTES]>) -> Self {
        Self { state: State::Hello, received: Vec::new(), random }
    }

    /// The client's end, in the simple form; C0 and C1 are appended to `out`.
    #[must_use]
    pub fn client(random: Box<[u8; RANDOM_BYTES]>, out: &mut Vec<u8>) -> Self {
        out.push(VERSION);
        // Time and version: zero, which says that there is no digest.
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(random.get(..PART_BYTES - 8).unwrap_or_default());
        Self { state: State::Answer, received: Vec::new(), random }
    }

    /// Whether it is over, and what follows is the chunk stream.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes from `input` what belongs to the handshake; answers are appended to `out`.
    ///
    /// # Errors
    /// When the other end speaks another version.
    pub fn handle(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), RtmpError> {
        while self.state != State::Done {
            let wanted = match self.state {
                State::Hello => 1 + PART_BYTES,
                State::Answer => 1 + 2 * PART_BYTES,
                State::Echo | State::Done => PART_BYTES,
            };
            let lacking = wanted - self.received.len();
            let (taken, rest) = input.split_at_checked(lacking).unwrap_or((input, &[]));
            self.received.extend_from_slice(taken);
            *input = rest;
            let version = self.received.first().copied().filter(|_| self.state != State::Echo);
            if let Some(version) = version.filter(|&version| version != VERSION) {
                return Err(RtmpError::Version(version));
            }
            if self.received.len() < wanted {
                return Ok(());
            }
            let received = std::mem::take(&mut self.received);
            let first = received.get(1..=PART_BYTES).and_then(|part| Part::try_from(part).ok());
            self.state = match (self.state, first) {
                (State::Hello, Some(c1)) => {
                    self.answer(&c1, out);
                    State::Echo
                }
                (State::Answer, Some(s1)) => {
                    out.extend_from_slice(&s1);
                    State::Done
                }
                // What the client echoes matters to nobody.
                (_, _) => State::Done,
            };
        }
        Ok(())
    }

    /// S0, S1 and S2 for this C1.
    fn answer(&self, c1: &Part, out: &mut Vec<u8>) {
        let (mut s1, mut s2) = ([0; PART_BYTES], [0; PART_BYTES]);
        let (random_1, random_2) = self.random.split_at(PART_BYTES);
        s1.copy_from_slice(random_1);
        let has_version = c1.get(4..8) != Some(&[0; 4]);
        match find_digest(c1, CLIENT_KEY).filter(|_| has_version) {
            Some((scheme, client_digest)) => {
                overwrite(&mut s1, 0, &[0; 4]);
                overwrite(&mut s1, 4, &SERVER_VERSION);
                let at = digest_at(&s1, scheme);
                let digest = part_digest(&s1, at, SERVER_KEY);
                overwrite(&mut s1, at, &digest);
                s2.copy_from_slice(random_2);
                let key = hmac(&[SERVER_KEY, &KEY_TAIL].concat(), &[&client_digest]);
                let signed = PART_BYTES - DIGEST_BYTES;
                let signature = hmac(&key, &[s2.get(..signed).unwrap_or_default()]);
                overwrite(&mut s2, signed, &signature);
            }
            None => {
                overwrite(&mut s1, 0, &[0; 8]);
                s2 = *c1;
            }
        }
        out.push(VERSION);
        out.extend_from_slice(&s1);
        out.extend_from_slice(&s2);
    }
}

fn overwrite(part: &mut Part, at: usize, bytes: &[u8]) {
    if let Some(place) = part.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Where the digest stands in a part, by one of the two schemes.
fn digest_at(part: &Part, scheme: usize) -> usize {
    let said_at = OFFSET_AT.get(scheme).copied().unwrap_or_default();
    let said = part.get(said_at..said_at + 4).unwrap_or_default();
    let sum: usize = said.iter().map(|&byte| usize::from(byte)).sum();
    said_at + 4 + sum % OFFSETS
}

/// The digest of everything in a part but the digest itself.
fn part_digest(part: &Part, at: usize, key: &[u8]) -> Digest {
    let before = part.get(..at).unwrap_or_default();
    let after = part.get(at + DIGEST_BYTES..).unwrap_or_default();
    hmac(key, &[before, after])
}

/// By which scheme a part has its digest, and the digest; `None` when it has none.
fn find_digest(part: &Part, key: &[u8]) -> Option<(usize, Digest)> {
    (0..OFFSET_AT.len()).find_map(|scheme| {
        let at = digest_at(part, scheme);
        let digest = part_digest(part, at, key);
        (part.get(at..at + DIGEST_BYTES) == Some(&digest)).then_some((scheme, digest))
    })
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Digest {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; DIGEST_BYTES] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u8) -> Box<[u8; RANDOM_BYTES]> {
        Box::new(std::array::from_fn(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)))
    }

    /// C1 as a player with digests makes it.
    fn signed_c1(scheme: usize) -> Part {
        let mut c1: Part = std::array::from_fn(|n| (n % 251) as u8);
        c1[4..8].copy_from_slice(&[9, 0, 124, 2]);
        let at = digest_at(&c1, scheme);
        let digest = part_digest(&c1, at, CLIENT_KEY);
        c1[at..at + 32].copy_from_slice(&digest);
        c1
    }

    #[test]
    fn both_ends_agree_however_the_bytes_are_cut() {
        for step in [1, 7, 1536, 1537, 10_000] {
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            let mut client = Handshake::client(random(1), &mut to_server);
            let mut server = Handshake::server(random(2));
            let feed = |end: &mut Handshake, bytes: &[u8], out: &mut Vec<u8>| {
                for mut piece in bytes.chunks(step) {
                    end.handle(&mut piece, out).unwrap();
                    assert!(piece.is_empty());
                }
            };
            feed(&mut server, &std::mem::take(&mut to_server), &mut to_client);
            assert_eq!(to_client.len(), 1 + 2 * PART_BYTES);
            feed(&mut client, &to_client, &mut to_server);
            assert!(client.is_done() && !server.is_done());
            assert_eq!(to_server, to_client[1..=PART_BYTES], "the client echoes");
            to_server.extend(b"chunk");
            let mut rest = to_server.as_slice();
            server.handle(&mut rest, &mut Vec::new()).unwrap();
            assert!(server.is_done() && rest == b"chunk", "what follows is left");
        }
    }

    #[test]
    fn a_digest_is_answered_by_one_of_the_same_scheme_and_a_signature() {
        for scheme in [0, 1] {
            let c1 = signed_c1(scheme);
            let mut out = Vec::new();
            let hello = [&[3], c1.as_slice()].concat();
            Handshake::server(random(5)).handle(&mut hello.as_slice(), &mut out).unwrap();
            let s1 = Part::try_from(&out[1..=PART_BYTES]).unwrap();
            let s2 = &out[1 + PART_BYTES..];
            assert_eq!(find_digest(&s1, SERVER_KEY).unwrap().0, scheme);
            let key = hmac(&[SERVER_KEY, &KEY_TAIL].concat(), &[&find_digest(&c1, CLIENT_KEY).unwrap().1]);
            assert_eq!(s2[PART_BYTES - 32..], hmac(&key, &[&s2[..PART_BYTES - 32]]));
        }
    }

    #[test]
    fn a_wrong_digest_is_answered_in_the_simple_form() {
        let mut c1 = signed_c1(0);
        c1[1000] ^= 1;
        let mut out = Vec::new();
        let hello = [&[3], c1.as_slice()].concat();
        Handshake::server(random(5)).handle(&mut hello.as_slice(), &mut out).unwrap();
        assert_eq!((&out[5..9], &out[1 + PART_BYTES..]), ([0; 4].as_slice(), c1.as_slice()));
    }

    #[test]
    fn another_version_is_refused_by_its_first_byte() {
        for byte in [6, b'G', 0x16] {
            let refused = Handshake::server(random(0)).handle(&mut [byte].as_slice(), &mut Vec::new());
            assert_eq!(refused, Err(RtmpError::Version(byte)));
        }
    }
}
