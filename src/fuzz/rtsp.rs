//! RTSP: messages, session descriptions, both ends of a connection, and AAC as it comes in its packets.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::PIXELS_MAX;
use crate::base::clock::Clock;
use crate::proto::rtp::aac::{AAC_UNIT_BYTES_MAX, AacDepacketizer, HeaderBits};
use crate::proto::rtp::receiver::HOLD_BACK_DEFAULT;
use crate::proto::rtsp::address::Address;
use crate::proto::rtsp::client::{Client, ClientSettings, Login, Output, Wanted};
use crate::proto::rtsp::media::MediaSettings;
use crate::proto::rtsp::message::{Reader as RtspReader, StatusCode};
use crate::proto::rtsp::sdp::Description;
use crate::proto::rtsp::server::{Answer, OUT_BYTES_MAX, Server, ServerOutput, ServerSettings};
use crate::proto::rtsp::transport::Transport;

/// A byte stream of RTSP: it is read alike however it is cut.
pub fn rtsp_message(data: &[u8]) {
    let read = |piece_bytes: usize| {
        let (mut reader, mut read) = (RtspReader::new(), Vec::new());
        for piece in data.chunks(piece_bytes.max(1)) {
            reader.push(piece);
            loop {
                match reader.incoming() {
                    Ok(None) => break,
                    Ok(Some(incoming)) => read.push(format!("{incoming:?}")),
                    Err(invalid) => {
                        read.push(invalid.to_string());
                        return read;
                    }
                }
            }
        }
        read
    };
    assert_eq!(read(data.len()), read(7));
    let text = String::from_utf8_lossy(data);
    for transport in Transport::parse(&text) {
        assert_eq!(Transport::parse(&transport.to_string()).len(), 1);
    }
    let _ = Address::of(&text);
}

/// A session description of RTSP: what is understood is written and understood again.
pub fn rtsp_sdp(data: &[u8]) {
    let Ok(read) = Description::parse(data) else { return };
    for track in &read.tracks {
        let _ = (read.track_url("rtsp://host/name", track), track.audio_params(), track.codec_name());
    }
    let known: Vec<_> = read.tracks.iter().filter(|track| track.is_known()).cloned().collect();
    let written =
        Description { tracks: known, ..Description::default() }.write("name", 1, [127, 0, 0, 1].into());
    let again = Description::parse(&written).expect("ours can be read");
    assert!(again.tracks.iter().all(|track| track.is_known()));
}

/// A whole connection: bytes of a client, with usual answers to what the server asks.
pub fn rtsp_server(data: &[u8]) {
    let now = Clock::manual().now();
    let settings = ServerSettings {
        setup_limit: Duration::from_secs(10),
        session_timeout: Duration::from_secs(60),
        silence_limit: None,
        hold_back: Duration::from_millis(100),
        pixels_max: PIXELS_MAX,
        product: String::new(),
    };
    let mut server = Server::new(settings, &mut StdRng::seed_from_u64(1), now);
    let mut described = None;
    for piece in data.chunks(1000) {
        if let Some(room) = server.room().get_mut(..piece.len()) {
            room.copy_from_slice(piece);
        }
        server.handle_read(now, piece.len());
        loop {
            let answer = match server.poll_output() {
                ServerOutput::Timeout(_) => break,
                ServerOutput::Announce { mut description, .. } => {
                    description.tracks.iter_mut().for_each(|track| track.control = "trackID=0".into());
                    described = Some(description);
                    Answer::Done
                }
                ServerOutput::Find { .. } => match &described {
                    Some(description) => Answer::Found(description.clone(), "name".into()),
                    None => Answer::Refused(StatusCode::NotFound.into()),
                },
                ServerOutput::OpenPorts { .. } => Answer::Ports(31_000, 31_001),
                ServerOutput::Play => Answer::Playing(Vec::new()),
                ServerOutput::Close(_) => return,
                _ => continue,
            };
            server.answer(now, answer);
        }
        assert!(server.out().len() <= OUT_BYTES_MAX + data.len() * 100);
        server.handle_datagram(now, 0, false, piece);
        server.handle_timeout(now);
        while !matches!(server.poll_output(), ServerOutput::Timeout(_)) {}
    }
}

/// A whole session with a camera that says anything, in pieces of any size; the first byte says how media is wished for.
/// Once it is over, nothing comes out any more.
pub fn rtsp_client(data: &[u8]) {
    let Some((&head, mut rest)) = data.split_first() else { return };
    let mut now = Clock::manual().now();
    let by_udp = head & 1 != 0;
    let transport = if by_udp { Wanted::Udp([(2, 3), (4, 5)]) } else { Wanted::Interleaved([None, None]) };
    let settings = ClientSettings {
        user_agent: "fuzz".into(),
        answer_limit: Duration::from_secs(5),
        silence_limit: Duration::from_secs(9),
        datagram_limit: Duration::from_secs(3),
        transport,
        media: MediaSettings {
            pixels_max: PIXELS_MAX,
            hold_back: by_udp.then_some(HOLD_BACK_DEFAULT),
            ssrc: 1,
            cname: "fuzz".into(),
        },
    };
    let login = Login { user: "user".into(), password: "secret".into() };
    let mut client = Client::new(settings, "rtsp://cam.example/1", Some(login), now);
    let mut over = false;
    while !rest.is_empty() {
        let room = client.room();
        assert!(!room.is_empty(), "no room");
        let count = rest.len().min(room.len()).min(usize::from(head) * 8 + 1);
        let (piece, after) = rest.split_at(count);
        room[..count].copy_from_slice(piece);
        rest = after;
        if by_udp {
            client.handle_datagram(now, usize::from(piece[0] & 1), piece[0] & 2 != 0, piece);
        }
        client.filled(now, count);
        if head & 2 != 0 {
            now += Duration::from_millis(50);
            client.handle_timeout(now);
        }
        loop {
            match client.poll_output() {
                Output::Timeout(_) => break,
                output => assert!(!over, "after the end: {output:?}"),
            }
        }
        over = over || client.is_over();
    }
    client.close(now);
    while !matches!(client.poll_output(), Output::Timeout(_)) {}
    assert!(client.is_over());
}

/// Payloads of AAC, each after two bytes of length; the first byte of all says how its headers are laid out.
pub fn depack_aac(data: &[u8]) {
    let Some((&layout, mut rest)) = data.split_first() else { return };
    let bits = match layout % 3 {
        0 => HeaderBits { size: 13, index: 3, index_delta: 3 },
        1 => HeaderBits { size: 6, index: 2, index_delta: 2 },
        _ => HeaderBits { size: layout >> 2, index: 0, index_delta: 1 },
    };
    let mut depacketizer = AacDepacketizer::new(bits);
    while let Some((&[high, low], after)) = rest.split_first_chunk::<2>() {
        let size = usize::from(u16::from_be_bytes([high & 0x0F, low])).min(after.len());
        let (payload, after) = after.split_at(size);
        if high & 0x80 != 0 {
            depacketizer.mark_lost();
        }
        let _ = depacketizer.push(u32::from(high >> 4 & 3), payload, |_, unit| {
            assert!(!unit.is_empty() && unit.len() <= AAC_UNIT_BYTES_MAX);
        });
        rest = after;
    }
}
