//! The client of one RTSP session (RFC 2326): asks a camera or server for a stream and takes what it sends.
//!
//! ```text
//! OPTIONS ─► DESCRIBE ─► SETUP (each track) ─► PLAY ─► media, reports, keep-alive ─► TEARDOWN
//!               │ 401: answered once with the password, again when the nonce is stale
//!               └ 3xx: Redirect, whose target the owner judges and connects to
//! ```
//!
//! What belongs here: requests in their order, what their answers mean, which channel or port belongs to which track, deadlines.
//! Bytes go in and come out; the connection, its address and its encryption are the owner's.

mod auth;
mod session;

use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

pub use self::auth::Login;
use self::session::Session;
use super::media::{MediaSettings, MediaStats};
use super::message::{Incoming, Invalid, Reader};
use crate::media::unit::{AccessUnit, AudioFrame};

/// Tracks that are received: one of video, one of sound.
pub const TRACKS_RECEIVED: usize = 2;

/// How a stream is asked for.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `User-Agent`.
    pub user_agent: String,
    /// For each answer.
    pub answer_limit: Duration,
    /// Without media for so long, the source is lost.
    pub silence_limit: Duration,
    /// Without a first datagram for so long, media does not come by UDP.
    pub datagram_limit: Duration,
    /// How media is to travel. For UDP the ports that are open for each track, RTP and RTCP.
    pub transport: Wanted,
    /// Of the receiver.
    pub media: MediaSettings,
}

/// How media is to travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Inside the connection, on these channels of audio and of video where they matter.
    Interleaved([Option<(u8, u8)>; 2]),
    /// By UDP, to these ports of ours.
    Udp([(u16, u16); TRACKS_RECEIVED]),
}

/// What comes out of a client.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this on the connection.
    Send(Bytes),
    /// Send this from the pair of sockets of this number to this port of the source.
    Datagram {
        /// The pair of [`Wanted::Udp`].
        pair: usize,
        /// From its second socket.
        is_rtcp: bool,
        /// Where to.
        port: u16,
        /// What.
        bytes: Bytes,
    },
    /// The source agreed to play; what it will send.
    Playing {
        /// A track of video.
        video: bool,
        /// A track of sound.
        audio: bool,
    },
    /// A coded picture.
    Video(AccessUnit),
    /// A frame of sound.
    Audio(AudioFrame),
    /// Something was lost: nothing can be decoded before the next keyframe.
    Gap,
    /// The stream is to be asked for there. Nothing else follows.
    Redirect(String),
    /// It is over. Nothing else follows.
    Over(ClientError),
    /// Nothing more until something happens or it is this time.
    Timeout(Instant),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// There is no password, or the source wants another one.
    #[error("the source wants another user or password")]
    Password,
    /// The source does not know the stream.
    #[error("the source does not know the stream")]
    NotFound,
    /// The source refuses a request.
    #[error("{method} is answered with {status}")]
    Refused {
        /// Which.
        method: &'static str,
        /// The status.
        status: u16,
    },
    /// The description cannot be used.
    #[error("description cannot be used: {0}")]
    Description(String),
    /// Media does not travel as was asked: it may in the other way.
    #[error("media does not come this way: {0}")]
    Transport(&'static str),
    /// No answer in time.
    #[error("no answer to {0}")]
    NoAnswer(&'static str),
    /// No media for longer than [`ClientSettings::silence_limit`].
    #[error("no media")]
    Silence,
    /// The source ended the stream.
    #[error("the source ended the stream")]
    Ended,
    /// What comes is not RTSP.
    #[error("not RTSP: {0}")]
    Invalid(#[from] Invalid),
    /// We ended it.
    #[error("closed")]
    Closed,
}

/// The client of one session over one connection.
#[derive(Debug)]
pub struct Client {
    reader: Reader,
    session: Session,
}

impl Client {
    /// A client whose connection is open; `url` holds no password.
    #[must_use]
    pub fn new(settings: ClientSettings, url: &str, login: Option<Login>, now: Instant) -> Self {
        let session = Session::new(settings, url, login, now);
        Self { reader: Reader::new(), session }
    }

    /// Room for bytes from the connection; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        self.reader.room()
    }

    /// So many bytes were read into [`Client::room`].
    pub fn filled(&mut self, now: Instant, count: usize) {
        self.reader.filled(count);
        loop {
            if self.session.is_over() {
                return;
            }
            match self.reader.incoming() {
                Ok(None) => return,
                Ok(Some(Incoming::Interleaved { channel, packet })) => {
                    self.session.on_frame(now, channel, packet);
                }
                Ok(Some(Incoming::Response(response))) => self.session.on_response(now, &response),
                Ok(Some(Incoming::Request(request))) => self.session.on_request(&request),
                Err(invalid) => return self.session.end(invalid.into()),
            }
        }
    }

    /// Takes a datagram that came to a pair of ports.
    pub fn handle_datagram(&mut self, now: Instant, pair: usize, is_rtcp: bool, bytes: &[u8]) {
        self.session.on_datagram(now, pair, is_rtcp, bytes);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.session.on_timeout(now);
    }

    /// Says goodbye; its request comes out, and then [`ClientError::Closed`].
    pub fn close(&mut self, now: Instant) {
        self.session.close(now);
    }

    /// Whether it is over: nothing but what waits comes out any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.is_over()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output {
        self.session.poll_output()
    }

    /// Counts of the media so far, and packets that belong to no track.
    #[must_use]
    pub fn stats(&self) -> (MediaStats, u64) {
        self.session.stats()
    }
}

#[cfg(test)]
mod tests;
