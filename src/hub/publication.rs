//! What is known of a publication: given once by whoever publishes, read by REST, hooks and snapshots.

use std::time::SystemTime;

use crate::base::id::{MediaSessionId, StreamName};

/// Application key of connections that name none of their own (protocol document, section 10.1).
pub const DEFAULT_APP: &str = "defaultApp";

/// The facts of one publication that do not change while it lasts (protocol document, section 9.3).
#[derive(Clone, Debug)]
pub struct Publication {
    /// The published name.
    pub name: StreamName,
    /// The publisher's media session.
    pub media_session_id: MediaSessionId,
    /// How it reaches us.
    pub protocol: SourceProtocol,
    /// Backend application key of the publishing connection.
    pub app_key: String,
    /// Id of the publishing connection.
    pub session_id: String,
    /// When it was asked for, by the wall clock.
    pub created: SystemTime,
    /// A video track was negotiated, or is expected: what really comes is told by [`super::StreamFacts`].
    pub has_video: bool,
    /// Likewise for audio.
    pub has_audio: bool,
    /// Codec names as negotiated ("H264", "opus"); empty where there is no such track, or nothing was negotiated.
    pub video_codec: String,
    /// Likewise for audio.
    pub audio_codec: String,
    /// Recording was asked for.
    pub record: bool,
    /// The client's offer, where there is one.
    pub sdp: String,
    /// Bit rates asked for in kbit/s (now, least, most); 0 is unset.
    pub bitrates_kbps: [u32; 3],
    /// Video orientation was negotiated.
    pub cvo_extension: bool,
    /// What the page gave for hooks, as JSON; `null` when nothing.
    pub custom: serde_json::Value,
}

impl Publication {
    /// A publication of video in the default application, of which nothing more is known yet.
    #[must_use]
    pub fn new(
        name: StreamName,
        media_session_id: MediaSessionId,
        protocol: SourceProtocol,
        created: SystemTime,
    ) -> Self {
        Self {
            name,
            media_session_id,
            protocol,
            app_key: DEFAULT_APP.into(),
            session_id: String::new(),
            created,
            has_video: true,
            has_audio: false,
            video_codec: String::new(),
            audio_codec: String::new(),
            record: false,
            sdp: String::new(),
            bitrates_kbps: [0; 3],
            cvo_extension: false,
            custom: serde_json::Value::Null,
        }
    }
}

/// How a stream reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceProtocol {
    /// A browser or another WebRTC peer.
    WebRtc,
    /// An encoder that publishes by RTMP.
    Rtmp,
    /// Another server from which we pull by RTMP.
    RtmpPull,
    /// An encoder that publishes by RTSP (`ANNOUNCE`, `RECORD`).
    Rtsp,
    /// A camera or server from which we pull by RTSP.
    RtspPull,
    /// A file that we play.
    Vod,
    /// The test card made in this process.
    TestCard,
}

impl SourceProtocol {
    /// Every protocol there is.
    pub const ALL: [Self; 7] =
        [Self::WebRtc, Self::Rtmp, Self::RtmpPull, Self::Rtsp, Self::RtspPull, Self::Vod, Self::TestCard];

    /// As a label of a count.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::WebRtc => "webrtc",
            Self::Rtmp => "rtmp",
            Self::RtmpPull => "rtmp_pull",
            Self::Rtsp => "rtsp",
            Self::RtspPull => "rtsp_pull",
            Self::Vod => "vod",
            Self::TestCard => "test_card",
        }
    }

    /// Whether this server fetched the stream by itself, from the address that is its name.
    #[must_use]
    pub fn is_fetched(self) -> bool {
        matches!(self, Self::RtmpPull | Self::RtspPull | Self::Vod)
    }

    /// Whether time stamps of sound and pictures count from one moment.
    #[must_use]
    pub fn has_one_clock(self) -> bool {
        self != Self::WebRtc
    }

    /// `mediaProvider` in signalling and REST (protocol document, section 9.3).
    #[must_use]
    pub fn media_provider(self) -> &'static str {
        match self {
            Self::WebRtc => "WebRTC",
            // The name that clients know RTMP by.
            Self::Rtmp | Self::RtmpPull => "Flash",
            Self::Rtsp | Self::RtspPull => "RTSP",
            Self::Vod => "VOD",
            Self::TestCard => "TestCard",
        }
    }

    /// `transport` in REST.
    #[must_use]
    pub fn transport(self) -> &'static str {
        match self {
            Self::WebRtc => "UDP",
            Self::Rtmp | Self::RtmpPull | Self::Rtsp | Self::RtspPull => "TCP",
            Self::Vod | Self::TestCard => "LOCAL",
        }
    }
}

/// Where a publication stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStatus {
    /// The name is taken, media does not flow yet.
    Pending,
    /// Media transport is up.
    Publishing,
    /// Over.
    Ended,
}

/// Why a publication ended; the texts are those that clients know (protocol document, appendix B).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The publisher said so.
    #[error("Stopped by user")]
    ByUser,
    /// Its signalling connection went away.
    #[error("Stopped by session disconnect")]
    SessionDisconnect,
    /// An operator ended it.
    #[error("Stopped by rest /terminate")]
    Terminated,
    /// ICE did not connect in time.
    #[error("Failed by ICE timeout")]
    IceTimeout,
    /// ICE consent was lost (RFC 7675).
    #[error("Failed by ICE keep alive")]
    IceConsentLost,
    /// The DTLS handshake failed.
    #[error("Failed by DTLS error")]
    Dtls,
    /// The peer's certificate is not the one its offer named.
    #[error("Failed by DTLS fingerprint error")]
    DtlsFingerprint,
    /// No RTP for as long as `rtp_activity_detecting` allows.
    #[error("Failed by RTP activity")]
    RtpActivity,
    /// A source from which we pull went away, or was let go (protocol document, section 7.1).
    #[error("RtspAgent shutdown")]
    SourceGone,
    /// A file was played to its end.
    #[error("Stopped by publisher stop")]
    EndOfFile,
    /// A file could not be read any more.
    #[error("Got exception while streaming file")]
    FileFailed,
    /// A file that is played for all had no watchers for too long.
    #[error("Stopped by publisher stop")]
    Unwatched,
    /// The server stops.
    #[error("Requested stream shutdown")]
    Shutdown,
    /// A fault of ours; the log tells which.
    #[error("Failed by error")]
    Internal,
}

impl EndReason {
    /// Ended as somebody wished, rather than by a fault: the publisher's status is `UNPUBLISHED`, not `FAILED`.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        matches!(
            self,
            Self::ByUser | Self::SessionDisconnect | Self::Terminated | Self::EndOfFile | Self::Unwatched
        )
    }

    /// The reason as a label of a count.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::ByUser => "user",
            Self::SessionDisconnect => "disconnect",
            Self::Terminated => "terminated",
            Self::IceTimeout => "ice_timeout",
            Self::IceConsentLost => "ice_consent",
            Self::Dtls => "dtls",
            Self::DtlsFingerprint => "dtls_fingerprint",
            Self::RtpActivity => "rtp_activity",
            Self::SourceGone => "source_gone",
            Self::EndOfFile => "end_of_file",
            Self::FileFailed => "file_failed",
            Self::Unwatched => "unwatched",
            Self::Shutdown => "shutdown",
            Self::Internal => "internal",
        }
    }
}
