//! Transport-wide feedback: when each numbered packet arrived, whatever its source
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1).
//!
//! The format alone: what follows from it for a sender is in [`super::sender`].

/// A receiver's clock runs in quarters of a millisecond here.
pub const TICKS_PER_SECOND: i64 = 4000;
/// Ticks in a unit of the reference time: 64 ms.
const TICKS_PER_REFERENCE: i64 = 256;

/// Most packets that one message tells of: 25 MB/s with ten messages a second.
const PACKETS_MAX: usize = 2048;

/// One message: a run of packets, and for each when it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportWideFeedback {
    /// Transport-wide sequence number of the first packet.
    pub first_sequence: u16,
    /// For that packet and those after it: its arrival on the receiver's clock, in ticks of 250 µs; `None`: it has not arrived.
    pub arrivals: Vec<Option<i64>>,
}

/// What a symbol of two bits says of a packet (section 3.1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Missing,
    /// With a time of one byte.
    Small,
    /// With a time of two bytes, signed.
    Large,
}

impl Symbol {
    fn of(bits: u16) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::Missing),
            1 => Some(Self::Small),
            2 => Some(Self::Large),
            // Reserved.
            _ => None,
        }
    }
}

impl TransportWideFeedback {
    /// Reads what stands behind the two sources of the RTCP packet; `None` when it is cut short or uses what is reserved.
    ///
    /// Messages about more packets than anybody has underway are refused: two bytes could ask for room for 8191.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (&[s0, s1, c0, c1, r0, r1, r2, _number], mut rest) = body.split_first_chunk::<8>()?;
        let first_sequence = u16::from_be_bytes([s0, s1]);
        let count = usize::from(u16::from_be_bytes([c0, c1]));
        if count > PACKETS_MAX {
            return None;
        }
        // 24 bits, signed: the shift spreads the sign.
        let reference = i32::from_be_bytes([r0, r1, r2, 0]) >> 8;
        let mut symbols = Vec::new();
        while symbols.len() < count {
            let (chunk, behind) = rest.split_first_chunk::<2>()?;
            rest = behind;
            let chunk = u16::from_be_bytes(*chunk);
            let left = count - symbols.len();
            match (chunk >> 15, chunk >> 14 & 1) {
                (0, _) => {
                    let symbol = Symbol::of(chunk >> 13)?;
                    let run = usize::from(chunk & 0x1FFF);
                    if run == 0 {
                        return None;
                    }
                    symbols.extend(std::iter::repeat_n(symbol, run.min(left)));
                }
                (_, 0) => {
                    let bits = (0..14).rev().map(|bit| Symbol::of(chunk >> bit & 1));
                    for symbol in bits.take(left) {
                        symbols.push(symbol?);
                    }
                }
                _ => {
                    for symbol in (0..7).rev().map(|pair| Symbol::of(chunk >> (2 * pair))).take(left) {
                        symbols.push(symbol?);
                    }
                }
            }
        }
        let mut at = i64::from(reference) * TICKS_PER_REFERENCE;
        let mut arrivals = Vec::with_capacity(count);
        for symbol in symbols {
            let delta = match symbol {
                Symbol::Missing => {
                    arrivals.push(None);
                    continue;
                }
                Symbol::Small => {
                    let (byte, behind) = rest.split_first()?;
                    rest = behind;
                    i64::from(*byte)
                }
                Symbol::Large => {
                    let (bytes, behind) = rest.split_first_chunk::<2>()?;
                    rest = behind;
                    i64::from(i16::from_be_bytes(*bytes))
                }
            };
            at += delta;
            arrivals.push(Some(at));
        }
        Some(Self { first_sequence, arrivals })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(head: [u8; 8], chunks: &[u16], deltas: &[u8]) -> Vec<u8> {
        let chunks = chunks.iter().flat_map(|chunk| chunk.to_be_bytes());
        head.into_iter().chain(chunks).chain(deltas.iter().copied()).collect()
    }

    #[test]
    fn runs_and_vectors_tell_which_packets_arrived_and_when() {
        // 3 that arrived, 2 that did not, then of 14: the first and the last; of the last 3: large, missing, small.
        let vector_of_bits = 1 << 15 | 1 << 13 | 1;
        let vector_of_pairs = 3 << 14 | 2 << 12 | 1 << 8;
        let chunks = [1 << 13 | 3, 2, vector_of_bits, vector_of_pairs];
        let deltas = [4, 0, 8, 40, 255, 0xFF, 0xF0, 1];
        let body = message([0xFF, 0xFE, 0, 22, 0, 0, 2, 9], &chunks, &deltas);
        let feedback = TransportWideFeedback::read(&body).unwrap();
        assert_eq!((feedback.first_sequence, feedback.arrivals.len()), (0xFFFE, 22));
        let seen: Vec<_> =
            feedback.arrivals.iter().enumerate().filter_map(|(n, at)| Some((n, (*at)?))).collect();
        assert_eq!(
            seen,
            [(0, 516), (1, 516), (2, 524), (5, 564), (18, 819), (19, 803), (21, 804)],
            "times add up, and may go back"
        );
    }

    #[test]
    fn a_reference_time_may_be_negative() {
        let body = message([0, 1, 0, 1, 0xFF, 0xFF, 0xFF, 0], &[1 << 13 | 1], &[0]);
        assert_eq!(TransportWideFeedback::read(&body).unwrap().arrivals, [Some(-256)]);
    }

    #[test]
    fn what_is_cut_short_or_reserved_is_refused() {
        let whole = message([0, 1, 0, 3, 0, 0, 0, 0], &[1 << 13 | 3], &[1, 2, 3]);
        assert!(TransportWideFeedback::read(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(TransportWideFeedback::read(&whole[..end]), None, "{end} bytes");
        }
        for chunk in [3 << 13 | 3, 3 << 14 | 3 << 12, 1 << 13] {
            assert_eq!(
                TransportWideFeedback::read(&message([0, 1, 0, 3, 0, 0, 0, 0], &[chunk], &[9; 9])),
                None
            );
        }
        assert!(TransportWideFeedback::read(&message([0; 8], &[], &[])).unwrap().arrivals.is_empty());
        let missing = |count: u16| {
            let [c0, c1] = count.to_be_bytes();
            TransportWideFeedback::read(&message([0, 1, c0, c1, 0, 0, 0, 0], &[0x1FFF; 8], &[]))
        };
        assert_eq!(missing(2048).unwrap().arrivals.len(), 2048);
        assert_eq!(missing(2049), None, "more than can be underway");
    }
}
