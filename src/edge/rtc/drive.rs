//! The loop of a peer's thread.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use super::counted::Counted;
use super::watch::tell_if_room;
use super::ways::Ways;
use crate::base::clock::Clock;
use crate::base::id::MediaSessionId;
use crate::base::metrics::Metrics;
use crate::base::queue::Offer;
use crate::base::stop::StopToken;
use crate::base::wait::{Interest, Waiter};
use crate::edge::ports::{MediaSocket, RECEIVE_BYTES};
use crate::hub::{EndReason, Publisher, Reception};
use crate::proto::peer::{CloseCause, Output, Peer, PeerEvent};
use crate::proto::signal::{EndStatus, Event};

/// Readings of the socket before commands and deadlines are looked at: a frame of Full HD has about a hundred datagrams.
pub(super) const READ_BATCH: usize = 128;

/// From one reading of the peer's counts to the next.
pub(super) const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// What a peer is told.
#[derive(Debug)]
pub(super) enum Command {
    /// End for this reason.
    Stop(EndReason),
}

/// What a peer's thread owns. It ends when the peer does, when it is told to, or when the server stops.
pub(super) struct Drive {
    pub(super) media: MediaSocket,
    pub(super) waiter: Waiter,
    pub(super) peer: Peer,
    pub(super) publisher: Publisher,
    pub(super) bell: Receiver<()>,
    pub(super) commands: Receiver<Command>,
    pub(super) events: Offer<Event>,
    pub(super) stop: StopToken,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

/// The publication and its last word. However the thread ends, by a panic too, the name is free and then the client's
/// session hears of it.
struct Ending {
    publisher: Option<Publisher>,
    events: Offer<Event>,
    media_session_id: MediaSessionId,
    metrics: Metrics,
    reason: EndReason,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(publisher) = self.publisher.take() {
            tracing::info!("{} ended: {}", publisher.stream().publication().name, self.reason);
            publisher.end(self.reason.clone());
        }
        self.metrics.publications_ended_total.with_label_values(&[self.reason.label()]).inc();
        let status = if self.reason.is_orderly() { EndStatus::Orderly } else { EndStatus::Failed };
        // Full: the connection sees it by the count of refused events, and closes.
        let _ = self.events.offer(Event::Ended {
            media_session_id: self.media_session_id.clone(),
            status,
            info: self.reason.to_string(),
        });
    }
}

/// Whether a publication goes on.
enum Next {
    At(Instant),
    Over(EndReason),
}

impl Drive {
    pub(super) fn run(self) {
        let Self { media, waiter, peer, publisher, bell, commands, events, stop, metrics, clock } = self;
        let publication = publisher.stream().publication();
        let (name, media_session_id) = (publication.name.clone(), publication.media_session_id.clone());
        let mut ending = Ending {
            publisher: Some(publisher),
            events: events.clone(),
            media_session_id: media_session_id.clone(),
            metrics: metrics.clone(),
            reason: EndReason::Internal,
        };
        let counted = Counted::new(metrics, name.to_string());
        let mut driven =
            Driven { media, ways: Ways::default(), peer, events, media_session_id, counted, video_bytes: 0 };
        if let Some(publisher) = &ending.publisher {
            let reason = driven.drive(publisher, waiter, &bell, &commands, &stop, &clock);
            ending.reason = reason;
        }
        driven.counted.count(&driven.peer);
        // In this order: the port, then the name, then the client's session.
        drop(driven);
        drop(ending);
    }
}

/// What the loop changes.
struct Driven {
    media: MediaSocket,
    ways: Ways,
    peer: Peer,
    events: Offer<Event>,
    media_session_id: MediaSessionId,
    counted: Counted,
    /// Bytes of pictures when the client was last told of their rate.
    video_bytes: u64,
}

