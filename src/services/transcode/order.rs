//! Pictures from the order in which they are decoded to the order in which they are shown.

use crate::media::time::Timestamp;
use crate::media::unit::AccessUnit;

/// Most pictures that are held back: what encoders allow (H.264 A.3.1, `MaxDpbFrames`).
const HELD_MAX: usize = 16;

/// Holds pictures back until nothing that is shown before them can come any more.
#[derive(Debug)]
pub(super) struct DisplayOrder<T> {
    /// By time, and in order of their coming where times are equal.
    held: Vec<(Timestamp, T)>,
}

impl<T> Default for DisplayOrder<T> {
    fn default() -> Self {
        Self { held: Vec::new() }
    }
}

impl<T> DisplayOrder<T> {
    /// Takes the picture of the next unit in decoding order, if it has one; returns those whose turn it is.
    ///
    /// A picture without B slices is shown after all that came before it, and nothing that comes later is shown before the time
    /// at which `unit` is decoded.
    pub(super) fn push(&mut self, unit: &AccessUnit, picture: Option<T>) -> Vec<T> {
        let mut due = if unit.bidirectional { Vec::new() } else { self.flush() };
        if let Some(picture) = picture {
            let is_later = |at: Timestamp| at.since(unit.pts).is_some_and(|by| !by.is_zero());
            let place = self.held.partition_point(|(at, _)| !is_later(*at));
            self.held.insert(place, (unit.pts, picture));
        }
        let by_time = self.held.partition_point(|(at, _)| unit.dts.since(*at).is_some());
        let by_number = self.held.len().saturating_sub(HELD_MAX);
        due.extend(self.held.drain(..by_time.max(by_number)).map(|(_, picture)| picture));
        due
    }

    /// Everything that is held, in order.
    pub(super) fn flush(&mut self) -> Vec<T> {
        std::mem::take(&mut self.held).into_iter().map(|(_, picture)| picture).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::transcode::tests::small_unit;

    /// Pushes units given as (presentation time, decoding time, B slices), and tells what came out after each.
    fn run(units: &[(i64, i64, bool)]) -> Vec<Vec<i64>> {
        let mut order = DisplayOrder::default();
        let unit = small_unit();
        let mut take = |&(pts, dts, bidirectional): &(i64, i64, bool)| {
            let mut unit = unit.clone();
            unit.pts = Timestamp::video(pts);
            unit.dts = Timestamp::video(dts);
            unit.bidirectional = bidirectional;
            order.push(&unit, Some(pts))
        };
        units.iter().map(&mut take).collect()
    }

    #[test]
    fn nothing_is_held_where_nothing_is_reordered() {
        let shown = run(&[(0, 0, false), (1, 1, false), (5, 5, false), (2, 2, false)]);
        assert_eq!(shown, [vec![0], vec![1], vec![5], vec![2]], "a jump back begins anew");
    }

    #[test]
    fn pictures_come_in_the_order_of_their_times() {
        // I P B b b P: a pyramid, with decoding times two pictures behind.
        let units = [(2, 0, false), (6, 1, false), (4, 2, true), (3, 3, true), (5, 4, true), (8, 5, false)];
        let shown = run(&units);
        assert_eq!(shown, [vec![], vec![2], vec![], vec![3], vec![4], vec![5, 6]]);
    }

    #[test]
    fn without_decoding_times_a_picture_waits_for_the_next_that_is_no_b_picture_and_their_number_is_bounded()
    {
        let shown = run(&[(3, -9, false), (6, -9, false), (4, -9, true), (5, -9, true), (9, -9, false)]);
        assert_eq!(shown, [vec![], vec![3], vec![], vec![], vec![4, 5, 6]]);
        let many: Vec<_> = (0..40).map(|n| (n, -9, true)).collect();
        let shown = run(&many);
        assert_eq!(shown.concat(), (0..24).collect::<Vec<_>>());
    }
}
