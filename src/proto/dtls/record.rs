//! Looking at DTLS records (RFC 6347 section 4.1) before the handshake machine sees them.
//!
//! The machine trusts more than it should: it ends a handshake over a forged alert or a damaged record, and keeps
//! fragments without looking at their sizes. Only what can be part of a handshake passes here. Records in clear get
//! sequence numbers of our own, one for each fragment: the machine mistakes the size of a fragment that shares its
//! record with another, and a replay window over numbers that anyone can write protects nothing.

/// Bytes of a record's header.
const HEADER_BYTES: usize = 13;
/// Bytes of the header of a handshake fragment (RFC 6347 section 4.2.2).
const FRAGMENT_HEADER_BYTES: usize = 12;
/// Largest handshake message. Certificates of browsers have some 300 bytes; chains with RSA keys a few thousand.
const MESSAGE_MAX_BYTES: u32 = 16 * 1024;
/// Highest number of a handshake message. The last of a client is 6 (hello, hello, certificate, key exchange,
/// verification, finished), that of a server 7.
const MESSAGE_SEQUENCE_MAX: u16 = 15;
/// Shortest encrypted record: an authentication tag and a byte.
const ENCRYPTED_MIN_BYTES: usize = 17;

/// What a record carries (RFC 5246 section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// Keys change with the next record.
    ChangeCipherSpec,
    /// Something is over.
    Alert,
    /// Part of a handshake.
    Handshake,
    /// Data, of which WebRTC without data channels has none.
    ApplicationData,
}

/// One record whose lengths are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it carries.
    pub content_type: ContentType,
    /// 0 in clear, 1 encrypted.
    pub epoch: u16,
    /// What it carries, encrypted from epoch 1 on.
    pub body: &'a [u8],
    /// Header and body.
    pub bytes: &'a [u8],
}

/// Splits a datagram into records; ends at the first that is malformed, because what follows cannot be found.
#[must_use]
pub fn records(datagram: &[u8]) -> Records<'_> {
    Records { rest: datagram }
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (header, after) = self.rest.split_first_chunk::<HEADER_BYTES>()?;
        let [kind, major, _, e0, e1, .., l0, l1] = *header;
        let content_type = match kind {
            20 => ContentType::ChangeCipherSpec,
            21 => ContentType::Alert,
            22 => ContentType::Handshake,
            23 => ContentType::ApplicationData,
            _ => return None,
        };
        let size = usize::from(u16::from_be_bytes([l0, l1]));
        let body = after.get(..size).filter(|_| major == 0xFE)?;
        let (bytes, rest) = self.rest.split_at_checked(HEADER_BYTES + size)?;
        self.rest = rest;
        Some(Record { content_type, epoch: u16::from_be_bytes([e0, e1]), body, bytes })
    }
}

/// Lets through what can be part of a handshake.
#[derive(Debug, Default)]
pub struct Sieve {
    /// Number for the next record in clear.
    sequence: u64,
}

/// What a [`Sieve`] made of a datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sifted {
    /// Records for the handshake machine, as one datagram; empty when none are left.
    pub kept: Vec<u8>,
    /// How many records those are.
    pub records: usize,
    /// Records that were left out, and remains that are no record.
    pub refused: usize,
}

impl Sieve {
    /// Sifts a datagram.
    pub fn sift(&mut self, datagram: &[u8]) -> Sifted {
        let mut sifted = Sifted::default();
        let mut seen = 0;
        for record in records(datagram) {
            seen += record.bytes.len();
            let before = sifted.records;
            match (record.epoch, record.content_type) {
                (0, ContentType::Handshake) => self.fragments(record, &mut sifted),
                (0, ContentType::ChangeCipherSpec) if record.body == [1] => {
                    self.keep_clear(record, record.body, &mut sifted);
                }
                // Alerts in clear are anybody's.
                (1, ContentType::Handshake | ContentType::Alert)
                    if record.body.len() >= ENCRYPTED_MIN_BYTES =>
                {
                    sifted.kept.extend_from_slice(record.bytes);
                    sifted.records += 1;
                }
                _ => {}
            }
            if sifted.records == before {
                sifted.refused += 1;
            }
        }
        if seen < datagram.len() {
            sifted.refused += 1;
        }
        sifted
    }

