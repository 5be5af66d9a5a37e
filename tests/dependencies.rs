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
use stillcast::base::clock::Clock;
use stillcast::proto::srtp::{Keys, MasterKey, Profile, Srtp};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;
use webrtc_util::marshal::Marshal as _;

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

/// Pictures of a sample in `tests/data/h264` in decoding order, as one decoder of a library gives them.
fn openh264_luma(stream: &[u8]) -> Vec<Vec<u8>> {
    use openh264::decoder::{DecodeOptions, Decoder, Flush};
    use openh264::formats::YUVSource as _;
    let mut decoder = Decoder::new().unwrap();
    let mut pictures = Vec::new();
    let mut take = |picture: &openh264::decoder::DecodedYUV<'_>| {
        let (width, height) = picture.dimensions();
        let rows = picture.y().chunks(picture.strides().0).take(height);
        pictures.push(rows.flat_map(|row| row[..width].to_vec()).collect());
    };
    for unit in units(stream) {
        let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        if let Some(picture) = decoder.decode_with_options(&unit, options).unwrap() {
            take(&picture);
        }
    }
    for picture in decoder.flush_remaining().unwrap() {
        take(&picture);
    }
    pictures
}

fn rust_h264_luma(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut decoder = rust_h264::decoder::OrderedDecoder::new();
    let mut pictures = Vec::new();
    for nal in &rust_h264::nal::parse_annex_b(stream) {
        pictures.extend(decoder.decode_nal(nal).unwrap());
    }
    pictures.extend(decoder.flush());
    pictures.into_iter().map(|picture| picture.y).collect()
}

/// The access units of a byte stream, as byte streams.
fn units(stream: &[u8]) -> Vec<Vec<u8>> {
    let pictures = stillcast::media::h264::assemble::annex_b_pictures(stream);
    let unit = |nals: Vec<&[u8]>| nals.into_iter().flat_map(|nal| [&[0, 0, 0, 1], nal].concat()).collect();
    pictures.into_iter().map(unit).collect()
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/h264/{name}.h264", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn openh264_and_rust_h264_agree_without_b_slices_and_openh264_errs_with_them() {
    for name in ["baseline_bt601", "main_bt709", "high_full_bt709"] {
        let stream = sample(name);
        assert_eq!(openh264_luma(&stream), rust_h264_luma(&stream), "{name}");
    }
    let stream = sample("slow_b_open_gop");
    assert_ne!(openh264_luma(&stream), rust_h264_luma(&stream));
}

#[test]
fn openh264_does_not_begin_at_a_recovery_point_and_rust_h264_does() {
    let stream = sample("slow_b_open_gop");
    let nals = rust_h264::nal::parse_annex_b(&stream);
    let is_set = |bytes: &[u8]| matches!(bytes[4] & 31, 7 | 8);
    let whole = stillcast::media::h264::framing::annex_b_units(&stream)
        .map(|nal| [&[0, 0, 0, 1], nal].concat())
        .collect::<Vec<_>>();
    let recovers = |bytes: &Vec<u8>| stillcast::media::h264::sei::recovery_point(&bytes[4..]).is_some();
    let point = whole.iter().position(|nal| nal[4] == 6 && recovers(nal)).expect("a recovery point");
    let sets = || whole.iter().enumerate().filter(|(_, nal)| is_set(nal)).map(|(at, _)| at);

    let mut openh264 = openh264::decoder::Decoder::new().unwrap();
    let mut rust_h264 = rust_h264::decoder::Decoder::new();
    for at in sets() {
        let _ = openh264.decode(&whole[at]);
        rust_h264.decode_nal(&nals[at]).unwrap();
    }
    assert!(!matches!(openh264.decode(&whole[point + 1]), Ok(Some(_))));
    rust_h264.decode_nal(&nals[point + 1]).unwrap();
    assert!(rust_h264.flush().is_some());
}

#[test]
fn rust_h264_says_nothing_of_a_damaged_slice_that_is_not_the_first() {
    let stream = sample("main_b_slices4");
    let mut decoder = rust_h264::decoder::Decoder::new();
    let nals = rust_h264::nal::parse_annex_b(&stream);
    let slices = nals.iter().scan(0, |slices, nal| {
        *slices += i32::from(nal.nal_unit_type == rust_h264::nal::NalUnitType::SliceIdr);
        (*slices <= 4).then_some((*slices, nal))
    });
    for (number, nal) in slices {
        if number == 3 {
            let cut = nal.rbsp.len() / 2;
            let rbsp = nal.rbsp[..cut].to_vec().into();
            let half = rust_h264::nal::NalUnit { rbsp, ..*nal };
            assert!(decoder.decode_nal(&half).is_ok());
        } else {
            decoder.decode_nal(nal).unwrap();
        }
    }
    assert!(decoder.flush().is_some(), "a picture with a hole");
}

/// Bytes that tell how often they were asked for, and end the asking.
struct Counted {
    bytes: std::io::Cursor<Vec<u8>>,
    left: u32,
}