impl Driven {
    #[allow(clippy::too_many_arguments, reason = "the places where one thread waits, side by side")]
    fn drive(
        &mut self,
        publisher: &Publisher,
        mut waiter: Waiter,
        bell: &Receiver<()>,
        commands: &Receiver<Command>,
        stop: &StopToken,
        clock: &Clock,
    ) -> EndReason {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut count_at = clock.now() + COUNT_INTERVAL;
        loop {
            let deadline = match self.drain(publisher) {
                Next::At(deadline) => deadline,
                Next::Over(reason) => return reason,
            };
            let now = clock.now();
            let socket = (self.media.socket().as_fd(), Interest::Read);
            let ready = match waiter.wait_until(&[socket], now, Some(deadline)) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!("cannot wait for media: {error}");
                    return EndReason::Internal;
                }
            };
            if ready.readable != 0
                && let Some(reason) = self.read(publisher, clock, &mut buffer)
            {
                return reason;
            }
            let now = clock.now();
            if ready.woken {
                match commands.try_recv() {
                    Ok(Command::Stop(reason)) => return self.close(publisher, now, reason),
                    // The owner is gone without a word: its thread has panicked.
                    Err(TryRecvError::Disconnected) => {
                        return self.close(publisher, now, EndReason::SessionDisconnect);
                    }
                    Err(TryRecvError::Empty) => {}
                }
                if stop.is_set() {
                    return self.close(publisher, now, EndReason::Shutdown);
                }
                if let Some(reason) = publisher.asked_to_end() {
                    return self.close(publisher, now, reason);
                }
                if bell.try_recv().is_ok() {
                    self.peer.request_keyframe(now);
                    if let Next::Over(reason) = self.drain(publisher) {
                        return reason;
                    }
                }
            }
            if now >= count_at {
                count_at = now + COUNT_INTERVAL;
                self.counted.count(&self.peer);
                let bytes = publisher.stream().facts().video_bytes;
                let bps =
                    (bytes - std::mem::replace(&mut self.video_bytes, bytes)) * 8 / COUNT_INTERVAL.as_secs();
                tell_if_room(
                    &self.events,
                    Event::VideoRate { media_session_id: self.media_session_id.clone(), bps },
                );
                let received = self.peer.stats().receiver;
                if let Some(nanos) = received.sound_offset_ns {
                    if publisher.stream().facts().sound_offset_ns.is_none() {
                        tracing::debug!("reports of the sender put sound and pictures on one clock");
                    }
                    publisher.tell_sound_offset(nanos);
                }
                publisher
                    .tell_reception(Reception { lost_packets: received.lost, asked_again: received.nacks });
            }
            self.peer.handle_timeout(now);
        }
    }

    /// Takes what has come; returns a reason when the publication is over.
    fn read(&mut self, publisher: &Publisher, clock: &Clock, buffer: &mut [u8]) -> Option<EndReason> {
        for _ in 0..READ_BATCH {
            match self.media.receive(buffer) {
                Ok(received) => {
                    self.ways.note(received.from, received.to);
                    for datagram in received.datagrams {
                        self.peer.handle_datagram(clock.now(), received.from, datagram);
                        if let Next::Over(reason) = self.drain(publisher) {
                            return Some(reason);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What the network says about something that we sent; reading it takes it away.
                Err(error) => tracing::debug!("media socket: {error}"),
            }
        }
        None
    }

    /// Says goodbye to the peer, as far as one round of datagrams does.
    fn close(&mut self, publisher: &Publisher, now: Instant, reason: EndReason) -> EndReason {
        self.peer.close(now);
        let _ = self.drain(publisher);
        reason
    }

    /// Empties the peer: datagrams out, units into the hub, events to the client's session.
    fn drain(&mut self, publisher: &Publisher) -> Next {
        loop {
            match self.peer.poll_output() {
                Output::Transmit { to, bytes } => {
                    // A datagram that is not taken is a lost datagram.
                    let _ = self.media.send(&bytes, to, self.ways.to(to));
                }
                Output::Video(unit) => publisher.push_video(unit),
                Output::Audio(frame) => publisher.push_audio(frame),
                Output::Gap => publisher.mark_gap(),
                // Words of viewers' peers.
                Output::KeyframeWanted | Output::NotEnoughBandwidth { .. } => {}
                Output::Event(PeerEvent::Connected) => {
                    publisher.set_publishing();
                    if let Some(remote) = self.peer.stats().remote {
                        tracing::info!("{} sends from {remote}", publisher.stream().publication().name);
                    }
                    // Full: the connection sees it by the count of refused events, and closes.
                    let _ = self.events.offer(Event::Up { media_session_id: self.media_session_id.clone() });
                }
                Output::Event(PeerEvent::Closed(cause)) => return Next::Over(reason_of(cause)),
                Output::Timeout(at) => return Next::At(at),
            }
        }
    }
}

pub(super) fn reason_of(cause: CloseCause) -> EndReason {
    match cause {
        // A page that closes its peer connection, or is closed, means the end, whether its signalling says so before or after.
        CloseCause::PeerClosed | CloseCause::Local => EndReason::ByUser,
        CloseCause::IceTimeout => EndReason::IceTimeout,
        CloseCause::ConsentLost => EndReason::IceConsentLost,
        CloseCause::Dtls => EndReason::Dtls,
        CloseCause::Fingerprint => EndReason::DtlsFingerprint,
        CloseCause::RtpActivity => EndReason::RtpActivity,
    }
}
