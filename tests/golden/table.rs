//! The kinds of streams, a row each.

use stillcast::media::track::{Colour, Matrix};

/// A kind of stream.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Pixels of the card.
    pub(crate) size: (u32, u32),
    /// Pictures a second, and how many.
    pub(crate) fps: u32,
    pub(crate) frames: u32,
    /// Matrix and range in which the card is drawn, and which a decoder must assume.
    pub(crate) colour: Colour,
    /// Filters between card and encoder; most rows have none.
    pub(crate) filter: &'static str,
    /// Arguments for the encoder.
    pub(crate) encode: &'static str,
    /// The stream states its colours (VUI).
    pub(crate) tagged: bool,
    /// A second part of this size follows.
    pub(crate) then: Option<(u32, u32)>,
    /// Units that are not sent: a publisher that is joined in mid-stream.
    pub(crate) drop_first: usize,
    /// From this unit on all time stamps are later (or earlier) by so many milliseconds.
    pub(crate) jump: Option<(usize, i64)>,
    /// Snapshots are asked for after so many units were sent; those beyond the end mean the end.
    pub(crate) moments: &'static [usize],
    /// So many units must not give a picture.
    pub(crate) refused_until: usize,
    /// Fields: ffmpeg's linear interpolation is applied to the frame to compare with.
    pub(crate) fields: bool,
    pub(crate) expect: Expect,
}

