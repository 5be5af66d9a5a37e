//! The shortest way: units straight into the hub, snapshots from the service.

use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::base::metrics::Metrics;
use stillcast::hub::{GopLimits, Publication, Registry, SourceProtocol};
use stillcast::media::unit::AccessUnit;
use stillcast::services::snapshot::{Snapshot, SnapshotRequest, SnapshotService, SnapshotSettings};

use crate::make::Stream;
use crate::table::{Expect, Row};

/// A snapshot taken after so many units.
pub(crate) struct Shot {
    pub(crate) sent: usize,
    pub(crate) outcome: Result<Arc<Snapshot>, String>,
}

/// Longest wait for a picture that should come, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// And for one that should not.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// Publishes the stream and takes a snapshot at each moment of its row. `watched`: with a decoder that follows it, so
/// that all pictures but the first come from it.
pub(crate) fn snapshots(row: &Row, stream: &Stream, watched: bool) -> Vec<Shot> {
    let clock = Clock::real();
    // As the shipped configuration has them.
    let limits = GopLimits { units: 600, bytes: 32 * 1024 * 1024 };
    let registry = Registry::new(limits, 10);
    let settings = SnapshotSettings {
        limit: PATIENCE,
        attempts: 1,
        watch: if watched { PATIENCE } else { Duration::ZERO },
        watched_max: 1,
        decoders: 1,
        encoders: 1,
        queue_max: 4,
        keyframe_units: u64::MAX,
        pixels_max: 8192 * 4352,
    };
    let service = SnapshotService::start(settings, registry.clone(), clock.clone(), Metrics::new()).unwrap();
    let name = StreamName::new("golden").unwrap();
    let publication = Publication::new(
        name,
        MediaSessionId::new("golden-session").unwrap(),
        SourceProtocol::Rtmp,
        clock.wall(),
    );
    let publisher = registry.publish(publication, None).unwrap();
    let mut shots = Vec::new();
    for (unit, sent) in stream.units.iter().zip(1..) {
        publisher.push_video(AccessUnit { arrived: clock.now(), ..unit.clone() });
        let last = sent == stream.units.len();
        if !row.moments.contains(&sent) && !last {
            continue;
        }
        let none = matches!(row.expect, Expect::Refused(_)) || sent <= row.refused_until;
        let limit = Some(if none { IMPATIENCE } else { PATIENCE });
        let request = SnapshotRequest { stream_name: "golden".into(), limit, ..SnapshotRequest::default() };
        let outcome = service.handle().take(request).map_err(|error| error.to_string());
        shots.push(Shot { sent, outcome });
    }
    drop(publisher);
    assert!(service.stop(PATIENCE), "the service does not stop");
    shots
}
