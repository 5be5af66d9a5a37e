//! From the configuration to what each service asks for.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::base::id::random_id;
use crate::conf::{Config, RecordNaming, Rotate, SnapshotNaming};
use crate::edge::accept::ConnectionLimits;
use crate::edge::http::HttpSettings;
use crate::edge::ports::PortSettings;
use crate::edge::pull::PullSettings;
use crate::edge::rest::RestSettings;
use crate::edge::rest::access::{CorsSettings, Credentials};
use crate::edge::rtc::RtcSettings;
use crate::edge::rtc::addresses::candidates;
use crate::edge::rtmp::RtmpSettings;
use crate::edge::rtsp::RtspSettings;
use crate::edge::tls::TlsSettings;
use crate::edge::web::WebSettings;
use crate::edge::whip::WhipSettings;
use crate::edge::ws::WsSettings;
use crate::hub::{GopLimits, Registry};
use crate::proto::rtmp::server::ServerSettings;
use crate::proto::rtsp::server as rtsp_server;
use crate::proto::signal::SignalSettings;
use crate::services::auto::{AutoSettings, Naming};
use crate::services::record::{self, RecordSettings};
use crate::services::retention::Keep;
use crate::services::snapshot::SnapshotSettings;
use crate::services::test_card::{CardSettings, DemoSettings};
use crate::services::transcode::TranscodeSettings;
use crate::services::vod::{FilePictureSettings, VodSettings};

/// A number from the configuration in a narrower type; the table of keys keeps it far below the bound.
fn narrow<T: TryFrom<u64> + Bounded>(number: u64) -> T {
    T::try_from(number).unwrap_or(T::MAX)
}

/// A number with a greatest value.
trait Bounded {
    const MAX: Self;
}

impl Bounded for usize {
    const MAX: Self = Self::MAX;
}

impl Bounded for u32 {
    const MAX: Self = Self::MAX;
}

pub(super) fn registry(config: &Config) -> Registry {
    let limits = GopLimits { units: narrow(config.gop_units_max), bytes: config.gop_bytes_max };
    Registry::new(limits, narrow(config.streams_max))
}

pub(super) fn connections(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        total: narrow(config.connections_max),
        per_address: narrow(config.connections_per_address_max),
    }
}