    /// Keeps each fragment of a handshake record in a record of its own.
    fn fragments(&mut self, record: Record<'_>, sifted: &mut Sifted) {
        let mut rest = record.body;
        while let Some((&[_, l0, l1, l2, s0, s1, o0, o1, o2, f0, f1, f2], _)) =
            rest.split_first_chunk::<FRAGMENT_HEADER_BYTES>()
        {
            let length = u32::from_be_bytes([0, l0, l1, l2]);
            let offset = u32::from_be_bytes([0, o0, o1, o2]);
            let size = u32::from_be_bytes([0, f0, f1, f2]);
            let sequence = u16::from_be_bytes([s0, s1]);
            let fits = offset.checked_add(size).is_some_and(|end| end <= length)
                && length <= MESSAGE_MAX_BYTES
                && (size > 0 || length == 0)
                && sequence <= MESSAGE_SEQUENCE_MAX;
            let whole = FRAGMENT_HEADER_BYTES + usize::try_from(size).unwrap_or(usize::MAX);
            match rest.split_at_checked(whole).filter(|_| fits) {
                Some((fragment, after)) => {
                    self.keep_clear(record, fragment, sifted);
                    rest = after;
                }
                // Nothing behind a damaged fragment can be found.
                None => return,
            }
        }
    }

    fn keep_clear(&mut self, record: Record<'_>, body: &[u8], sifted: &mut Sifted) {
        let Some(&[kind, major, minor, ..]) = record.bytes.first_chunk::<3>() else { return };
        // Six bytes of sequence number behind two of the epoch, which is 0; the body came in a record.
        let size = u16::try_from(body.len()).unwrap_or(u16::MAX);
        sifted.kept.extend_from_slice(&[kind, major, minor]);
        sifted.kept.extend_from_slice(&self.sequence.to_be_bytes());
        sifted.kept.extend_from_slice(&size.to_be_bytes());
        sifted.kept.extend_from_slice(body);
        sifted.records += 1;
        self.sequence += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
        let size = u16::try_from(body.len()).unwrap().to_be_bytes();
        let mut bytes = vec![kind, 0xFE, 0xFD, 0, epoch, 9, 9, 9, 9, 9, 9, size[0], size[1]];
        bytes.extend_from_slice(body);
        bytes
    }

    /// A fragment of a message of `length` bytes.
    fn fragment(length: u32, sequence: u8, offset: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&length.to_be_bytes()[1..]);
        bytes.extend_from_slice(&[0, sequence]);
        bytes.extend_from_slice(&offset.to_be_bytes()[1..]);
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn fragments_that_share_a_record_are_parted() {
        let (one, two) = (fragment(9, 2, 0, b"part"), fragment(3, 3, 0, b"abc"));
        let sifted = Sieve::default().sift(&record(22, 0, &[one.clone(), two.clone()].concat()));
        let kept: Vec<_> = records(&sifted.kept).map(|record| record.body.to_vec()).collect();
        assert_eq!(kept, [one, two]);
        assert_eq!(sifted.kept[3..11], [0; 8], "numbered from 0");
        assert_eq!(sifted.refused, 0);
    }

    #[test]
    fn what_could_end_or_swell_a_handshake_is_left_out() {
        let mut sieve = Sieve::default();
        let mut refused = |datagram: &[u8]| {
            let sifted = sieve.sift(datagram);
            assert!(sifted.kept.is_empty(), "{datagram:?}");
            sifted.refused
        };
        assert_eq!(refused(&record(21, 0, &[2, 40])), 1, "an alert in clear");
        assert_eq!(refused(&record(23, 0, b"data")), 1);
        assert_eq!(refused(&record(23, 1, &[7; 40])), 1, "data that nobody negotiated");
        assert_eq!(refused(&record(20, 0, &[2])), 1);
        assert_eq!(refused(&record(22, 2, &[7; 40])), 1, "an epoch that does not come");
        assert_eq!(refused(&record(22, 1, &[7; 16])), 1, "too short to be encrypted");
        assert_eq!(refused(&record(22, 0, &fragment(0xFF_FFFF, 0, 0, b"x"))), 1, "a huge message");
        assert_eq!(refused(&record(22, 0, &fragment(9, 0, 8, b"xy"))), 1, "a fragment that runs over");
        assert_eq!(refused(&record(22, 0, &fragment(9, 0, 3, b""))), 1, "a fragment of nothing");
        assert_eq!(refused(&record(22, 0, &fragment(2, 16, 0, b"xy"))), 1, "a message that does not come");
        assert_eq!(refused(&record(22, 0, &fragment(9, 0, 0, b"xy")[..13])), 1, "a fragment cut short");
        assert_eq!(refused(&[22, 0xFE, 0xFD, 0, 0]), 1);
        assert_eq!(refused(&[0x16; 400]), 1, "garbage");
        assert_eq!(refused(&record(99, 0, &[])), 1);
    }

    #[test]
    fn good_records_before_garbage_are_kept() {
        let mut datagram = record(22, 0, &fragment(1, 0, 0, b"x"));
        datagram.extend(record(20, 0, &[1]));
        datagram.extend(record(22, 1, &[7; 40]));
        datagram.extend_from_slice(b"garbage");
        let sifted = Sieve::default().sift(&datagram);
        assert_eq!((sifted.records, sifted.refused), (3, 1));
        assert!(sifted.kept.ends_with(&record(22, 1, &[7; 40])), "encrypted records stay as they are");
    }
}
