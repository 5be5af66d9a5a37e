use super::*;
use crate::base::clock::Clock;
use crate::media::h264::decoder_config::decoder_config;
use crate::media::h264::tests::{PPS, SPS_640X360};

/// Slices as x264 begins them: first macroblock 0, type, picture parameter set 0.
const IDR: &[u8] = &[0x65, 0x88, 0x84, 0x00, 0x33];
const P: &[u8] = &[0x41, 0x9A, 0x24, 0x6C, 0x41];

fn config() -> Vec<u8> {
    let sets = |set: &'static [u8]| [Bytes::from_static(set)];
    decoder_config(&sets(SPS_640X360), &sets(PPS)).unwrap()
}

/// A video body of NAL units after lengths of so many bytes.
fn coded(composition_ms: i32, length_bytes: usize, nals: &[&[u8]]) -> Bytes {
    let mut body = vec![0x27, 1];
    body.extend(&composition_ms.to_be_bytes()[1..]);
    for nal in nals {
        body.extend(&(nal.len() as u32).to_be_bytes()[4 - length_bytes..]);
        body.extend(*nal);
    }
    body.into()
}

struct Stream {
    reader: MediaReader,
    now: Instant,
    out: VecDeque<MediaOutput>,
}

impl Stream {
    fn new() -> Self {
        Self { reader: MediaReader::new(u64::MAX), now: Clock::manual().now(), out: VecDeque::new() }
    }

    fn begun() -> Self {
        let mut stream = Self::new();
        stream.video(0, [&[0x17, 0, 0, 0, 0], config().as_slice()].concat().into());
        stream.video(0, coded(0, 4, &[IDR]));
        stream.out.clear();
        stream
    }

    fn video(&mut self, timestamp: u32, body: Bytes) {
        self.reader.video(timestamp, self.now, body, &mut self.out);
    }

    fn audio(&mut self, timestamp: u32, body: &'static [u8]) {
        self.reader.audio(timestamp, self.now, Bytes::from_static(body), &mut self.out);
    }

    /// What came out, in a word each.
    fn drain(&mut self) -> Vec<String> {
        let word = |output| match output {
            MediaOutput::Video(unit) => {
                format!(
                    "{} {}/{}",
                    if unit.key { "key" } else { "unit" },
                    unit.dts.ticks / 90,
                    unit.pts.ticks / 90
                )
            }
            MediaOutput::Audio(frame) => format!("{} {}", frame.params.codec.name(), frame.pts.ticks),
            MediaOutput::AudioParams(params) => format!("{} Hz", params.sample_rate),
            MediaOutput::Tracks { video, audio } => format!("tracks {video} {audio}"),
            MediaOutput::Gap => "gap".into(),
            MediaOutput::Damaged(kind, _) => format!("damaged {kind}"),
            MediaOutput::Unsupported { error, .. } => error.to_string(),
        };
        self.out.drain(..).map(word).collect()
    }
}

#[test]
fn pictures_carry_the_parameters_of_the_sequence_header_and_both_times() {
    for length_bytes in [1_u8, 2, 4] {
        let mut record = config();
        record[4] = 0xFC | (length_bytes - 1);
        let mut stream = Stream::new();
        stream.video(1000, [&[0x17, 0, 0, 0, 0], record.as_slice()].concat().into());
        assert_eq!(stream.drain(), ["tracks true false"]);
        stream.video(1000, coded(80, length_bytes.into(), &[IDR, &[], &[0x09, 0x10]]));
        stream.video(1040, coded(40, length_bytes.into(), &[P]));
        let MediaOutput::Video(unit) = &stream.out[0] else { panic!("{:?}", stream.out) };
        assert_eq!((unit.params.width, unit.params.height), (640, 360));
        assert_eq!(unit.data, [&[0, 0, 0, 5], IDR].concat(), "four bytes of length, no delimiter");
        assert_eq!(stream.drain(), ["key 1000/1080", "unit 1040/1080"]);
    }
}

