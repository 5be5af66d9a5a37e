use proptest::prelude::*;

use super::*;
use crate::base::clock::Clock;

/// Chunk stream's time, type, message stream and payload, in that order of fields.
type Message = (u8, u32, u32, Vec<u8>);

/// All messages of these bytes, given in pieces of `step`.
fn read(bytes: &[u8], step: usize) -> Result<Vec<Message>, RtmpError> {
    let mut reader = ChunkReader::new();
    read_with(&mut reader, bytes, step)
}

fn read_with(reader: &mut ChunkReader, bytes: &[u8], step: usize) -> Result<Vec<Message>, RtmpError> {
    let now = Clock::manual().now();
    let mut messages = Vec::new();
    for mut piece in bytes.chunks(step) {
        while let Some(message) = reader.next(&mut piece, now)? {
            if message.kind == kind::SET_CHUNK_SIZE {
                reader.set_chunk_size(u32::from_be_bytes(message.payload[..].try_into().unwrap()))?;
            }
            messages.push((message.kind, message.stream_id, message.timestamp, message.payload.to_vec()));
        }
        assert!(piece.is_empty());
    }
    Ok(messages)
}

/// A header of format 0 on chunk stream 4, of a video message on stream 1.
fn first(time: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![4];
    bytes.extend(&time.to_be_bytes()[1..]);
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend([kind::VIDEO, 1, 0, 0, 0]);
    bytes
}

#[test]
fn each_format_of_header_takes_over_what_it_does_not_say() {
    let mut bytes = first(1000, 3);
    bytes.extend(b"abc");
    // Format 1: a difference, another length and type.
    bytes.extend([0x44, 0, 0, 40, 0, 0, 2, kind::AUDIO]);
    bytes.extend(b"de");
    // Format 2: another difference alone.
    bytes.extend([0x84, 0, 0, 20]);
    bytes.extend(b"fg");
    // Format 3: all as before, the difference too.
    bytes.extend([0xC4]);
    bytes.extend(b"hi");
    for step in 1..bytes.len() {
        let messages = read(&bytes, step).unwrap();
        let expected = [
            (kind::VIDEO, 1, 1000, b"abc".to_vec()),
            (kind::AUDIO, 1, 1040, b"de".to_vec()),
            (kind::AUDIO, 1, 1060, b"fg".to_vec()),
            (kind::AUDIO, 1, 1080, b"hi".to_vec()),
        ];
        assert_eq!(messages, expected, "pieces of {step}");
    }
}

#[test]
fn a_header_of_format_3_after_one_of_format_0_adds_the_timestamp_itself() {
    let mut bytes = first(23, 1);
    bytes.extend([b'a', 0xC4, b'b']);
    let times: Vec<u32> = read(&bytes, 100).unwrap().iter().map(|message| message.2).collect();
    assert_eq!(times, [23, 46]);
}

#[test]
fn chunk_streams_take_turns_and_their_numbers_have_three_forms() {
    let mut bytes = first(0, 200);
    bytes.extend([1; 128]);
    // Chunk stream 64 + 10, in the middle of the first message.
    bytes.extend([0, 10, 0, 0, 5, 0, 0, 1, kind::AUDIO, 1, 0, 0, 0, b'x']);
    // Chunk stream 64 + 10 + 256 * 2.
    bytes.extend([1, 10, 2, 0, 0, 6, 0, 0, 1, kind::AUDIO, 1, 0, 0, 0, b'y']);
    bytes.push(0xC4);
    bytes.extend([2; 72]);
    for step in [1, 2, 3, 7, 1000] {
        let messages = read(&bytes, step).unwrap();
        assert_eq!(messages.iter().map(|message| message.2).collect::<Vec<_>>(), [5, 6, 0]);
        assert_eq!(messages[2].3, [[1; 128].as_slice(), &[2; 72]].concat());
    }
}

#[test]
fn an_extended_timestamp_is_read_whether_later_chunks_repeat_it_or_not() {
    let time = 0x0102_0304_u32;
    for repeats in [true, false] {
        let mut bytes = first(EXTENDED, 300);
        bytes.extend(time.to_be_bytes());
        for (count, value) in [(128, 7), (128, 8), (44, 1)] {
            if value != 7 {
                bytes.push(0xC4);
                if repeats {
                    bytes.extend(time.to_be_bytes());
                }
            }
            // The last chunk begins like the timestamp, and goes on in another way.
            bytes.extend([value].repeat(count));
        }
        bytes.extend(first(9, 1));
        bytes.push(b'z');
        for step in [1, 2, 3, 5, 1000] {
            let messages = read(&bytes, step).unwrap();
            assert_eq!((messages[0].2, messages[0].3.len()), (time, 300), "{repeats} {step}");
            assert_eq!((messages[0].3[128], messages[0].3[256]), (8, 1));
            assert_eq!((messages[1].2, messages[1].3.as_slice()), (9, b"z".as_slice()));
        }
    }
}

