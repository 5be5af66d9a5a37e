//! The one table of keys: name, default, kind of value, meaning. [`Config`], the shipped file and
//! `docs/CONFIGURATION.md` are made from it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::kinds::{
    Address, Addresses, AnyKind, Bytes, Choice, FrameSize, Kind, Line, ListenPort, LogLevel, Milliseconds,
    OptionalPath, Password, Path, Port, Rotate, RotationKind, Secret, Switch, SwitchAndSeconds, Whole, Words,
};

/// One key of the table.
pub struct Key {
    /// As it is written in the file.
    pub name: &'static str,
    /// What holds when nobody says anything, as it would be written.
    pub default: &'static str,
    /// What it means, one element a line.
    pub doc: &'static [&'static str],
    /// The heading it stands under.
    pub section: &'static str,
    /// What is accepted.
    pub kind: &'static dyn AnyKind,
}

/// How folders of automatic pictures are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotNaming {
    /// After the media session: a new folder for each publication.
    MediaSessionId,
    /// After the stream: one folder for all publications of a name.
    StreamName,
}

/// How recordings are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordNaming {
    /// By `stream_record_policy_template`.
    Template,
    /// After the stream.
    StreamName,
}

macro_rules! keys {
    ($(
        $section:literal {
            $( $(#[doc = $doc:literal])+ $name:literal = $default:literal => $field:ident : $type:ty, $kind:expr; )+
        }
    )+) => {
        /// What the configuration means: one typed field for each key.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($( $(#[doc = $doc])+ pub $field: $type, )+)+
        }

        /// All keys that are served, in the order in which they are shown.
        pub static KEYS: &[Key] = &[
            $($( Key { name: $name, default: $default, doc: &[$($doc),+], section: $section, kind: &$kind }, )+)+
        ];

        impl Config {
            /// Asks `text_of` for the text of each key and gives it its meaning. `None` when a text is not of its
            /// key's kind.
            pub(super) fn from_texts<'a>(text_of: impl Fn(&str) -> &'a str) -> Option<Self> {
                Some(Self { $($( $field: $kind.parse(text_of($name))?, )+)+ })
            }
        }
    };
}