pub(super) fn tls(config: &Config) -> TlsSettings {
    TlsSettings {
        cert: config.tls_cert.clone(),
        key: config.tls_key.clone(),
        data_dir: config.data_dir.clone(),
        names: config.ip.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn media_ports(config: &Config) -> PortSettings {
    PortSettings {
        address: config.ip_local,
        from: config.media_port_from,
        to: config.media_port_to,
        receive_buffer_bytes: config.rtp_receive_buffer_size,
        send_buffer_bytes: config.rtp_send_buffer_size,
    }
}

pub(super) fn rtc(config: &Config) -> RtcSettings {
    // An answer without a session name is no SDP (RFC 8866 section 5.3 has this one for "none").
    let session_name = if config.user_agent.is_empty() { "-" } else { &config.user_agent };
    RtcSettings {
        external_addresses: config.ip.clone(),
        codecs: config.codecs.clone(),
        ice_timeout: config.ice_timeout,
        handshake_timeout: config.dtls_timeout,
        consent_timeout: config.ice_consent_timeout,
        rtp_activity: config.rtp_activity,
        pixels_max: pixels_max(config),
        bitrate_max_bps: config.video_bitrate_max_kbps.saturating_mul(1000),
        bitrate_start_kbps: config.video_bitrate_start_kbps,
        session_name: session_name.to_owned(),
    }
}

pub(super) fn transcoding(config: &Config) -> TranscodeSettings {
    let renditions_max = if config.transcoding_disabled { 0 } else { threads(config.transcoders_max) };
    TranscodeSettings { renditions_max, pixels_max: pixels_max(config) }
}

pub(super) fn pulls(config: &Config) -> PullSettings {
    PullSettings {
        allow: config.pull_allow.clone(),
        deny: config.pull_deny.clone(),
        pulls_max: narrow(config.pulls_max),
        idle: config.pull_idle,
        answer: config.pull_answer,
        silence: config.rtp_activity,
        interleaved: config.rtsp_interleaved_mode,
        channels: channels(&config.rtsp_interleaved_channels),
        local: config.rtsp_client_address.clone(),
        pixels_max: pixels_max(config),
        user_agent: config.user_agent.clone(),
    }
}

/// Channels of audio and video, as in `2-3;0-1`; what is not there or cannot be read is left to the order of the tracks.
fn channels(text: &str) -> [Option<(u8, u8)>; 2] {
    let mut pairs = text.split(';').map(|pair| {
        let (rtp, rtcp) = pair.trim().split_once('-')?;
        Some((rtp.trim().parse().ok()?, rtcp.trim().parse().ok()?))
    });
    [pairs.next().flatten(), pairs.next().flatten()]
}

/// Told to RTSP clients as the timeout of their session: what most of them expect (RFC 2326 section 12.37).
const RTSP_SESSION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an RTSP player waits for the first picture of a stream that has just begun.
const RTSP_DESCRIBE_LIMIT: Duration = Duration::from_secs(5);
/// How long a missing datagram of an RTSP publisher is waited for: it cannot be asked for again.
const RTSP_HOLD_BACK: Duration = Duration::from_millis(100);

pub(super) fn rtsp(config: &Config) -> RtspSettings {
    RtspSettings {
        server: rtsp_server::ServerSettings {
            setup_limit: config.connection_handshake,
            session_timeout: RTSP_SESSION_TIMEOUT,
            silence_limit: config.rtp_activity,
            hold_back: RTSP_HOLD_BACK,
            pixels_max: pixels_max(config),
            product: config.user_agent.clone(),
        },
        write_limit: WRITE_LIMIT,
        describe_limit: RTSP_DESCRIBE_LIMIT,
    }
}

/// Time in which a client that has something to read must read some of it.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Time for saying goodbye, far less than a stop may take in all.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Snapshots that one connection may wait for at once: a page has a button, not a hundred.
const SNAPSHOTS_PER_CONNECTION_MAX: usize = 32;
/// Frames that are no messages; a page that sends more is no client of ours.
const BAD_MESSAGES_MAX: u32 = 100;

pub(super) fn ws(config: &Config) -> WsSettings {
    WsSettings {
        handshake_limit: config.connection_handshake,
        message_max_bytes: config.ws_message_max_bytes,
        write_limit: WRITE_LIMIT,
        close_limit: CLOSE_LIMIT,
        signal: SignalSettings {
            ping_interval: config.keep_alive_interval,
            ping_probes: narrow(config.keep_alive_probes),
            connection_limit: config.connection_handshake,
            streams_max: narrow(config.streams_per_connection_max),
            snapshots_max: SNAPSHOTS_PER_CONNECTION_MAX,
            bad_messages_max: BAD_MESSAGES_MAX,
        },
    }
}

pub(super) fn rtmp(config: &Config) -> RtmpSettings {
    RtmpSettings {
        session: ServerSettings {
            pixels_max: pixels_max(config),
            idle_limit: config.connection_handshake,
            silence_limit: config.rtp_activity,
        },
        write_limit: WRITE_LIMIT,
        close_limit: CLOSE_LIMIT,
    }
}

pub(super) fn http(config: &Config) -> HttpSettings {
    HttpSettings { head_deadline: config.connection_handshake, ..HttpSettings::usual() }
}

pub(super) fn whip(config: &Config) -> WhipSettings {
    WhipSettings::new(config.whip_token.reveal(), config.whep_token.reveal(), cors(config))
}

fn cors(config: &Config) -> CorsSettings {
    CorsSettings {
        allow_origin: config.rest_allow_origin.clone(),
        allow_headers: config.rest_allow_headers.clone(),
        allow_methods: config.rest_allow_methods.clone(),
    }
}

pub(super) fn rest(config: &Config) -> RestSettings {
    // As browsers are told it: the address on which ports are opened may be "all of them", which is nobody's.
    let known = candidates(&config.ip, SocketAddr::new(config.ip_local, 0)).unwrap_or_default();
    let own_address = known.first().map_or(config.ip_local, SocketAddr::ip);
    RestSettings {
        cors: cors(config),
        credentials: (!config.disable_rest_auth)
            .then(|| Credentials::new(&config.rest_auth_user, config.rest_auth_password.reveal())),
        node_id: format!("{}@{own_address}", random_id().replace('-', "")),
    }
}

pub(super) fn web(config: &Config) -> WebSettings {
    WebSettings { web_dir: config.web_dir.clone() }
}

/// Most pixels of a coded picture.
pub(super) fn pixels_max(config: &Config) -> u64 {
    let (width, height) = config.pixels_max;
    u64::from(width) * u64::from(height)
}

/// How many threads 0 stands for: one a processor, two at least, so that one slow stream does not hold all others up.
fn threads(configured: u64) -> usize {
    match narrow(configured) {
        0 => std::thread::available_parallelism().map_or(2, |processors| processors.get().max(2)),
        number => number,
    }
}

pub(super) fn snapshots(config: &Config) -> SnapshotSettings {
    SnapshotSettings {
        limit: config.snapshot_taking_interval,
        attempts: narrow(config.snapshot_taking_attempts),
        watch: config.snapshot_watch,
        watched_max: narrow(config.snapshot_watched_max),
        decoders: threads(config.snapshot_decoders),
        encoders: threads(config.snapshot_encoders),
        queue_max: narrow(config.snapshot_queue_max),
        keyframe_units: config.snapshot_keyframe_frames,
        pixels_max: pixels_max(config),
    }
}

/// `None`: none are to be taken.
pub(super) fn automatic_snapshots(config: &Config) -> Option<AutoSettings> {
    config.snapshot_auto_enabled.then(|| AutoSettings {
        dir: config.snapshot_auto_dir.clone().unwrap_or_else(|| config.data_dir.join("snapshots")),
        naming: match config.snapshot_auto_naming {
            SnapshotNaming::MediaSessionId => Naming::MediaSessionId,
            SnapshotNaming::StreamName => Naming::StreamName,
        },
        rate: NonZeroU64::new(config.snapshot_auto_rate).unwrap_or(NonZeroU64::MIN),
        retention: narrow(config.snapshot_auto_retention),
        keep: Keep {
            files: 0,
            age: age(config.snapshot_auto_retention_age_s),
            bytes: config.snapshot_auto_retention_bytes as u64,
            free_bytes: config.snapshot_auto_retention_free_bytes as u64,
        },
        pixels_max: pixels_max(config),
    })
}

/// An age in seconds, of which 0 is none.
fn age(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

pub(super) fn recordings(config: &Config) -> RecordSettings {
    RecordSettings {
        dir: config.records_dir.clone().unwrap_or_else(|| config.data_dir.join("records")),
        on_request: config.record_streams,
        all_rtmp: config.record_flash_published_streams,
        all_rtsp_pulls: config.record_rtsp_streams,
        naming: match config.stream_record_policy {
            RecordNaming::Template => record::Naming::Template(config.stream_record_policy_template.clone()),
            RecordNaming::StreamName => record::Naming::StreamName,
        },
        rotation: match config.record_rotation {
            None => record::Rotation::Never,
            Some(Rotate::After(time)) => record::Rotation::After(time),
            Some(Rotate::Bytes(bytes)) => record::Rotation::Bytes(bytes),
        },
        keep: Keep {
            files: config.record_retention_files,
            age: age(config.record_retention_age_s),
            bytes: config.record_retention_bytes as u64,
            free_bytes: config.record_retention_free_bytes as u64,
        },
        free_min_bytes: config.record_free_min_bytes as u64,
        hook: config.on_record_hook_script.clone(),
        hook_limit: config.on_record_hook_limit,
        finish_limit: config.record_finish_limit,
    }
}

pub(super) fn vods(config: &Config) -> VodSettings {
    VodSettings {
        media_dir: config.media_dir.clone(),
        live_loop: config.vod_live_loop,
        idle: config.vod_stream_timeout,
        files_max: narrow(config.streams_max),
        pixels_max: pixels_max(config),
    }
}

pub(super) fn file_pictures(config: &Config) -> FilePictureSettings {
    FilePictureSettings {
        media_dir: config.media_dir.clone(),
        limit: config.snapshot_taking_interval,
        threads: threads(config.snapshot_decoders),
        pixels_max: pixels_max(config),
    }
}

pub(super) fn demo(config: &Config) -> DemoSettings {
    let (width, height) = config.demo_size;
    let card = CardSettings {
        frames_per_second: narrow(config.demo_fps),
        keyframe_interval: narrow(config.demo_keyframe_interval),
        ..CardSettings::sized(width, height)
    };
    DemoSettings { card, ..DemoSettings::standard() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::{Sources, load};

    #[test]
    fn the_node_is_named_by_an_address_that_clients_know() {
        let node_id = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            rest(&load(&Sources { settings, ..Sources::default() }).unwrap().config).node_id
        };
        let of_interface = node_id(&[]);
        let (random, address) = of_interface.split_once('@').unwrap();
        assert_eq!(random.len(), 32);
        assert!(!address.parse::<std::net::IpAddr>().unwrap().is_unspecified(), "{of_interface}");
        assert!(node_id(&[("ip", "203.0.113.7"), ("ip_local", "192.0.2.1")]).ends_with("@203.0.113.7"));
        assert!(node_id(&[("ip_local", "192.0.2.1")]).ends_with("@192.0.2.1"));
    }
}
