use std::net::IpAddr;

use super::*;
use crate::media::h264::tests::{PPS, SPS_640X360};
use crate::media::track::{Colour, Rotation};

/// As ffmpeg 7 announces H.264 and AAC.
const FFMPEG: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=No Name\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\na=tool:libavformat\r\n\
    m=video 0 RTP/AVP 96\r\nb=AS:2000\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; \
    sprop-parameter-sets=Z0LAHtkAoC/5cBEAAAMAAQAAAwA8DxYuSA==,aMuDyyA=; profile-level-id=42C01E\r\na=control:streamid=0\r\n\
    m=audio 0 RTP/AVP 97\r\nb=AS:128\r\na=rtpmap:97 MPEG4-GENERIC/44100/2\r\na=fmtp:97 profile-level-id=1;mode=AAC-hbr;\
    sizelength=13;indexlength=3;indexdeltalength=3; config=121056E500\r\na=control:streamid=1\r\n";

fn parse(text: &str) -> Description {
    Description::parse(text.as_bytes()).unwrap()
}

#[test]
fn what_ffmpeg_announces_is_understood() {
    let read = parse(FFMPEG);
    let [video, audio] = read.tracks.as_slice() else { panic!() };
    assert_eq!(video.payload, Payload::H264 { parameter_sets: vec![SPS_640X360.into(), PPS.into()] });
    assert_eq!((video.payload_type, video.control.as_str(), video.codec_name()), (96, "streamid=0", "H264"));
    let config = Bytes::from_static(&[0x12, 0x10, 0x56, 0xE5, 0x00]);
    assert_eq!(audio.payload, Payload::Aac { config, layout: AacLayout::HIGH_BIT_RATE });
    assert_eq!((audio.clock_rate.get(), audio.channels, audio.codec_name()), (44_100, 2, "mpeg4-generic"));
    assert_eq!(read.track_url("rtsp://h:8554/live/a", audio), "rtsp://h:8554/live/a/streamid=1");
}

#[test]
fn cameras_are_understood_as_far_as_they_make_sense() {
    let camera = "v=0\no=- 1\ns=\nt=now\na=control:*\nm=video 0 RTP/AVP 35\na=rtpmap:35 H264/90000\n\
        a=fmtp:35 sprop-parameter-sets=!!!,Z0LAHtkAoC/5cBEAAAMAAQAAAwA8DxYuSA==;packetization-mode=0\n\
        a=control:rtsp://10.0.0.9/stream/track1?a=b\nm=audio 0 RTP/AVP 8\na=control:/track2\n\
        m=application 0 RTP/AVP 107\na=rtpmap:107 vnd.onvif.metadata/90000\nm=audio 0 RTP/AVP 0\n";
    let read = parse(camera);
    let [video, alaw, metadata, ulaw] = read.tracks.as_slice() else { panic!() };
    assert_eq!(video.payload, Payload::H264 { parameter_sets: vec![SPS_640X360.into()] });
    assert_eq!((&alaw.payload, alaw.clock_rate.get(), alaw.channels), (&Payload::Pcma, 8000, 1));
    assert!(!metadata.is_known() && !metadata.is_audio() && metadata.codec_name() == "vnd.onvif.metadata");
    assert_eq!((&ulaw.payload, ulaw.codec_name()), (&Payload::Pcmu, "ulaw"));
    let base = "rtsp://10.0.0.9/stream?x=1";
    assert_eq!(read.track_url(base, video), "rtsp://10.0.0.9/stream/track1?a=b");
    assert_eq!(read.track_url(base, alaw), "rtsp://10.0.0.9/stream?x=1/track2");
    assert_eq!(read.track_url("rtsp://h/a/", ulaw), "rtsp://h/a/");
}

#[test]
fn damaged_parameters_make_a_track_unknown_and_not_the_rest() {
    for format in
        ["config=1", "config=zz", "config=", "config=1210;sizelength=99", "config=1210;sizelength=0", "x"]
    {
        let text = FFMPEG.replace("sizelength=13", "a=b").replace("config=121056E500", format);
        let read = parse(&text);
        assert!(!read.tracks[1].is_known() && read.tracks[0].is_video(), "{format}");
    }
    assert!(Description::parse(b"").is_err() && Description::parse(b"<html>").is_err());
    let many = "m=video 0 RTP/AVP 96\r\n".repeat(TRACKS_MAX + 1);
    assert_eq!(
        Description::parse(format!("v=0\r\n{many}").as_bytes()),
        Err(DescriptionError::TooMany("tracks"))
    );
    let sets = vec!["Z0LAHg=="; 1000].join(",");
    let read = parse(&format!(
        "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 sprop-parameter-sets={sets}"
    ));
    let Payload::H264 { parameter_sets } = &read.tracks[0].payload else { panic!() };
    assert_eq!(parameter_sets.len(), PARAMETER_SETS_MAX);
}

#[test]
fn the_description_of_a_stream_is_read_again_as_it_was() {
    let codec = VideoCodec::H264 { sps: vec![SPS_640X360.into()], pps: vec![PPS.into()] };
    let video = VideoParams {
        codec,
        width: 640,
        height: 360,
        sample_aspect_ratio: (1, 1),
        colour: Colour::unsaid(640, 360),
        rotation: Rotation::None,
    };
    let sounds = [
        (AudioCodec::Aac { config: Bytes::from_static(&[0x12, 0x10]) }, 44_100, 2),
        (AudioCodec::Opus, 48_000, 2),
        (AudioCodec::Pcma, 8000, 1),
        (AudioCodec::Pcmu, 16_000, 2),
    ];
    for (codec, rate, channels) in sounds {
        let audio = AudioParams { codec, sample_rate: NonZeroU32::new(rate).unwrap(), channels };
        let made = Description::of_stream(Some(&video), Some(&audio));
        let text = made.write("cam\r\nm=evil", 7, IpAddr::from([127, 0, 0, 1]));
        let read = Description::parse(&text).unwrap();
        assert_eq!(read, made, "{}", String::from_utf8_lossy(&text));
        assert_eq!(*read.tracks[1].audio_params().unwrap(), audio);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(
            "profile-level-id=42C01E;sprop-parameter-sets=Z0LAHtkAoC/5cBEAAAMAAQAAAwA8DxYuSA==,aMuDyyA="
        ));
    }
    assert!(Description::of_stream(None, None).tracks.is_empty());
}
