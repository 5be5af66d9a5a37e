//! Pictures whose rows belong to two moments, made pictures of one moment.

use super::YuvPicture;

/// Keeps the top field and draws the rows between its rows anew, each as the mean of those above and below it (linear
/// interpolation, `li` of well-known post-processors). A comb is gone, and so is half of the vertical sharpness.
///
/// Which field came first does not matter: each of them is what the camera saw at one moment.
pub(super) fn keep_top_field(picture: &mut YuvPicture) {
    let width = picture.params.width as usize;
    interpolate(&mut picture.y, width);
    interpolate(&mut picture.u, width.div_ceil(2));
    interpolate(&mut picture.v, width.div_ceil(2));
}

/// Draws each second row of a plane anew; the last one, which has none below it, is a copy.
fn interpolate(plane: &mut [u8], width: usize) {
    let mut rest = plane;
    while rest.len() >= 2 * width && width > 0 {
        let (pair, below) = rest.split_at_mut(2 * width);
        let (above, row) = pair.split_at_mut(width);
        match below.get(..width) {
            Some(next) => {
                for ((sample, above), next) in row.iter_mut().zip(&*above).zip(next) {
                    *sample = ((u16::from(*above) + u16::from(*next)).div_ceil(2)) as u8;
                }
            }
            None => row.copy_from_slice(above),
        }
        rest = below;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_other_field_do_not_show() {
        let mut plane = [10, 20, 99, 98, 30, 41, 97, 96, 50, 60, 95, 94];
        interpolate(&mut plane, 2);
        assert_eq!(plane, [10, 20, 20, 31, 30, 41, 40, 51, 50, 60, 50, 60]);
    }

    #[test]
    fn a_last_row_without_a_partner_stays() {
        let mut plane = [10, 99, 30];
        interpolate(&mut plane, 1);
        assert_eq!(plane, [10, 20, 30]);
    }
}