#[test]
fn a_stream_that_begins_without_a_keyframe_is_silent_until_one_comes() {
    let mut stream = Stream::new();
    stream.video(0, coded(0, 4, &[P]));
    stream.video(0, [&[0x17, 0, 0, 0, 0], config().as_slice()].concat().into());
    stream.video(40, coded(0, 4, &[P]));
    stream.video(80, coded(0, 4, &[IDR]));
    assert_eq!(stream.drain(), ["tracks true false", "key 80/80"]);
}

#[test]
fn a_damaged_picture_is_a_gap_up_to_the_next_keyframe() {
    let mut stream = Stream::begun();
    let whole = coded(0, 4, &[P]);
    stream.video(40, whole.slice(..whole.len() - 1));
    stream.video(80, coded(0, 4, &[P]));
    stream.video(90, Bytes::from_static(&[0x27, 1, 0]));
    stream.video(120, coded(0, 4, &[IDR]));
    assert_eq!(stream.drain(), ["damaged rtmp_video", "gap", "damaged rtmp_video", "key 120/120"]);
}

#[test]
fn a_sequence_header_that_cannot_be_read_leaves_nothing_to_decode() {
    let mut stream = Stream::begun();
    stream.video(0, Bytes::from_static(&[0x17, 0, 0, 0, 0, 1, 2, 3]));
    stream.video(40, coded(0, 4, &[P]));
    assert_eq!(stream.drain(), ["damaged rtmp_video", "gap"]);
}

#[test]
fn behind_a_sequence_header_cut_short_the_older_sets_count_no_more() {
    let mut stream = Stream::begun();
    stream.video(40, [&[0x17, 0, 0, 0, 0], &config()[..8]].concat().into());
    stream.video(80, coded(0, 4, &[IDR]));
    assert_eq!(stream.drain(), ["damaged rtmp_video", "gap"]);
    stream.video(120, [&[0x17, 0, 0, 0, 0], config().as_slice()].concat().into());
    stream.video(160, coded(0, 4, &[IDR]));
    assert_eq!(stream.drain(), ["key 160/160"]);
}

#[test]
fn a_picture_shown_before_it_is_decoded_moves_all_later_ones() {
    let mut stream = Stream::begun();
    stream.video(40, coded(-30, 4, &[P]));
    stream.video(80, coded(50, 4, &[P]));
    assert_eq!(stream.drain(), ["unit 40/40", "unit 80/160"]);
}

#[test]
fn sound_counts_in_its_own_rate_and_waits_for_its_configuration() {
    let mut stream = Stream::begun();
    stream.audio(0, b"\xAF\x01early");
    stream.audio(0, b"\xAF\x00\x12\x10");
    stream.audio(1000, b"\xAF\x01frame");
    assert_eq!(stream.drain(), ["tracks true true", "44100 Hz", "mpeg4-generic 44100"]);
    stream.audio(2000, b"\x91Opuspacket");
    assert_eq!(stream.drain(), ["48000 Hz", "opus 96000"]);
    stream.audio(3000, b"\x7Fsamples");
    assert_eq!(stream.drain(), ["8000 Hz", "alaw 24000"]);
    stream.audio(3000, b"\x2Fmp3");
    stream.audio(3000, b"\x2Fmp3");
    assert_eq!(stream.drain(), ["MP3 is not supported"], "told once");
}

#[test]
fn metadata_tells_that_there_is_no_video_and_so_does_sound_alone() {
    let mut stream = Stream::new();
    let audio_only = Value::object([("audiocodecid", Value::Number(10.0))]);
    stream
        .reader
        .metadata(&[Value::text("@setDataFrame"), Value::text("onMetaData"), audio_only], &mut stream.out);
    assert_eq!(stream.drain(), ["tracks false true"]);
    stream.video(0, coded(0, 4, &[IDR]));
    assert_eq!(stream.drain()[0], "tracks true true", "what comes counts more");

    let mut stream = Stream::new();
    stream.audio(0, b"\xAF\x00\x12\x10");
    stream.audio(0, b"\xAF\x01frame");
    stream.now += SOUND_ALONE;
    stream.audio(2000, b"\xAF\x01frame");
    let words = stream.drain();
    let tracks: Vec<_> = words.iter().filter(|word| word.starts_with("tracks")).collect();
    assert_eq!(tracks, ["tracks true true", "tracks false true"]);
}
