//! When a recording begins another file.

use std::time::Duration;

/// When a recording begins another file (`record_rotation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Never.
    Never,
    /// After so long, at the next keyframe.
    After(Duration),
    /// At so many bytes, likewise.
    Bytes(u64),
}

impl Rotation {
    /// Reads what an operator writes: seconds, or bytes with K, M or G (of 1024) after them. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text == "disabled" {
            return Some(Self::Never);
        }
        let unit = text.chars().next_back()?;
        let shift = match unit.to_ascii_uppercase() {
            'K' => Some(10),
            'M' => Some(20),
            'G' => Some(30),
            _ => None,
        };
        let digits = if shift.is_some() { text.get(..text.len() - 1)? } else { text };
        let number = digits.parse::<u64>().ok().filter(|number| *number > 0)?;
        Some(match shift {
            Some(shift) => Self::Bytes(number.checked_mul(1 << shift)?),
            None => Self::After(Duration::from_secs(number)),
        })
    }
}
