//! One stream's pictures: counts its units and decodes those that the rate needs.

use std::num::NonZeroU64;
use std::sync::Arc;

use crossbeam_channel::select;

use super::writer::{Job, Source};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::queue::{Offer, Refused};
use crate::base::stop::StopToken;
use crate::base::tally::Tally;
use crate::hub::{Stream, Subscription};
use crate::media::picture::YuvPicture;
use crate::media::unit::{AccessUnit, MediaUnit};
use crate::services::decode::{DecodeError, StreamDecoder};

/// Takes the first picture that can be decoded of each run of `rate` units.
pub(super) struct Taker {
    stream: Arc<Stream>,
    source: Arc<Source>,
    rate: NonZeroU64,
    pictures: Offer<Job>,
    clock: Clock,
    metrics: Metrics,
    decoder: StreamDecoder,
    /// Units since the last decoded one or, if later, since the last IDR, that one included. Not more than a group of pictures, and
    /// shared with the stream's own cache.
    pending: Vec<Arc<AccessUnit>>,
    /// The pending units lead to a picture: false before the first IDR and after an error.
    decodable: bool,
    /// A keyframe was asked for since the last picture: a stream that cannot be decoded at all is not asked on and on.
    asked: bool,
    /// The run that gave the last picture.
    last_run: Option<u64>,
    undecodable: Tally,
    without: Tally,
    not_taken: Tally,
}

impl Taker {
    pub(super) fn new(
        stream: Arc<Stream>,
        source: Source,
        rate: NonZeroU64,
        pixels_max: u64,
        pictures: Offer<Job>,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        Self {
            stream,
            source: Arc::new(source),
            rate,
            pictures,
            decoder: StreamDecoder::new(pixels_max, metrics.clone()),
            clock,
            metrics,
            pending: Vec::new(),
            decodable: false,
            asked: false,
            last_run: None,
            undecodable: Tally::new("units not decoded for automatic pictures"),
            without: Tally::new("automatic pictures without a frame"),
            not_taken: Tally::new("automatic pictures skipped, the writer is slow"),
        }
    }

    /// Until the stream ends or `stop` is set.
    pub(super) fn run(&mut self, subscription: &Subscription, stop: &StopToken) {
        for unit in &subscription.backlog.units {
            self.take(unit, stop);
        }
        loop {
            select! {
                recv(stop.channel()) -> _ => return,
                recv(subscription.live.receiver()) -> unit => match unit {
                    Ok(MediaUnit::Video(unit)) => self.take(&unit, stop),
                    Ok(MediaUnit::Audio(_)) => {}
                    Err(_) => return,
                },
            }
        }
    }

    /// Takes the next unit. What nobody asked for waits undecoded, until a later unit needs it or an IDR makes it
    /// superfluous.
    pub(super) fn take(&mut self, unit: &Arc<AccessUnit>, stop: &StopToken) {
        if unit.key {
            self.pending.clear();
            self.decodable = true;
        }
        if !self.decodable {
            return;
        }
        self.pending.push(unit.clone());
        let run = unit.seq / self.rate;
        if unit.hidden || self.last_run.is_some_and(|last| run <= last) {
            return;
        }
        match self.decode(stop) {
            Ok(Some(picture)) => {
                let missed = self.last_run.map_or(0, |last| run - last - 1);
                self.metrics.auto_pictures_total.with_label_values(&["skipped"]).inc_by(missed);
                self.without.add(self.clock.now(), missed, || self.source.stream_name.to_string());
                self.last_run = Some(run);
                self.asked = false;
                self.hand_on(picture);
            }
            // Only a stop ends a decoding run early.
            Ok(None) => {}
            Err(error) => {
                // The next IDR stands in: trying each unit in between would decode the group again and again.
                self.decodable = false;
                if !std::mem::replace(&mut self.asked, true) {
                    self.stream.request_keyframe();
                }
                self.metrics.auto_pictures_total.with_label_values(&["failed"]).inc();
                let name = &self.source.stream_name;
                self.undecodable.add(self.clock.now(), 1, || format!("{name}: {error}"));
            }
        }
        self.pending.clear();
    }

    /// Decodes the pending units up to the last one, and returns its picture.
    fn decode(&mut self, stop: &StopToken) -> Result<Option<YuvPicture>, DecodeError> {
        let mut picture = None;
        for (at, unit) in self.pending.iter().enumerate() {
            if stop.is_set() {
                return Ok(None);
            }
            picture = self.decoder.step(unit, at + 1 == self.pending.len())?;
        }
        if picture.is_some() {
            self.metrics.decode_runs_total.inc();
        }
        Ok(picture)
    }

    fn hand_on(&mut self, picture: YuvPicture) {
        let captured = self.clock.wall_at(picture.arrived);
        match self.pictures.offer(Job { source: self.source.clone(), captured, picture }) {
            Ok(()) => {}
            Err(Refused::Full(job) | Refused::Closed(job)) => {
                self.metrics.auto_pictures_total.with_label_values(&["skipped"]).inc();
                self.not_taken.add(self.clock.now(), 1, || self.source.stream_name.to_string());
                self.decoder.recycle(job.picture);
            }
        }
    }
}