/// What must come of it.
#[derive(Debug)]
pub(crate) enum Expect {
    /// ffmpeg's picture.
    Right,
    /// This error.
    Refused(&'static str),
}

const BT601: Colour = Colour { matrix: Matrix::Bt601, full_range: false };
const BT709: Colour = Colour { matrix: Matrix::Bt709, full_range: false };
const BT601_FULL: Colour = Colour { matrix: Matrix::Bt601, full_range: true };
const BT709_FULL: Colour = Colour { matrix: Matrix::Bt709, full_range: true };

const PLAIN: Row = Row {
    name: "",
    size: (426, 240),
    fps: 30,
    frames: 40,
    colour: BT709,
    filter: "",
    encode: "",
    tagged: true,
    then: None,
    drop_first: 0,
    jump: None,
    moments: &[1, 2, 13, 24, 1000],
    refused_until: 0,
    fields: false,
    expect: Expect::Right,
};

pub(crate) const ROWS: &[Row] = &[
    // Profiles and tools.
    Row { name: "baseline", encode: "-profile:v baseline -preset veryfast -g 30", ..PLAIN },
    Row { name: "main", encode: "-profile:v main -preset veryfast -bf 0 -g 30", ..PLAIN },
    Row { name: "high", encode: "-profile:v high -preset veryfast -bf 0 -g 30", ..PLAIN },
    Row { name: "high_cavlc", encode: "-profile:v high -preset veryfast -bf 0 -coder 0 -g 30", ..PLAIN },
    Row { name: "zerolatency", encode: "-preset veryfast -tune zerolatency -g 30", ..PLAIN },
    Row { name: "weighted_p", filter: "fade=out:0:160", encode: "-preset medium -bf 0 -g 60", ..PLAIN },
    Row { name: "obs_veryfast_b2", encode: "-preset veryfast -b:v 600k -g 60 -bf 2", ..PLAIN },
    Row { name: "veryfast", encode: "-preset veryfast -b:v 600k -g 60", ..PLAIN },
    Row { name: "medium", encode: "-preset medium -b:v 500k -g 60", ..PLAIN },
    Row { name: "slow_300k", encode: "-preset slow -b:v 300k -g 60", ..PLAIN },
    Row { name: "slower_200k", encode: "-preset slower -b:v 200k -g 250", ..PLAIN },
    Row {
        name: "b_pyramid_temporal",
        encode: "-preset slow -b:v 300k -g 60 -x264-params direct=temporal:b-pyramid=strict:bframes=5:b-adapt=0",
        ..PLAIN
    },
    Row { name: "b_cavlc", encode: "-preset medium -b:v 400k -g 60 -coder 0", ..PLAIN },
    Row { name: "slices_4", encode: "-profile:v baseline -preset veryfast -g 30 -slices 4", ..PLAIN },
    Row { name: "slices_4_b", encode: "-preset medium -b:v 400k -g 60 -slices 4", ..PLAIN },
    Row {
        name: "slices_of_packets",
        encode: "-preset veryfast -bf 0 -g 30 -x264-params slice-max-size=400",
        ..PLAIN
    },
    Row { name: "references_8", encode: "-preset medium -bf 0 -g 60 -refs 8", ..PLAIN },
    // Colours.
    Row { name: "bt601_limited", colour: BT601, encode: "-preset veryfast -bf 0", ..PLAIN },
    Row { name: "bt601_full", colour: BT601_FULL, encode: "-preset veryfast -bf 0", ..PLAIN },
    Row { name: "bt709_full", colour: BT709_FULL, encode: "-preset veryfast -bf 2", ..PLAIN },
    Row {
        name: "hd_bt601",
        size: (1280, 720),
        frames: 14,
        colour: BT601,
        encode: "-preset veryfast -bf 0",
        ..PLAIN
    },
    Row { name: "unflagged_sd", colour: BT601, tagged: false, encode: "-preset veryfast -bf 0", ..PLAIN },
    Row {
        name: "unflagged_hd",
        size: (1280, 720),
        frames: 14,
        tagged: false,
        encode: "-preset veryfast -bf 0",
        ..PLAIN
    },
    Row {
        name: "monochrome",
        encode: "-preset veryfast -bf 0 -pix_fmt gray",
        filter: "format=gray",
        ..PLAIN
    },
    Row { name: "monochrome_b", encode: "-preset veryfast -pix_fmt gray", filter: "format=gray", ..PLAIN },
    Row { name: "yuv422", encode: "-preset veryfast -pix_fmt yuv422p", ..PLAIN },
    Row { name: "ten_bits", encode: "-preset veryfast -pix_fmt yuv420p10le", ..PLAIN },
    Row { name: "ten_bits_422", encode: "-preset veryfast -pix_fmt yuv422p10le", ..PLAIN },
    Row {
        name: "yuv444",
        encode: "-preset veryfast -pix_fmt yuv444p",
        expect: Expect::Refused("Snapshot taking error: chroma format 4:4:4 cannot be decoded"),
        ..PLAIN
    },
    Row {
        name: "lossless",
        encode: "-preset veryfast -qp 0 -bf 0",
        expect: Expect::Refused("Snapshot taking error: lossless coding cannot be decoded"),
        ..PLAIN
    },
    // Sizes.
    Row { name: "854x480", size: (854, 480), frames: 20, encode: "-preset veryfast", ..PLAIN },
    Row { name: "638x358", size: (638, 358), frames: 20, encode: "-preset veryfast -bf 0", ..PLAIN },
    Row { name: "638x358_b", size: (638, 358), frames: 20, encode: "-preset veryfast", ..PLAIN },
    Row {
        name: "1920x1080",
        size: (1920, 1080),
        frames: 14,
        moments: &[1, 1000],
        encode: "-preset veryfast",
        ..PLAIN
    },
    Row {
        name: "1920x1080_baseline",
        size: (1920, 1080),
        frames: 14,
        encode: "-profile:v baseline -preset veryfast",
        ..PLAIN
    },
    Row { name: "portrait", size: (720, 1280), frames: 14, encode: "-preset veryfast -bf 0", ..PLAIN },
    Row {
        name: "portrait_b",
        size: (360, 640),
        frames: 20,
        encode: "-preset veryfast",
        colour: BT601,
        ..PLAIN
    },
    Row {
        name: "non_square",
        size: (720, 576),
        colour: BT601,
        frames: 20,
        filter: "setsar=64/45",
        encode: "-preset veryfast",
        ..PLAIN
    },
    Row {
        name: "4k",
        size: (3840, 2160),
        frames: 6,
        moments: &[1, 6],
        encode: "-preset ultrafast -profile:v baseline",
        ..PLAIN
    },
    Row {
        name: "4k_b",
        size: (3840, 2160),
        frames: 6,
        moments: &[1, 6],
        encode: "-preset veryfast",
        ..PLAIN
    },
    Row {
        name: "resolution_change",
        size: (638, 358),
        then: Some((854, 480)),
        frames: 20,
        moments: &[1, 20, 21, 30, 1000],
        encode: "-preset veryfast -bf 0",
        ..PLAIN
    },
    Row {
        name: "resolution_change_b",
        size: (854, 480),
        then: Some((426, 240)),
        frames: 20,
        moments: &[1, 20, 21, 30, 1000],
        encode: "-preset veryfast",
        ..PLAIN
    },
    // Beginnings.
    Row {
        name: "open_gop",
        frames: 70,
        moments: &[1, 20, 21, 22, 23, 24, 30, 41, 42, 43, 44, 60, 1000],
        encode: "-preset medium -b:v 400k -x264-params open-gop=1:keyint=20:min-keyint=20:bframes=3:b-adapt=0:scenecut=0",
        ..PLAIN
    },
    Row {
        name: "recovery_point_only",
        frames: 70,
        drop_first: 5,
        // The next I picture is unit 17; what is sent before it refers to what nobody has.
        moments: &[1, 5, 16, 17, 18, 19, 20, 40, 41, 42, 60, 1000],
        refused_until: RECOVERY_POINT_AT,
        encode: "-preset medium -b:v 400k -x264-params open-gop=1:keyint=20:min-keyint=20:bframes=3:b-adapt=0:scenecut=0",
        ..PLAIN
    },
    Row {
        name: "no_keyframe_at_first",
        drop_first: 7,
        frames: 60,
        moments: &[1, 10, 23, 24, 40, 1000],
        refused_until: 23,
        encode: "-preset veryfast -bf 0 -g 30 -keyint_min 30 -sc_threshold 0",
        ..PLAIN
    },
    Row {
        name: "intra_refresh",
        encode: "-preset veryfast -x264-params intra-refresh=1:keyint=20",
        moments: &[1, 15, 25, 1000],
        ..PLAIN
    },
    Row {
        name: "intra_refresh_joined",
        encode: "-preset veryfast -x264-params intra-refresh=1:keyint=20",
        drop_first: 5,
        moments: &[1, 1000],
        expect: Expect::Refused("Snapshot response timeout"),
        ..PLAIN
    },
    // Times.
    Row {
        name: "gop_300",
        frames: 320,
        moments: &[1, 299, 300, 301, 1000],
        encode: "-preset veryfast -bf 0 -g 300 -keyint_min 300 -sc_threshold 0",
        ..PLAIN
    },
    Row {
        name: "gop_300_b",
        frames: 310,
        moments: &[150, 299, 1000],
        encode: "-preset veryfast -g 300 -keyint_min 300 -sc_threshold 0",
        ..PLAIN
    },
    Row {
        name: "one_a_second",
        fps: 1,
        frames: 12,
        moments: &[1, 5, 1000],
        encode: "-preset veryfast -bf 0",
        ..PLAIN
    },
    Row {
        name: "one_a_second_b",
        fps: 1,
        frames: 12,
        moments: &[1, 5, 1000],
        encode: "-preset veryfast -bf 2",
        ..PLAIN
    },
    Row { name: "sixty_a_second", fps: 60, frames: 60, encode: "-preset veryfast -g 120", ..PLAIN },
    Row {
        name: "time_jumps_ahead",
        jump: Some((P_AT, 3_600_000)),
        moments: &[P_AT, P_AT + 1, P_AT + 2, 30, 1000],
        encode: "-preset veryfast -g 60 -x264-params bframes=2:b-adapt=0:b-pyramid=none:scenecut=0",
        ..PLAIN
    },
    Row {
        name: "time_jumps_back",
        jump: Some((P_AT, -10_000)),
        moments: &[P_AT, P_AT + 1, P_AT + 2, 30, 1000],
        encode: "-preset veryfast -g 60 -x264-params bframes=2:b-adapt=0:b-pyramid=none:scenecut=0",
        ..PLAIN
    },
    // Fields.
    Row {
        name: "interlaced",
        size: (720, 576),
        fps: 50,
        frames: 40,
        colour: BT601,
        filter: "tinterlace=interleave_top",
        encode: "-preset veryfast -flags +ilme+ildct -x264-params tff=1",
        moments: &[1, 2, 9, 1000],
        fields: true,
        ..PLAIN
    },
    Row {
        name: "interlaced_flag_alone",
        size: (720, 576),
        frames: 20,
        colour: BT601,
        encode: "-preset veryfast -x264-params fake-interlaced=1",
        ..PLAIN
    },
];

/// Of `recovery_point_only`: with 5 units left out, the I picture at 20 in time is the last that is not sent too late.
const RECOVERY_POINT_AT: usize = 12;
/// A P picture where times jump: I, then P B B again and again.
const P_AT: usize = 16;