keys! {
    "Addresses and ports" {
        /// Addresses at which browsers reach this machine, in order of preference: they are written into the answers
        /// that browsers get, and media is sent there. Empty: the machine's own addresses.
        "ip" = "" => ip: Vec<IpAddr>, Addresses;
        /// Address on which every port is opened. 0.0.0.0 is all of the machine's IPv4 addresses, :: those of IPv6 too.
        "ip_local" = "0.0.0.0" => ip_local: IpAddr, Address;
        /// Signalling by WebSocket.
        "ws.port" = "8080" => ws_port: Option<u16>, ListenPort;
        /// Signalling by WebSocket over TLS, which pages loaded over https need.
        "wss.port" = "8443" => wss_port: Option<u16>, ListenPort;
        /// Pages, pictures, REST and statistics over HTTP.
        "http.port" = "8081" => http_port: Option<u16>, ListenPort;
        /// The same over HTTPS.
        "https.port" = "8444" => https_port: Option<u16>, ListenPort;
        /// The same over HTTPS once more, at the port that older manuals print.
        "legacy_https.port" = "8888" => legacy_https_port: Option<u16>, ListenPort;
        /// The same over HTTP once more; older installations used 9091. Closed unless a port is named.
        "legacy_http.port" = "" => legacy_http_port: Option<u16>, ListenPort;
        /// First UDP port for media. Each publication has one port while it lasts. 0, here and as the last port, takes
        /// any free one.
        "media_port_from" = "31001" => media_port_from: u16, Port;
        /// Last UDP port for media.
        "media_port_to" = "32000" => media_port_to: u16, Port;
        /// Receive buffer of a media socket, as asked of the system.
        "rtp_receive_buffer_size" = "131072" => rtp_receive_buffer_size: usize, Bytes { from: 4096, to: 1 << 28 };
        /// Send buffer of a media socket, as asked of the system.
        "rtp_send_buffer_size" = "131072" => rtp_send_buffer_size: usize, Bytes { from: 4096, to: 1 << 28 };
    }
    "TLS" {
        /// Certificate chain for the TLS ports, a PEM file. Empty: a self-signed certificate is made, kept under
        /// `data_dir`, and its fingerprint is logged.
        "tls.cert" = "" => tls_cert: Option<PathBuf>, OptionalPath;
        /// Private key of that certificate, a PEM file.
        "tls.key" = "" => tls_key: Option<PathBuf>, OptionalPath;
    }
    "Folders" {
        /// Folder for what the server writes, where no other key names a folder.
        "data_dir" = "data" => data_dir: PathBuf, Path;
        /// Folder with pages of your own, served beside the built-in ones. Empty: none.
        "web_dir" = "" => web_dir: Option<PathBuf>, OptionalPath;
    }
    "Connections" {
        /// Time between two pings to a signalling client. Clients expect one at least every 5 seconds.
        "keep_alive.server_interval" = "5000" => keep_alive_interval: Duration, Milliseconds { from: 100, to: 600_000 };
        /// Pings without an answer after which a signalling connection is closed.
        "keep_alive.probes" = "10" => keep_alive_probes: u64, Whole { from: 1, to: 1000 };
        /// How long a new connection may take for TLS and its first words: the WebSocket handshake, the `connection`
        /// message, the head of an HTTP request.
        "connection_handshake_ms" = "10000" => connection_handshake: Duration, Milliseconds { from: 100, to: 600_000 };
        /// Largest signalling message from a client.
        "ws_message_max_bytes" = "1MiB" => ws_message_max_bytes: usize, Bytes { from: 65_536, to: 1 << 28 };
        /// Connections that may be open at once on all TCP ports together. More are refused.
        "connections_max" = "2000" => connections_max: u64, Whole { from: 1, to: 1_000_000 };
        /// Connections that may be open at once from one address.
        "connections_per_address_max" = "200" => connections_per_address_max: u64, Whole { from: 1, to: 1_000_000 };
    }
    "Streams" {
        /// Codecs in order of preference. Taken from publishers over WebRTC are opus for sound, h264 and vp8 for video; other
        /// names are passed over.
        "codecs" = "opus,h264,vp8" => codecs: Vec<String>, Words;
        /// Whether a publication without RTP ends, and after how many seconds.
        "rtp_activity_detecting" = "true,60" => rtp_activity: Option<Duration>, SwitchAndSeconds { to: 86_400 };
        /// Streams that may be published at once.
        "streams_max" = "1000" => streams_max: u64, Whole { from: 1, to: 1_000_000 };
        /// Streams that one signalling connection may publish at once.
        "streams_per_connection_max" = "50" => streams_per_connection_max: u64, Whole { from: 1, to: 1_000_000 };
        /// How long a publisher may take to connect its media: to the first connectivity check.
        "ice_timeout_ms" = "15000" => ice_timeout: Duration, Milliseconds { from: 100, to: 600_000 };
        /// How long the DTLS handshake may take after that.
        "dtls_timeout_ms" = "15000" => dtls_timeout: Duration, Milliseconds { from: 100, to: 600_000 };
        /// A publisher whose connectivity checks stay away for so long is gone (RFC 7675 says 30 seconds).
        "ice_consent_timeout_ms" = "30000" => ice_consent_timeout: Duration, Milliseconds { from: 1000, to: 600_000 };
        /// Session name in answers to browsers.
        "user_agent" = "Stillcast" => user_agent: String, Line;
        /// Highest bit rate in kbit/s that a publisher is allowed.
        "video_bitrate_max_kbps" = "10000" => video_bitrate_max_kbps: u64, Whole { from: 100, to: 1_000_000 };
        /// Bit rate in kbit/s with which a browser may begin. Left to themselves (0), browsers begin with 300 and a picture of
        /// 320x180, and take some 15 seconds to climb. Chromium and its kin understand it.
        "video_bitrate_start_kbps" = "1500" => video_bitrate_start_kbps: u64, Whole { from: 0, to: 1_000_000 };
        /// Largest picture: a stream with more pixels than this size has is not decoded.
        "pixels_max" = "8192x4352" => pixels_max: (u32, u32), FrameSize { from: (16, 16), to: (16_384, 16_384), multiple_of: 1 };
        /// Access units kept of each stream since its last keyframe. A longer group of pictures is dropped, and
        /// pictures then wait for the next keyframe.
        "gop_units_max" = "600" => gop_units_max: u64, Whole { from: 1, to: 100_000 };
        /// Bytes kept of each stream since its last keyframe.
        "gop_bytes_max" = "32MiB" => gop_bytes_max: usize, Bytes { from: 65_536, to: 1 << 32 };
    }
    "Snapshots" {
        /// How long a snapshot request may wait for its picture.
        "snapshot_taking_interval_ms" = "3000" => snapshot_taking_interval: Duration, Milliseconds { from: 1, to: 600_000 };
        /// In how many parts that time is waited while a keyframe is missing: after each the publisher is asked for one again.
        "snapshot_taking_attempts" = "30" => snapshot_taking_attempts: u64, Whole { from: 1, to: 10_000 };
        /// How long a stream's decoder runs in step after somebody asked for a picture, so that the next one costs
        /// less. 0: never.
        "snapshot_watch_ms" = "10000" => snapshot_watch: Duration, Milliseconds { from: 0, to: 86_400_000 };
        /// Streams whose decoder may run in step at once; the one that was not asked for the longest is let go first.
        "snapshot_watched_max" = "8" => snapshot_watched_max: u64, Whole { from: 0, to: 10_000 };
        /// Threads that decode for snapshots. 0: one for each processor, two at least.
        "snapshot_decoders" = "0" => snapshot_decoders: u64, Whole { from: 0, to: 256 };
        /// Threads that make PNG files of decoded pictures. 0: one for each processor, two at least.
        "snapshot_encoders" = "0" => snapshot_encoders: u64, Whole { from: 0, to: 256 };
        /// Frames to decode from which on the publisher is asked for a keyframe as well, where it can make one; whichever
        /// picture is ready first is taken.
        "snapshot_keyframe_frames" = "30" => snapshot_keyframe_frames: u64, Whole { from: 1, to: 100_000 };
        /// Streams that may wait for a decoder; requests for more are refused at once.
        "snapshot_queue_max" = "32" => snapshot_queue_max: u64, Whole { from: 1, to: 10_000 };
    }
    "Transcoding" {
        /// Whether viewers who cannot be sent what is published are refused (`Transcoding required, but disabled`). Otherwise
        /// pictures are made anew for them as H.264: in the size and bit rate that they ask for, in the order of showing
        /// where the stream has B-frames to which others refer, and of VP8 for those who have no decoder for it.
        "transcoding_disabled" = "false" => transcoding_disabled: bool, Switch;
        /// Streams that may be made anew at once, each form of one counted for itself; more are refused
        /// (`No available transcoders`). All viewers of one form share it. 0: one for each processor, two at least.
        "transcoders_max" = "0" => transcoders_max: u64, Whole { from: 0, to: 1000 };
    }
    "WHIP and WHEP" {
        /// Token that encoders must name (`Authorization: Bearer …`) to publish by HTTP at /whip/NAME. Empty: none.
        "whip_token" = "" => whip_token: Secret, Password;
        /// Token that players must name to watch by HTTP at /whep/NAME. Empty: none.
        "whep_token" = "" => whep_token: Secret, Password;
    }
    "RTMP" {
        /// Encoders publish here, and players take streams: rtmp://host:1935/live/NAME.
        "rtmp.port" = "1935" => rtmp_port: Option<u16>, ListenPort;
        /// The same over TLS (rtmps://). Closed unless a port is named.
        "rtmps.port" = "" => rtmps_port: Option<u16>, ListenPort;
    }
    "RTSP" {
        /// Encoders publish here, and players take streams: rtsp://host:8554/NAME. The customary 554 needs a privilege.
        "rtsp.port" = "8554" => rtsp_port: Option<u16>, ListenPort;
        /// Whether a camera's media comes through its RTSP connection. `false` asks for UDP, and falls back to the
        /// connection when nothing arrives.
        "rtsp_interleaved_mode" = "true" => rtsp_interleaved_mode: bool, Switch;
        /// Channels to ask for inside that connection: audio, then video, as in 2-3;0-1. Empty: numbered as they are
        /// set up.
        "rtsp_interleaved_channels" = "" => rtsp_interleaved_channels: String, Line;
        /// Local address from which cameras are connected to. Empty: the system chooses.
        "rtsp_client_address" = "" => rtsp_client_address: Vec<IpAddr>, Addresses;
    }
    "Pulled sources" {
        /// Hosts and networks from which streams may be pulled although they are loopback, private or link-local: names,
        /// addresses, 192.168.7.0/24. All other such addresses are refused. When it names anything, public addresses
        /// stay allowed.
        "pull_allow" = "" => pull_allow: Vec<String>, Words;
        /// Hosts and networks from which nothing is pulled, whatever else is allowed.
        "pull_deny" = "" => pull_deny: Vec<String>, Words;
        /// Sources that may be pulled at once.
        "pulls_max" = "100" => pulls_max: u64, Whole { from: 0, to: 100_000 };
        /// A source that was pulled for viewers is let go when nobody has watched for so long. One started by REST stays.
        "pull_idle_ms" = "30000" => pull_idle: Duration, Milliseconds { from: 100, to: 86_400_000 };
        /// How long a source may take to answer: the connection, and each reply.
        "pull_answer_ms" = "10000" => pull_answer: Duration, Milliseconds { from: 100, to: 600_000 };
    }
    "Files on demand" {
        /// Folder of the files that are played as vod://FILE and vod-live://FILE; they may lie in folders below it.
        "media_dir" = "media" => media_dir: PathBuf, Path;
        /// Whether every file of vod-live:// begins anew at its end.
        "vod_live_loop" = "false" => vod_live_loop: bool, Switch;
        /// A file of vod-live:// that was begun for viewers ends when nobody has watched for so long, in milliseconds. One started
        /// by REST stays to its end.
        "vod_stream_timeout" = "30000" => vod_stream_timeout: Duration, Milliseconds { from: 100, to: 86_400_000 };
    }
    "Automatic snapshots" {
        /// Whether pictures of every published stream are written to files.
        "snapshot_auto_enabled" = "false" => snapshot_auto_enabled: bool, Switch;
        /// Folder for them. Empty: `snapshots` under `data_dir`.
        "snapshot_auto_dir" = "" => snapshot_auto_dir: Option<PathBuf>, OptionalPath;
        /// What each stream's own folder is named after.
        "snapshot_auto_naming" = "mediaSessionId" => snapshot_auto_naming: SnapshotNaming, Choice(&[("mediaSessionId", SnapshotNaming::MediaSessionId), ("streamName", SnapshotNaming::StreamName)]);
        /// Frames for one picture: 30 writes every thirtieth.
        "snapshot_auto_rate" = "30" => snapshot_auto_rate: u64, Whole { from: 1, to: 1_000_000 };
        /// Pictures kept in each folder; the oldest are removed. 0 keeps all.
        "snapshot_auto_retention" = "20" => snapshot_auto_retention: u64, Whole { from: 0, to: 10_000_000 };
        /// Seconds after which pictures are removed, those of streams that are over too, and folders that are empty then. 0: never.
        "snapshot_auto_retention_age_s" = "0" => snapshot_auto_retention_age_s: u64, Whole { from: 0, to: 10_000_000_000 };
        /// Bytes that the pictures of all folders may have together; the oldest are removed. 0: no bound.
        "snapshot_auto_retention_bytes" = "0" => snapshot_auto_retention_bytes: usize, Bytes { from: 0, to: 1 << 60 };
        /// Bytes to be free on the file system of the pictures: the oldest are removed for it. 0: none are.
        "snapshot_auto_retention_free_bytes" = "0" => snapshot_auto_retention_free_bytes: usize, Bytes { from: 0, to: 1 << 60 };
    }
    "Recording" {
        /// Folder of recordings. Empty: `records` under `data_dir`. They are served at /client/records/NAME.
        "records_dir" = "" => records_dir: Option<PathBuf>, OptionalPath;
        /// Whether publishers who ask for it are recorded.
        "record_streams" = "true" => record_streams: bool, Switch;
        /// Whether every stream that is published by RTMP is recorded.
        "record_flash_published_streams" = "false" => record_flash_published_streams: bool, Switch;
        /// Whether every stream that is pulled by RTSP is recorded.
        "record_rtsp_streams" = "false" => record_rtsp_streams: bool, Switch;
        /// How files are named: by the template below, or after the stream.
        "stream_record_policy" = "template" => stream_record_policy: RecordNaming, Choice(&[("template", RecordNaming::Template), ("streamName", RecordNaming::StreamName)]);
        /// Elements: {streamName}, {mediaSessionId}, {sessionId}, {login}, {audioCodec}, {videoCodec}, {startTime}, {startTimeMillis},
        /// and {endTime}, {endTimeMillis}, {duration}, with which a file has its name only when it is complete. What does not
        /// fit into a file name is replaced.
        "stream_record_policy_template" = "stream-{mediaSessionId}-{login}" => stream_record_policy_template: String, Line;
        /// When a recording goes on in another file: seconds (3600), or bytes (20M, 1G). Empty: never.
        "record_rotation" = "" => record_rotation: Option<Rotate>, RotationKind;
        /// Complete recordings kept; the oldest are removed. 0 keeps all.
        "record_retention_files" = "0" => record_retention_files: u64, Whole { from: 0, to: 1_000_000_000 };
        /// Seconds after which complete recordings are removed. 0: never.
        "record_retention_age_s" = "0" => record_retention_age_s: u64, Whole { from: 0, to: 10_000_000_000 };
        /// Bytes that complete recordings may have in all; the oldest are removed. 0: no bound.
        "record_retention_bytes" = "0" => record_retention_bytes: usize, Bytes { from: 0, to: 1 << 60 };
        /// Bytes to be free on the file system of recordings: the oldest are removed for it. 0: none are.
        "record_retention_free_bytes" = "0" => record_retention_free_bytes: usize, Bytes { from: 0, to: 1 << 60 };
        /// A recording ends when fewer bytes are free there. 0: it goes on until nothing can be written.
        "record_free_min_bytes" = "64MiB" => record_free_min_bytes: usize, Bytes { from: 0, to: 1 << 60 };
        /// Program that is run after each recording, with the stream's name and the file's whole path as its arguments; no
        /// shell is involved. Empty: none.
        "on_record_hook_script" = "" => on_record_hook_script: Option<PathBuf>, OptionalPath;
        /// How long one run of it may last before it is killed.
        "on_record_hook_limit_ms" = "60000" => on_record_hook_limit: Duration, Milliseconds { from: 100, to: 86_400_000 };
        /// How long a publisher's last status may wait for its file.
        "record_finish_limit_ms" = "10000" => record_finish_limit: Duration, Milliseconds { from: 0, to: 600_000 };
    }
    "REST" {
        /// Whether REST and picture requests are served without a user name and password.
        "disable_rest_auth" = "true" => disable_rest_auth: bool, Switch;
        /// User name for HTTP basic authentication.
        "rest_auth_user" = "admin" => rest_auth_user: String, Line;
        /// Password for HTTP basic authentication; must be set when `disable_rest_auth` is false.
        "rest_auth_password" = "" => rest_auth_password: Secret, Password;
        /// Pages of which origin may use REST from a browser. Empty: the header is not sent.
        "rest_access_control_allow_origin" = "*" => rest_allow_origin: String, Line;
        /// Request headers that such pages may send.
        "rest_access_control_allow_headers" = "content-type,x-requested-with" => rest_allow_headers: String, Line;
        /// Methods that such pages may use.
        "rest_access_control_allow_methods" = "POST" => rest_allow_methods: String, Line;
    }
    "Demo" {
        /// Size of the test card that `--demo` publishes.
        "demo_size" = "1280x720" => demo_size: (u32, u32), FrameSize { from: (160, 90), to: (3840, 2160), multiple_of: 2 };
        /// Its frames a second.
        "demo_fps" = "30" => demo_fps: u64, Whole { from: 1, to: 120 };
        /// Its frames from one keyframe to the next.
        "demo_keyframe_interval" = "60" => demo_keyframe_interval: u64, Whole { from: 1, to: 10_000 };
    }
    "Logging" {
        /// What is logged to standard error: a level, and perhaps other levels for parts of the program.
        "log_level" = "info" => log_level: String, LogLevel;
    }
}