#[test]
fn time_wraps() {
    let mut bytes = first(EXTENDED, 1);
    bytes.extend(0xFFFF_FFF0_u32.to_be_bytes());
    bytes.push(b'a');
    bytes.extend([0x84, 0, 0, 0x20, b'b']);
    let times: Vec<u32> = read(&bytes, 1).unwrap().iter().map(|message| message.2).collect();
    assert_eq!(times, [0xFFFF_FFF0, 0x10]);
}

#[test]
fn the_chunk_size_may_be_one_byte_and_as_large_as_it_likes_but_not_zero() {
    let set = |size: u32| {
        let mut bytes = vec![2, 0, 0, 0, 0, 0, 4, kind::SET_CHUNK_SIZE, 0, 0, 0, 0];
        bytes.extend(size.to_be_bytes());
        bytes
    };
    let mut bytes = set(1);
    bytes.extend(first(0, 3));
    bytes.extend([b'a', 0xC4, b'b', 0xC4, b'c']);
    bytes.extend([0xC4, b'd', 0xC4, b'e', 0xC4, b'f']);
    assert_eq!(read(&bytes, 2).unwrap()[2].3, b"def");
    let mut bytes = set(i32::MAX as u32);
    bytes.extend(first(0, 10_000));
    bytes.extend([9; 10_000]);
    assert_eq!(read(&bytes, 777).unwrap()[1].3.len(), 10_000);
    assert_eq!(read(&set(0), 100), Err(RtmpError::ChunkSize(0)));
    assert_eq!(read(&set(0x8000_0000), 100), Err(RtmpError::ChunkSize(0x8000_0000)));
}

#[test]
fn lies_about_sizes_are_refused_before_anything_is_allocated() {
    assert_eq!(read(&first(0, 0xFF_FFFF), 100), Err(RtmpError::MessageTooLarge(0xFF_FFFF)));
    // Many messages begun, none ended: what they claim is bounded together.
    let mut bytes = Vec::new();
    for id in 3..60_u8 {
        let mut header = first(0, 1024 * 1024);
        header[0] = id;
        bytes.extend(header);
        bytes.extend([0; 128]);
    }
    assert_eq!(read(&bytes, 1000), Err(RtmpError::TooMuchUnfinished));
    let mut bytes = Vec::new();
    for id in 3..60_u8 {
        let mut header = first(0, 1);
        header[0] = id;
        bytes.extend(header);
        bytes.push(0);
    }
    assert_eq!(read(&bytes, 1000), Err(RtmpError::TooManyChunkStreams));
}

#[test]
fn headers_that_refer_to_nothing_or_interrupt_a_message_are_refused() {
    assert_eq!(read(&[0xC4], 1), Err(RtmpError::NoHeader));
    assert_eq!(read(&[0x84, 0, 0, 1], 1), Err(RtmpError::NoHeader));
    let mut bytes = first(0, 200);
    bytes.extend([0; 128]);
    bytes.extend(first(0, 1));
    assert_eq!(read(&bytes, 50), Err(RtmpError::Interrupted));
}

#[test]
fn an_aborted_message_is_forgotten_and_its_room_given_back() {
    let mut reader = ChunkReader::new();
    for _ in 0..10 {
        let mut bytes = first(0, MESSAGE_BYTES_MAX as u32);
        bytes.extend([0; 128]);
        assert_eq!(read_with(&mut reader, &bytes, 64).unwrap(), []);
        reader.abort(4);
    }
    reader.abort(99);
    let mut bytes = first(0, 1);
    bytes.push(b'a');
    assert_eq!(read_with(&mut reader, &bytes, 64).unwrap().len(), 1);
    assert_eq!(reader.unfinished_bytes, 0);
}

#[test]
fn an_empty_message_is_a_message() {
    assert_eq!(read(&first(7, 0), 1).unwrap(), [(kind::VIDEO, 1, 7, Vec::new())]);
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_however_it_is_cut(
        messages in prop::collection::vec(
            (3_u8..20, any::<u32>(), prop::collection::vec(any::<u8>(), 0..700)), 1..8),
        chunk in 1_usize..300,
        step in 1_usize..400,
        split in 0_usize..700,
    ) {
        let mut writer = ChunkWriter::new();
        let mut bytes = Vec::new();
        writer.write(&mut bytes, 2, (kind::SET_CHUNK_SIZE, 0, 0), &[&(chunk as u32).to_be_bytes()]);
        writer.set_chunk_size(chunk);
        for (id, time, payload) in &messages {
            let (one, two) = payload.split_at(split.min(payload.len()));
            writer.write(&mut bytes, *id, (kind::VIDEO, 1, *time), &[one, two]);
        }
        let read = read(&bytes, step).unwrap();
        prop_assert_eq!(read.len(), messages.len() + 1);
        for (read, (_, time, payload)) in read[1..].iter().zip(&messages) {
            prop_assert_eq!((read.2, &read.3), (*time, payload));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_its_bounds(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut reader = ChunkReader::new();
        let _ = read_with(&mut reader, &bytes, 13);
        prop_assert!(reader.unfinished_bytes <= UNFINISHED_BYTES_MAX && reader.held.len() <= 18);
    }
}
