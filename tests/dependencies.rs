//! What the listed packages cannot do, shown by running them. Each test here stands behind an entry of
//! `docs/DECISIONS.md`; one that begins to fail says that a guard or a part of ours may go.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::panic::catch_unwind;
use std::time::Duration;

use bytes::Bytes;
use rtp::codecs::h264::H264Packet;
use rtp::codecs::vp8::Vp8Packet;
use rtp::packetizer::Depacketizer as _;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

/// NAL unit type 28, fragmentation unit A (RFC 6184 section 5.8), of an IDR slice.
const FU_A_INDICATOR: u8 = 0x7c;
const FU_START: u8 = 0x85;
const FU_MIDDLE: u8 = 0x05;
const FU_END: u8 = 0x45;

fn srtp_context() -> Context {
    Context::new(&[1; 16], &[2; 14], ProtectionProfile::Aes128CmHmacSha1_80, None, None).unwrap()
}

#[test]
fn the_h264_depacketizer_of_rtp_panics_on_an_aggregate_with_a_trailing_byte() {
    let packet = Bytes::from_static(&[24, 0, 1, 0x65, 0]);
    assert!(catch_unwind(|| H264Packet::default().depacketize(&packet)).is_err());
}

#[test]
fn the_h264_depacketizer_of_rtp_joins_fragments_across_a_loss_and_keeps_them_without_bound() {
    let mut depacketizer = H264Packet::default();
    depacketizer.depacketize(&Bytes::from_static(&[FU_A_INDICATOR, FU_START, 1, 1])).unwrap();
    // The middle fragment is lost: nothing tells the depacketizer, and it has no sequence numbers to see it by.
    let nal_unit = depacketizer.depacketize(&Bytes::from_static(&[FU_A_INDICATOR, FU_END, 3, 3])).unwrap();
    assert!(nal_unit.ends_with(&[0x65, 1, 1, 3, 3]), "a NAL unit with a hole came out whole: {nal_unit:?}");

    let fragment = Bytes::from([&[FU_A_INDICATOR, FU_MIDDLE][..], &[7; 1000]].concat());
    for _ in 0..20_000 {
        depacketizer.depacketize(&fragment).unwrap();
    }
    let nal_unit = depacketizer.depacketize(&Bytes::from_static(&[FU_A_INDICATOR, FU_END, 3, 3])).unwrap();
    assert!(nal_unit.len() > 20_000_000 - 40_000, "20 MB of fragments without a start were kept");
}

#[test]
fn the_vp8_depacketizer_of_rtp_refuses_short_payloads_and_reads_a_picture_id_that_is_not_there() {
    // A descriptor of one byte and two bytes of a frame: the tail of any frame may be as short.
    assert!(Vp8Packet::default().depacketize(&Bytes::from_static(&[0x00, 1, 2])).is_err());

    let mut depacketizer = Vp8Packet::default();
    depacketizer.depacketize(&Bytes::from_static(&[0x90, 0x80, 0x85, 0x01, 9, 9])).unwrap();
    assert_eq!(depacketizer.picture_id, 0x0501);
    // The same of the next packet without X: flags of the one before are still there.
    let frame = depacketizer.depacketize(&Bytes::from_static(&[0x10, 1, 2, 3])).unwrap();
    assert_eq!(frame[..], [2, 3], "the first byte of the frame was taken for a picture identifier");
}

#[test]
fn srtcp_of_webrtc_srtp_panics_on_short_packets_from_anyone() {
    let panics = (4..14).any(|length| {
        let mut packet = vec![0_u8; length];
        packet[..4].copy_from_slice(&[0x80, 201, 0, 1]);
        catch_unwind(move || drop(srtp_context().decrypt_rtcp(&packet))).is_err()
    });
    assert!(panics);
}

#[test]
fn srtcp_of_webrtc_srtp_takes_an_unencrypted_packet_without_looking_at_its_tag() {
    // A BYE whose E bit is clear (RFC 3711 section 3.4), followed by a tag that nobody who knows the key has made.
    let mut packet = vec![0x81, 203, 0, 1, 0, 0, 0, 9];
    packet.extend_from_slice(&[0, 0, 0, 1]);
    packet.extend_from_slice(&[0xaa; 10]);
    assert!(srtp_context().decrypt_rtcp(&packet).is_ok());
}

#[test]
fn the_listener_of_rouille_takes_headers_without_a_bound() {
    let server = rouille::Server::new("127.0.0.1:0", |_| rouille::Response::text("ok")).unwrap();
    let mut client = TcpStream::connect(server.server_addr()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let writer = std::thread::Builder::new()
        .spawn(move || {
            let mut head = String::from("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
            for number in 0..50_000 {
                head.push_str(&format!("X-{number}: {number}\r\n"));
            }
            client.write_all(head.as_bytes()).unwrap();
            client.write_all(b"\r\n").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        })
        .unwrap();
    while !writer.is_finished() {
        server.poll_timeout(Duration::from_millis(20));
    }
    assert!(writer.join().unwrap().starts_with("HTTP/1.1 200"), "50 000 headers were taken");
}
