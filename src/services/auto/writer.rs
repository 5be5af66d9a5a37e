//! Pictures to files: the one thread that writes, and what it says when it cannot.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use super::store::{Folder, Written};
use crate::base::clock::Clock;
use crate::base::id::StreamName;
use crate::base::metrics::Metrics;
use crate::base::tally::Tally;
use crate::media::picture::YuvPicture;
use crate::services::colour::to_rgb;
use crate::services::png::{Origin, PngError, PngText, encode};

/// One publication, as the writer must know it.
#[derive(Debug)]
pub(super) struct Source {
    /// What its folder is called after, not yet made safe.
    pub(super) folder: String,
    pub(super) stream_name: StreamName,
    pub(super) epoch: u64,
}

/// A picture to be written. It gets its number only then, so that numbers are consecutive whatever was skipped.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) source: Arc<Source>,
    pub(super) captured: SystemTime,
    pub(super) picture: YuvPicture,
}

/// Writes pictures and keeps folders open.
pub(super) struct Writer {
    root: PathBuf,
    retention: usize,
    clock: Clock,
    metrics: Metrics,
    /// By [`Source::folder`].
    shelves: HashMap<String, Shelf>,
    /// What is wrong now, by kind: a fault is told when it begins and when it is over.
    faults: HashMap<io::ErrorKind, Fault>,
    not_encoded: Tally,
    not_removed: Tally,
}

/// The open folder of one publication. When the same folder is wanted by another one, it is read anew.
struct Shelf {
    source: Weak<Source>,
    folder: Option<Folder>,
}

#[derive(Default)]
struct Fault {
    folders: HashSet<String>,
    lost: u64,
}

impl Writer {
    pub(super) fn new(root: PathBuf, retention: usize, clock: Clock, metrics: Metrics) -> Self {
        Self {
            root,
            retention,
            clock,
            metrics,
            shelves: HashMap::new(),
            faults: HashMap::new(),
            not_encoded: Tally::new("automatic pictures not encoded"),
            not_removed: Tally::new("old automatic pictures not removed"),
        }
    }

    /// Makes a PNG and a file of a picture. Whatever goes wrong costs this picture only.
    pub(super) fn write(&mut self, job: &Job) {
        let now = self.clock.now();
        let result = match png(job) {
            Ok(png) => match self.store(&job.source, &png) {
                Ok(written) => {
                    self.recovered(&job.source.folder);
                    if let Err(error) = written.removal {
                        self.not_removed.add(now, 1, || format!("{}: {error}", job.source.stream_name));
                    }
                    tracing::debug!(stream = %job.source.stream_name, "automatic picture {}", written.number);
                    "written"
                }
                Err(error) => {
                    self.failed(&job.source, &error);
                    "failed"
                }
            },
            Err(error) => {
                self.not_encoded.add(now, 1, || format!("{}: {error}", job.source.stream_name));
                "failed"
            }
        };
        if result == "written" {
            self.metrics.pictures_encoded_total.inc();
        }
        self.metrics.auto_pictures_total.with_label_values(&[result]).inc();
    }

    fn store(&mut self, source: &Arc<Source>, png: &[u8]) -> io::Result<Written> {
        if !self.shelves.contains_key(&source.folder) {
            // The folders of publications that are over need not stay open.
            self.shelves.retain(|_, shelf| shelf.source.strong_count() > 0);
        }
        let shelf = self
            .shelves
            .entry(source.folder.clone())
            .or_insert_with(|| Shelf { source: Arc::downgrade(source), folder: None });
        if !Weak::ptr_eq(&shelf.source, &Arc::downgrade(source)) {
            *shelf = Shelf { source: Arc::downgrade(source), folder: None };
        }
        // A folder that was open may have been moved or filled by others: look again before giving up.
        if let Some(folder) = &mut shelf.folder
            && let Ok(written) = folder.write(png)
        {
            return Ok(written);
        }
        shelf.folder = None;
        let folder = shelf.folder.insert(Folder::open(&self.root, &source.folder, self.retention)?);
        let written = folder.write(png);
        if written.is_err() {
            shelf.folder = None;
        }
        written
    }

    fn failed(&mut self, source: &Source, error: &io::Error) {
        let fault = self.faults.entry(error.kind()).or_insert_with(|| {
            let root = self.root.display();
            tracing::error!(
                stream = %source.stream_name,
                "automatic pictures are lost, {root} cannot be written to: {error}"
            );
            Fault::default()
        });
        fault.lost += 1;
        // Streams that end while the fault lasts must not make the set grow.
        if fault.folders.len() > self.shelves.len() {
            fault.folders.retain(|folder| self.shelves.contains_key(folder));
        }
        fault.folders.insert(source.folder.clone());
    }

    /// A picture was written to this folder: what was wrong with it is over, and the fault with its last folder.
    fn recovered(&mut self, folder: &str) {
        let (root, shelves) = (self.root.display(), &self.shelves);
        self.faults.retain(|_, fault| {
            fault.folders.remove(folder);
            fault.folders.retain(|folder| shelves.contains_key(folder));
            if fault.folders.is_empty() {
                tracing::info!("automatic pictures are written to {root} again; {} were lost", fault.lost);
            }
            !fault.folders.is_empty()
        });
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> usize {
        self.faults.len()
    }
}

fn png(job: &Job) -> Result<Vec<u8>, PngError> {
    let text = PngText {
        stream_name: job.source.stream_name.as_str(),
        origin: Origin::Stream { captured: job.captured, epoch: job.source.epoch },
        sample_aspect_ratio: job.picture.params.display_sample_aspect_ratio(),
    };
    encode(&to_rgb(&job.picture), &text)
}
