//! Files that are complete or left behind: what a crash left is finished at the next start, and what is too old goes.

use super::Shared;
use super::hook::Run;
use super::name::is_recording;
use super::recorder::finish_by_name;
use super::store::Store;
use crate::services::retention::prune;

/// A file of no more bytes has a head at most.
const EMPTY_BYTES_MAX: u64 = 128 * 1024;

impl Shared {
    /// Removes what is not kept.
    pub(super) fn prune(&self) {
        let writing: Vec<String> =
            self.state.lock().running.values().map(|running| running.name.clone()).collect();
        let is_ours = |name: &str| is_recording(name) && !writing.iter().any(|busy| busy == name);
        match prune(&self.settings.dir, &self.settings.keep, self.clock.wall(), &is_ours) {
            Ok(removed) => {
                for name in removed {
                    tracing::info!("recording {name} was removed: it is older than what is kept");
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("old recordings cannot be removed: {error}"),
        }
    }

    /// Finishes what a crash left.
    pub(super) fn repair(&self) {
        // A folder that is not there holds nothing.
        if !self.settings.dir.is_dir() {
            return;
        }
        let left = Store::open(&self.settings.dir).and_then(|store| Ok((store.left_behind()?, store)));
        let (left, store) = match left {
            Ok(left) => left,
            Err(error) => {
                tracing::error!("{} cannot be looked through: {error}", self.settings.dir.display());
                return;
            }
        };
        for (mark, unfinished) in left {
            let name = unfinished.name.clone();
            match finish_by_name(&name, &unfinished.file) {
                Ok(duration) => match store.complete(unfinished, None) {
                    Ok(name) => {
                        tracing::warn!(
                            "{name} was left by a crash and is complete now: {:.1} s",
                            duration.as_secs_f64()
                        );
                        self.metrics.recordings_total.with_label_values(&["repaired"]).inc();
                        self.hook.run(Run { stream: mark.stream, path: store.path_of(&name) });
                    }
                    Err(error) => tracing::error!("{name}: {error}"),
                },
                Err(_)
                    if unfinished.file.metadata().is_ok_and(|metadata| metadata.len() <= EMPTY_BYTES_MAX) =>
                {
                    tracing::warn!("{name} was left by a crash before anything was written, and is removed");
                    if let Err(error) = store.discard(unfinished) {
                        tracing::error!("{name}: {error}");
                    }
                }
                Err(error) => tracing::error!("{name} was left by a crash and cannot be finished: {error}"),
            }
        }
    }
}
