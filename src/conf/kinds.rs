//! How the text of a value becomes what it means: one small type for each kind of value.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A kind of value: what it accepts, and how it says so.
pub trait Kind: Sync {
    /// What the text means.
    type Value;

    /// The meaning of `text`, which has no white space around it; `None` when it is not of this kind.
    fn parse(&self, text: &str) -> Option<Self::Value>;

    /// What is accepted, to be read after "expected": a phrase without a full stop.
    fn expected(&self) -> String;

    /// Whether values are to be hidden wherever they would be shown.
    fn is_secret(&self) -> bool {
        false
    }
}

/// A [`Kind`] without its type, for tables.
pub trait AnyKind: Sync {
    /// Whether `text` is of this kind.
    fn accepts(&self, text: &str) -> bool;
    /// As [`Kind::expected`].
    fn expected(&self) -> String;
    /// As [`Kind::is_secret`].
    fn is_secret(&self) -> bool;
}

impl<K: Kind> AnyKind for K {
    fn accepts(&self, text: &str) -> bool {
        self.parse(text).is_some()
    }

    fn expected(&self) -> String {
        Kind::expected(self)
    }

    fn is_secret(&self) -> bool {
        Kind::is_secret(self)
    }
}

/// A TCP port to listen on; empty closes this door.
#[derive(Debug)]
pub struct ListenPort;

impl Kind for ListenPort {
    type Value = Option<u16>;

    fn parse(&self, text: &str) -> Option<Self::Value> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn expected(&self) -> String {
        "a port from 1 to 65535, 0 for any free port, or nothing to leave it closed".into()
    }
}

/// A port; 0 stands for any free one.
#[derive(Debug)]
pub struct Port;

impl Kind for Port {
    type Value = u16;

    fn parse(&self, text: &str) -> Option<u16> {
        text.parse().ok()
    }

    fn expected(&self) -> String {
        "a port from 1 to 65535, or 0 for any free port".into()
    }
}

/// A whole number inside bounds, which are part of the range.
#[derive(Debug)]
pub struct Whole {
    /// Smallest value.
    pub from: u64,
    /// Largest value.
    pub to: u64,
}

impl Kind for Whole {
    type Value = u64;

    fn parse(&self, text: &str) -> Option<u64> {
        text.parse().ok().filter(|value| (self.from..=self.to).contains(value))
    }

    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.from, self.to)
    }
}

/// A length of time, written as a whole number of milliseconds.
#[derive(Debug)]
pub struct Milliseconds {
    /// Shortest.
    pub from: u64,
    /// Longest.
    pub to: u64,
}

impl Kind for Milliseconds {
    type Value = Duration;

    fn parse(&self, text: &str) -> Option<Duration> {
        Whole { from: self.from, to: self.to }.parse(text).map(Duration::from_millis)
    }

    fn expected(&self) -> String {
        format!("milliseconds, a whole number from {} to {}", self.from, self.to)
    }
}

/// A size in bytes, which may be written with a binary unit.
#[derive(Debug)]
pub struct Bytes {
    /// Smallest, in bytes.
    pub from: usize,
    /// Largest, in bytes.
    pub to: usize,
}

impl Kind for Bytes {
    type Value = usize;

    fn parse(&self, text: &str) -> Option<usize> {
        let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let unit: usize = match unit.trim() {
            "" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        let bytes = number.parse::<usize>().ok()?.checked_mul(unit)?;
        (self.from..=self.to).contains(&bytes).then_some(bytes)
    }

    fn expected(&self) -> String {
        format!("bytes from {} to {}, a plain number or one with KiB, MiB or GiB", self.from, self.to)
    }
}

/// Time or size after which a file is followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// So long.
    After(Duration),
    /// So many bytes.
    Bytes(u64),
}

/// Seconds as a plain number, or bytes with K, M or G after it (of 1024); empty: neither.
#[derive(Debug)]
pub struct RotationKind;

impl Kind for RotationKind {
    type Value = Option<Rotate>;

    fn parse(&self, text: &str) -> Option<Self::Value> {
        if text.is_empty() || text == "disabled" {
            return Some(None);
        }
        let (number, shift) = match text.strip_suffix(['K', 'k']) {
            Some(number) => (number, Some(10)),
            None => match (text.strip_suffix(['M', 'm']), text.strip_suffix(['G', 'g'])) {
                (Some(number), _) => (number, Some(20)),
                (_, Some(number)) => (number, Some(30)),
                _ => (text, None),
            },
        };
        let number = number.parse::<u64>().ok().filter(|number| *number > 0)?;
        Some(Some(match shift {
            Some(shift) => Rotate::Bytes(number.checked_mul(1 << shift)?),
            None => Rotate::After(Duration::from_secs(number)),
        }))
    }

    fn expected(&self) -> String {
        "seconds, or bytes with K, M or G such as 20M, or nothing".into()
    }
}