impl Counted {
    fn count(&mut self) -> std::io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| std::io::Error::other("asked too often"))?;
        Ok(())
    }
}

impl std::io::Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.count()?;
        self.bytes.read(out)
    }
}

impl std::io::Seek for Counted {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.count()?;
        self.bytes.seek(to)
    }
}

#[test]
fn mp4_reads_a_box_of_no_size_for_ever() {
    let mut bytes = [&24_u32.to_be_bytes()[..], b"ftypisom\0\0\0\0isommp41"].concat();
    bytes.extend_from_slice(&16_u32.to_be_bytes());
    bytes.extend_from_slice(b"moov\0\0\0\0none");
    let size = bytes.len() as u64;
    let mut counted = Counted { bytes: std::io::Cursor::new(bytes), left: 100_000 };
    assert!(mp4::Mp4Reader::read_header(&mut counted, size).is_err());
    assert_eq!(counted.left, 0, "40 bytes were asked for 100 000 times, and would be on and on");
}

#[test]
fn mp4_reads_other_bytes_than_the_samples_of_a_fragmented_file() {
    use stillcast::services::mp4::{Movie, ReadAt as _};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.mp4");
    let status = std::process::Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=64x48:rate=25:duration=2",
            "-c:v",
            "libx264",
        ])
        .args(["-pix_fmt", "yuv420p", "-g", "10", "-movflags", "frag_keyframe+empty_moov+default_base_moof"])
        .arg(&file)
        .status()
        .expect("ffmpeg is needed: tools/install-test-deps");
    assert!(status.success());
    let bytes = std::fs::read(&file).unwrap();
    let movie = Movie::read(&bytes[..]).unwrap();
    let samples = &movie.tracks[0].samples;
    let mut reader = mp4::Mp4Reader::read_header(std::io::Cursor::new(&bytes), bytes.len() as u64).unwrap();
    let right = samples.iter().enumerate().filter(|(at, sample)| {
        let read = reader.read_sample(1, *at as u32 + 1);
        let sample = bytes[..].read(sample.offset, sample.size as usize).unwrap();
        read.is_ok_and(|read| read.is_some_and(|read| read.bytes == sample))
    });
    assert!(right.count() < samples.len());
}

#[test]
fn mp4_has_no_place_for_opus() {
    // Without a last arm for others: it would not compile any more when there is one.
    let name = |config: mp4::MediaConfig| match config {
        mp4::MediaConfig::AvcConfig(_) => "avc",
        mp4::MediaConfig::HevcConfig(_) => "hevc",
        mp4::MediaConfig::Vp9Config(_) => "vp9",
        mp4::MediaConfig::AacConfig(_) => "aac",
        mp4::MediaConfig::TtxtConfig(_) => "ttxt",
    };
    assert_eq!(name(mp4::MediaConfig::AacConfig(mp4::AacConfig::default())), "aac");
}

/// What is sent to a hundred viewers is encrypted a hundred times. Under AES-GCM the crate makes a buffer for the cipher text
/// and moves that into another one byte by byte, which costs several times what encrypting costs: `cargo test --release --test
/// dependencies -- --nocapture gcm` shows both ways. No time is demanded here, only that both give the same bytes.
#[test]
fn srtp_of_webrtc_srtp_moves_cipher_text_byte_by_byte_under_gcm_and_ours_gives_the_same_bytes() {
    const PACKETS: u32 = 70_000;
    let master = MasterKey { key: vec![3; 16], salt: vec![4; 12] };
    let keys = Keys { profile: Profile::AeadAes128Gcm, local: master.clone(), remote: master };
    let mut ours = Srtp::new(keys).unwrap();
    let mut theirs = Context::new(&[3; 16], &[4; 12], ProtectionProfile::AeadAes128Gcm, None, None).unwrap();
    let payload: Vec<u8> = (0..1100_u32).map(|n| n as u8).collect();
    let header = |number: u32| rtp::header::Header {
        version: 2,
        payload_type: 96,
        sequence_number: number as u16,
        timestamp: number,
        ssrc: 7,
        ..rtp::header::Header::default()
    };
    let clock = Clock::real();
    let (mut ours_took, mut theirs_took) = (Duration::ZERO, Duration::ZERO);
    // Across the wrap of the sequence number.
    for number in 0..PACKETS {
        let header = header(number);
        let head = header.marshal().unwrap();
        let began = clock.now();
        let sealed = ours.protect_rtp_parts(&head, &[&payload]).unwrap();
        ours_took += clock.now() - began;
        let packet = [&head[..], &payload].concat();
        let began = clock.now();
        let expected = theirs.encrypt_rtp_with_header(&packet, &header).unwrap();
        theirs_took += clock.now() - began;
        assert_eq!(sealed, expected, "packet {number}");
    }
    println!(
        "a packet of 1100 bytes: {:?} by the crate, {:?} by ours",
        theirs_took / PACKETS,
        ours_took / PACKETS
    );
}