impl Key {
    /// The key of this name, if it is served.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.name)
    }
}

/// The environment variable for a key: `STILLCAST_`, then the name in upper case with `.` and `-` as `_`.
#[must_use]
pub fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase().replace(['.', '-'], "_"))
}

/// What the name of each environment variable of ours begins with.
pub const VARIABLE_PREFIX: &str = "STILLCAST_";

/// Keys of Flashphoner Web Call Server that are known and have no effect here (protocol document, section 11): a file
/// written for it can be used as it is, and one line in the log says which of its keys do nothing.
pub static NOT_SERVED: &[&str] = &[
    "client_log_level",
    "codecs_exclude_sip",
    "codecs_exclude_sip_rtmp",
    "codecs_exclude_streaming",
    "compact_media_port_usage",
    "disable_rest_requests",
    "disable_streaming_proxy",
    "domain",
    "hls.http.port",
    "hls.https.port",
    "ice_tcp_channel_high_water_mark",
    "ice_tcp_channel_low_water_mark",
    "ice_tcp_transport",
    "keep_alive_streaming_sessions_enabled",
    "port_from",
    "port_to",
    "profiles",
    "record_formats",
    "record_h264_to_ts",
    "record_mixer_streams",
    "rest_hook_secret_key",
    "rest_hook_send_hash",
    "rest_max_connections",
    "rest_request_timeout",
    "rtmfp.port",
    "rtmp_transponder_full_url",
    "rtmp_transponder_stream_name_prefix",
    "rtp_bundle",
    "streaming_sessions_keep_alive_app_keys",
    "streaming_sessions_keep_alive_interval",
    "streaming_video_decoder_fast_start",
    "wss.cert.password",
    "wss.keystore.file",
    "wss.keystore.password",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_variables_are_distinct_and_defaults_are_of_their_kind() {
        let mut names = HashSet::new();
        let mut variables = HashSet::new();
        for key in KEYS {
            assert!(names.insert(key.name), "{} twice", key.name);
            assert!(variables.insert(key.variable()), "{} twice", key.variable());
            assert!(key.kind.accepts(key.default), "{}={}", key.name, key.default);
        }
        for name in NOT_SERVED {
            assert!(names.insert(name), "{name} twice");
            assert!(variables.insert(variable(name)), "{name} twice");
        }
    }
}