/// Yes or no.
#[derive(Debug)]
pub struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn parse(&self, text: &str) -> Option<bool> {
        text.parse().ok()
    }

    fn expected(&self) -> String {
        "true or false".into()
    }
}

/// A switch with a number of seconds after it: `true,60`.
#[derive(Debug)]
pub struct SwitchAndSeconds {
    /// Longest time that can be asked for.
    pub to: u64,
}

impl Kind for SwitchAndSeconds {
    type Value = Option<Duration>;

    fn parse(&self, text: &str) -> Option<Option<Duration>> {
        let (on, seconds) = match text.split_once(',') {
            Some((on, seconds)) => (on.trim(), Some(seconds.trim().parse::<u64>().ok()?)),
            None => (text, None),
        };
        match (on.parse().ok()?, seconds) {
            (false, _) => Some(None),
            (true, Some(seconds)) if (1..=self.to).contains(&seconds) => {
                Some(Some(Duration::from_secs(seconds)))
            }
            (true, _) => None,
        }
    }

    fn expected(&self) -> String {
        format!("false, or true and whole seconds from 1 to {}, such as true,60", self.to)
    }
}

/// A file or folder; relative ones count from the working folder. Empty: none.
#[derive(Debug)]
pub struct OptionalPath;

impl Kind for OptionalPath {
    type Value = Option<PathBuf>;

    fn parse(&self, text: &str) -> Option<Self::Value> {
        (!text.contains('\0')).then(|| (!text.is_empty()).then(|| text.into()))
    }

    fn expected(&self) -> String {
        "a path, or nothing".into()
    }
}

/// A file or folder that must be named.
#[derive(Debug)]
pub struct Path;

impl Kind for Path {
    type Value = PathBuf;

    fn parse(&self, text: &str) -> Option<PathBuf> {
        OptionalPath.parse(text)?
    }

    fn expected(&self) -> String {
        "a path".into()
    }
}

/// One IP address.
#[derive(Debug)]
pub struct Address;

impl Kind for Address {
    type Value = IpAddr;

    fn parse(&self, text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    fn expected(&self) -> String {
        "an IPv4 or IPv6 address".into()
    }
}

/// IP addresses separated by commas; empty: none.
#[derive(Debug)]
pub struct Addresses;

impl Kind for Addresses {
    type Value = Vec<IpAddr>;

    fn parse(&self, text: &str) -> Option<Self::Value> {
        Words.parse(text)?.iter().map(|word| word.parse().ok()).collect()
    }

    fn expected(&self) -> String {
        "IPv4 or IPv6 addresses separated by commas, or nothing".into()
    }
}

/// Words separated by commas, without white space around them; empty: none.
#[derive(Debug)]
pub struct Words;

impl Kind for Words {
    type Value = Vec<String>;

    fn parse(&self, text: &str) -> Option<Self::Value> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        text.split(',').map(str::trim).map(|word| (!word.is_empty()).then(|| word.to_owned())).collect()
    }

    fn expected(&self) -> String {
        "words separated by commas".into()
    }
}

/// Any text that fits into one line of an HTTP header.
#[derive(Debug)]
pub struct Line;

impl Kind for Line {
    type Value = String;

    fn parse(&self, text: &str) -> Option<String> {
        text.bytes().all(|byte| (0x20..0x7f).contains(&byte)).then(|| text.to_owned())
    }

    fn expected(&self) -> String {
        "printable ASCII text on one line".into()
    }
}

/// Text that is not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that compares it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(empty)" } else { "Secret(…)" })
    }
}

/// A password or a similar text; empty: none.
#[derive(Debug)]
pub struct Password;

impl Kind for Password {
    type Value = Secret;

    fn parse(&self, text: &str) -> Option<Secret> {
        (!text.chars().any(char::is_control)).then(|| Secret(text.to_owned()))
    }

    fn expected(&self) -> String {
        "text without control characters".into()
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// One of a closed set of words, each with its meaning.
#[derive(Debug)]
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Clone + Sync> Kind for Choice<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Option<T> {
        self.0.iter().find(|(word, _)| *word == text).map(|(_, meaning)| meaning.clone())
    }

    fn expected(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    }
}

/// Width and height, such as `1280x720`. Bounds hold either way up.
#[derive(Debug)]
pub struct FrameSize {
    /// Least long and short side, in pixels.
    pub from: (u32, u32),
    /// Greatest long and short side, in pixels.
    pub to: (u32, u32),
    /// What both sides must be multiples of.
    pub multiple_of: u32,
}

impl Kind for FrameSize {
    type Value = (u32, u32);

    fn parse(&self, text: &str) -> Option<(u32, u32)> {
        let (width, height) = text.split_once(['x', '×'])?;
        let side =
            |text: &str| text.trim().parse().ok().filter(|side: &u32| side.is_multiple_of(self.multiple_of));
        let (width, height) = (side(width)?, side(height)?);
        let fits = (self.from.0..=self.to.0).contains(&width.max(height))
            && (self.from.1..=self.to.1).contains(&width.min(height));
        fits.then_some((width, height))
    }

