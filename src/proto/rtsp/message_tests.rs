use proptest::prelude::*;

use super::*;

/// What a reader makes of bytes that come in pieces of this size: one line for each message or frame.
fn read(bytes: &[u8], piece_bytes: usize) -> Result<Vec<String>, Invalid> {
    let mut reader = Reader::new();
    let mut read = Vec::new();
    for piece in bytes.chunks(piece_bytes.max(1)) {
        reader.push(piece);
        while let Some(incoming) = reader.incoming()? {
            read.push(match incoming {
                Incoming::Interleaved { channel, packet } => format!("{channel} {}", packet.len()),
                Incoming::Request(request) => {
                    let method: &str = request.method().into();
                    format!("{method} {} {:?} {}", request.uri(), request.cseq(), request.body().len())
                }
                Incoming::Response(response) => {
                    format!(
                        "{} {} {}",
                        u16::from(response.status()),
                        response.reason(),
                        response.body().len()
                    )
                }
            });
        }
    }
    Ok(read)
}

fn request(bytes: &[u8]) -> Request {
    let mut reader = Reader::new();
    reader.push(bytes);
    match reader.incoming().unwrap().unwrap() {
        Incoming::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pipelined_messages_and_frames_are_told_apart_however_they_are_cut() {
    let mut bytes = b"\r\nOPTIONS rtsp://h/a RTSP/1.0\r\nCSeq: 1\r\n\r\n$\x02\x00\x05hello".to_vec();
    bytes.extend_from_slice(b"ANNOUNCE rtsp://h/a RTSP/1.0\r\nCSeq: 2\r\nContent-Length: 4\r\n\r\nv=0\n");
    bytes.extend_from_slice(b"RTSP/1.0 401 Unauthorized\r\nCSeq: 3\r\n\r\n$\x00\x00\x00");
    let whole = read(&bytes, bytes.len()).unwrap();
    assert_eq!(
        whole,
        ["OPTIONS rtsp://h/a Some(1) 0", "2 5", "ANNOUNCE rtsp://h/a Some(2) 4", "401 Unauthorized 0", "0 0"]
    );
    for piece_bytes in 1..40 {
        assert_eq!(read(&bytes, piece_bytes).unwrap(), whole, "in pieces of {piece_bytes}");
    }
}

#[test]
fn what_cameras_and_encoders_write_is_read() {
    let odd = request(
        b"SETUP rtsp://h/a b/track=1 RTSP/1.0\nCSeq : 7\nnonsense\nTransport:RTP/AVP/TCP;\r\n unicast\nX-\xFF: y\n\
          User-Agent: caf\xE9\nSession: 12;timeout=60\n\n",
    );
    assert_eq!((odd.uri(), odd.cseq(), odd.session()), ("rtsp://h/a b/track=1", Some(7), Some("12")));
    assert_eq!(odd.header("transport"), Some("RTP/AVP/TCP; unicast"));
    assert_eq!(odd.header("User-Agent"), Some("caf\u{FFFD}"));
    assert_eq!(read(b"RTSP/1.0 200\r\n\r\n", 99).unwrap(), ["200  0"]);
    assert!(!request(b"OPTIONS * RTSP/2.0\r\n\r\n").is_version_1());
}

#[test]
fn two_challenges_are_both_seen() {
    let mut reader = Reader::new();
    reader.push(b"RTSP/1.0 401 No\r\nWWW-Authenticate: Digest realm=\"a\"\r\nWWW-Authenticate: Basic realm=\"a\"\r\n\r\n");
    let Some(Incoming::Response(response)) = reader.incoming().unwrap() else { panic!() };
    assert_eq!(response.header("WWW-Authenticate"), Some("Digest realm=\"a\", Basic realm=\"a\""));
}

#[test]
fn lies_about_sizes_are_refused_before_anything_is_held_for_them() {
    let with = |header: &str| read(format!("SETUP a RTSP/1.0\r\n{header}\r\n\r\n").as_bytes(), 4096);
    for length in ["-1", "1e3", "99999999999999999999999", "4, 5", ""] {
        assert_eq!(with(&format!("Content-Length: {length}")), Err(Invalid::ContentLength), "{length}");
    }
    assert_eq!(with("Content-Length: 1\r\nContent-Length: 2"), Err(Invalid::ContentLength));
    assert_eq!(with("Content-Length: 65537"), Err(Invalid::Body));
    assert_eq!(with(&"A: b\r\n".repeat(HEADERS_MAX + 1)), Err(Invalid::Headers));
    assert_eq!(read(&b"O".repeat(HEAD_BYTES_MAX + 1), 4096), Err(Invalid::Head));
    let long = format!("OPTIONS {} RTSP/1.0\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
    assert_eq!(read(long.as_bytes(), long.len()), Err(Invalid::Head));
    for (bytes, wrong) in
        [(&b"\x16\x03\x01"[..], Invalid::Start(0x16)), (b"GET / HTTP/1.1\r\n\r\n", Invalid::StartLine)]
    {
        assert_eq!(read(bytes, 99), Err(wrong));
    }
}

#[test]
fn a_reader_holds_no_more_than_one_message() {
    let mut reader = Reader::new();
    let frame = [&[b'$', 0, 0xFF, 0xFF][..], &[7; 65_535]].concat();
    let mut frames = 0;
    for piece in frame.repeat(20).chunks(5000) {
        reader.push(piece);
        while reader.incoming().unwrap().is_some() {
            frames += 1;
        }
        assert!(reader.buffer.len() <= 65_539 + 2 * BUFFER_BYTES, "{}", reader.buffer.len());
    }
    assert_eq!(frames, 20);
    reader.room();
    assert_eq!(reader.buffer.len(), BUFFER_BYTES, "the room is given back");
}

#[test]
fn what_is_written_is_read_again_and_no_value_makes_a_line_of_its_own() {
    let mut bytes = Vec::new();
    let sdp = b"v=0\r\n".to_vec();
    let response = Response::new(StatusCode::Ok)
        .with_header("CSeq", "4")
        .with_header("X", "a\r\nEvil: b")
        .with_header("Session", "77;timeout=60")
        .with_body("application/sdp", sdp.clone());
    response.write(&mut bytes);
    Request::new(Method::Describe, "rtsp://h/a\r\nEvil: c").with_header("CSeq", "5").write(&mut bytes);
    let mut reader = Reader::new();
    reader.push(&bytes);
    let Some(Incoming::Response(read)) = reader.incoming().unwrap() else { panic!() };
    assert_eq!(
        (read.cseq(), read.session(), read.session_timeout_seconds()),
        (Some(4), Some("77"), Some(60))
    );
    assert_eq!((read.body(), read.header("Evil"), read.reason()), (&sdp[..], None, "Ok"));
    let Some(Incoming::Request(read)) = reader.incoming().unwrap() else { panic!() };
    assert_eq!((read.method(), read.header("Evil"), read.cseq()), (&Method::Describe, None, Some(5)));
    let mut head = Vec::new();
    assert!(write_frame_head(3, 65_536, &mut head).is_none());
    write_frame_head(3, 258, &mut head).unwrap();
    assert_eq!(head, [b'$', 3, 1, 2]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_alike_however_they_are_cut(
        bytes in prop::collection::vec(prop_oneof![
            Just(b"OPTIONS * RTSP/1.0\r\n".to_vec()), Just(b"RTSP/1.0 200 OK\r\n".to_vec()), Just(b"\r\n".to_vec()),
            Just(b"Content-Length: 3\r\n".to_vec()), Just(b"$\x01\x00\x02".to_vec()), Just(b" x: y\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ], 0..20),
        piece_bytes in 1_usize..30,
    ) {
        let bytes = bytes.concat();
        prop_assert_eq!(read(&bytes, piece_bytes), read(&bytes, bytes.len()));
    }
}
