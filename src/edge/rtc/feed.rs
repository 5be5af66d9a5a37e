//! Which pictures of a stream one viewer gets: none without what it refers to, none twice, and no B pictures.

use std::sync::Arc;

use crate::media::unit::AccessUnit;

/// What becomes of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is sent.
    Send,
    /// It is not, and nothing is missing for it.
    Skip,
    /// Something before it is missing: a keyframe is needed.
    Missing,
    /// The stream cannot be sent as it is: browsers show pictures in the order in which they come, and here later ones refer
    /// to B pictures, which therefore cannot be left out.
    Reordered,
}

/// The place of one viewer in a stream.
#[derive(Debug, Default)]
pub(super) struct Feed {
    /// The picture that can be decoded next; `None` before a keyframe.
    next: Option<u64>,
}

impl Feed {
    /// Judges the next picture of the queue.
    pub(super) fn judge(&mut self, unit: &AccessUnit) -> Verdict {
        match self.next {
            // One that was in the group of pictures already.
            Some(next) if unit.seq < next => return Verdict::Skip,
            _ if unit.key => {}
            None => return Verdict::Skip,
            Some(next) if unit.seq > next => {
                self.next = None;
                return Verdict::Missing;
            }
            Some(_) => {}
        }
        self.next = Some(unit.seq + 1);
        match (unit.bidirectional, unit.disposable) {
            (true, true) => Verdict::Skip,
            (true, false) => Verdict::Reordered,
            (false, _) => Verdict::Send,
        }
    }

    /// Begins anew with a group of pictures: those of it that are to be sent, or `None` when it cannot be sent as it is.
    pub(super) fn begin<'a>(&mut self, group: &'a [Arc<AccessUnit>]) -> Option<Vec<&'a AccessUnit>> {
        self.next = None;
        let mut sent = Vec::with_capacity(group.len());
        for unit in group {
            match self.judge(unit) {
                Verdict::Send => sent.push(unit.as_ref()),
                Verdict::Skip | Verdict::Missing => {}
                Verdict::Reordered => {
                    // Nothing of it was sent, so that nothing can be sent after it.
                    self.next = None;
                    return None;
                }
            }
        }
        Some(sent)
    }
}

/// Whether pictures of this group can be sent to browsers without being coded anew.
pub(super) fn is_in_order(group: &[Arc<AccessUnit>]) -> bool {
    !group.iter().any(|unit| unit.bidirectional && !unit.disposable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::media::time::Timestamp;
    use crate::media::track::{Colour, Rotation, VideoCodec, VideoParams};

    /// A picture of no content; `b` makes it a B picture, to which others refer unless it is `Some(true)`.
    fn numbered(seq: u64, key: bool, b: Option<bool>) -> Arc<AccessUnit> {
        let params = VideoParams {
            codec: VideoCodec::Vp8,
            width: 16,
            height: 16,
            sample_aspect_ratio: (1, 1),
            colour: Colour::unsaid(16, 16),
            rotation: Rotation::None,
        };
        Arc::new(AccessUnit {
            seq,
            arrived: Clock::manual().now(),
            pts: Timestamp::video(0),
            dts: Timestamp::video(0),
            key,
            disposable: b.unwrap_or(false),
            bidirectional: b.is_some(),
            hidden: false,
            params: Arc::new(params),
            data: bytes::Bytes::new(),
        })
    }

    #[test]
    fn nothing_is_sent_without_what_it_refers_to_or_twice() {
        let mut feed = Feed::default();
        let mut judge = |seq, key| feed.judge(&numbered(seq, key, None));
        assert_eq!(judge(3, false), Verdict::Skip);
        assert_eq!((judge(4, true), judge(5, false)), (Verdict::Send, Verdict::Send));
        assert_eq!((judge(5, false), judge(4, true)), (Verdict::Skip, Verdict::Skip));
        assert_eq!((judge(7, false), judge(8, false)), (Verdict::Missing, Verdict::Skip));
        assert_eq!((judge(12, true), judge(13, false)), (Verdict::Send, Verdict::Send));
    }

    #[test]
    fn b_pictures_are_left_out_where_nothing_refers_to_them() {
        let plain = [numbered(0, true, None), numbered(1, false, None), numbered(2, false, Some(true))];
        let mut feed = Feed::default();
        let sent = feed.begin(&plain).unwrap();
        assert_eq!(sent.iter().map(|unit| unit.seq).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(feed.judge(&numbered(3, false, None)), Verdict::Send, "nothing is missing");
        assert!(is_in_order(&plain));
        let pyramid = [numbered(0, true, None), numbered(1, false, Some(false))];
        assert_eq!(feed.judge(&numbered(4, false, Some(false))), Verdict::Reordered);
        assert!(!is_in_order(&pyramid) && feed.begin(&pyramid).is_none());
        assert_eq!(feed.judge(&numbered(2, false, None)), Verdict::Skip, "what it refers to was not sent");
    }
}