    fn expected(&self) -> String {
        let even = if self.multiple_of == 2 { ", both even" } else { "" };
        let ((long, short), (longest, greatest_short)) = (self.from, self.to);
        format!(
            "width x height in pixels, from {long}x{short} to {longest}x{greatest_short} either way up{even}, \
             such as 1280x720"
        )
    }
}

/// What is logged: a level, and perhaps other levels for parts of the program (`info,stillcast::edge=debug`).
#[derive(Debug)]
pub struct LogLevel;

impl Kind for LogLevel {
    type Value = String;

    fn parse(&self, text: &str) -> Option<String> {
        let is_level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word.trim());
        let mut words = text.split(',');
        let first = words.next().is_some_and(is_level);
        let rest = words.all(|word| {
            word.split_once('=').is_some_and(|(module, level)| {
                let module = module.trim();
                let known = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
                !module.is_empty() && module.chars().all(known) && is_level(level)
            })
        });
        (first && rest).then(|| text.to_owned())
    }

    fn expected(&self) -> String {
        "off, error, warn, info, debug or trace, and after it perhaps module=level pairs separated by commas"
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_may_be_zero_or_absent_and_nothing_else() {
        assert_eq!(ListenPort.parse("0"), Some(Some(0)));
        assert_eq!(ListenPort.parse(""), Some(None));
        assert_eq!(ListenPort.parse("65536"), None);
        assert_eq!(ListenPort.parse("-1"), None);
    }

    #[test]
    fn sizes_know_binary_units_and_do_not_overflow() {
        let size = Bytes { from: 0, to: usize::MAX };
        assert_eq!(size.parse("16 MiB"), Some(16 << 20));
        assert_eq!(size.parse("131072"), Some(131_072));
        assert_eq!(size.parse("16MB"), None);
        assert_eq!(size.parse("99999999999999GiB"), None);
        assert_eq!(size.parse("MiB"), None);
    }

    #[test]
    fn rotation_is_by_seconds_or_by_bytes_with_a_unit() {
        assert_eq!(RotationKind.parse("3600"), Some(Some(Rotate::After(Duration::from_secs(3600)))));
        assert_eq!(RotationKind.parse("20M"), Some(Some(Rotate::Bytes(20 << 20))));
        assert_eq!(RotationKind.parse(""), Some(None));
        for wrong in ["0", "M", "-1", "20MB", "99999999999999999G"] {
            assert_eq!(RotationKind.parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rtp_activity_is_a_switch_with_seconds() {
        let kind = SwitchAndSeconds { to: 3600 };
        assert_eq!(kind.parse("true, 60"), Some(Some(Duration::from_secs(60))));
        assert_eq!(kind.parse("false,60"), Some(None));
        assert_eq!(kind.parse("false"), Some(None));
        assert_eq!(kind.parse("true"), None);
        assert_eq!(kind.parse("true,0"), None);
        assert_eq!(kind.parse("60"), None);
    }

    #[test]
    fn lists_refuse_holes_and_addresses_refuse_names() {
        assert_eq!(Words.parse("opus, h264"), Some(vec!["opus".into(), "h264".into()]));
        assert_eq!(Words.parse("opus,,h264"), None);
        assert_eq!(Words.parse(""), Some(vec![]));
        assert_eq!(Addresses.parse("10.0.0.1,::1").map(|all| all.len()), Some(2));
        assert_eq!(Addresses.parse("example.org"), None);
    }

    #[test]
    fn a_header_value_cannot_hold_a_line_break() {
        assert_eq!(Line.parse("*\r\nSet-Cookie: x"), None);
        assert!(Line.parse("content-type,x-requested-with").is_some());
    }

    #[test]
    fn log_levels_name_modules_after_the_general_level() {
        assert!(LogLevel.parse("info").is_some());
        assert!(LogLevel.parse("warn,stillcast::edge=debug, stillcast::proto=trace").is_some());
        assert!(LogLevel.parse("stillcast::edge=debug").is_none());
        assert!(LogLevel.parse("loud").is_none());
        assert!(LogLevel.parse("info,=debug").is_none());
    }

    #[test]
    fn frame_sizes_have_two_bounded_sides() {
        let kind = FrameSize { from: (160, 90), to: (3840, 2160), multiple_of: 2 };
        assert_eq!(kind.parse("3840x2160"), Some((3840, 2160)));
        assert_eq!(kind.parse("90 x 160"), Some((90, 160)));
        for wrong in ["1280x721", "1280", "0x720", "3842x720", "2162x2162", "158x90", "160x88", "-2x720"] {
            assert_eq!(kind.parse(wrong), None, "{wrong}");
        }
    }
}
