//! What a recording is called (protocol document, section 5.2): a file name of one component, fit for every file system and for
//! an address without escapes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How files are named (`stream_record_policy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// After the stream.
    StreamName,
    /// By a template whose elements stand in braces.
    Template(String),
}

/// Longest name with its ending, in bytes; room is left for a number after it.
const NAME_BYTES_MAX: usize = 240;
/// Stands for what is not known before the end.
const NOT_YET: &str = "recording";

/// What the elements of a template say of one file.
#[derive(Clone, Debug, Default)]
pub(super) struct NameFacts {
    pub(super) stream_name: String,
    pub(super) media_session_id: String,
    pub(super) session_id: String,
    pub(super) login: String,
    pub(super) audio_codec: String,
    pub(super) video_codec: String,
    /// The stream's own time at the file's first unit, in milliseconds.
    pub(super) start_time_ms: i64,
    pub(super) started: Option<SystemTime>,
    /// The end, once there is one.
    pub(super) end: Option<EndFacts>,
}

/// What is known of a file when it is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndFacts {
    pub(super) duration: Duration,
    pub(super) ended: SystemTime,
}

impl Naming {
    /// Whether the name can be told before the end.
    pub(super) fn is_known_at_start(&self) -> bool {
        match self {
            Self::StreamName => true,
            Self::Template(template) => {
                !["{duration}", "{endTime}", "{endTimeMillis}"].iter().any(|late| template.contains(late))
            }
        }
    }

    /// The name with this ending (`mp4`).
    pub(super) fn name(&self, facts: &NameFacts, ending: &str) -> String {
        let stem = match self {
            Self::StreamName => facts.stream_name.clone(),
            Self::Template(template) => fill(template, facts),
        };
        let mut stem: String = stem.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        // A name that begins with a dot is hidden, and one that ends with it is another one elsewhere.
        while stem.starts_with(['.', '-']) {
            stem.replace_range(..1, "_");
        }
        let device = stem.split('.').next().is_some_and(is_device);
        if stem.is_empty() || device {
            stem.insert(0, '_');
        }
        stem.truncate(NAME_BYTES_MAX - ending.len() - 1);
        format!("{stem}.{ending}")
    }
}

/// Letters, digits and what needs no escape in an address, and has no meaning to a shell.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-=+@~,".contains(c)
}

/// Whether a file of the folder is a recording by its name, running or complete: visible, with an ending that we give.
#[must_use]
pub fn is_recording(name: &str) -> bool {
    !name.starts_with('.') && [".mp4", ".webm"].iter().any(|ending| name.ends_with(ending))
}

/// Names that are devices in every folder of some file servers.
fn is_device(stem: &str) -> bool {
    let stem = stem.to_ascii_lowercase();
    let numbered = |kind| {
        stem.strip_prefix(kind).is_some_and(|n: &str| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())
    };
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

fn fill(template: &str, facts: &NameFacts) -> String {
    let millis =
        |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis()).to_string();
    let end = |text: &dyn Fn(&EndFacts) -> String| facts.end.as_ref().map_or(NOT_YET.to_owned(), text);
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        out.push_str(before);
        let Some(close) = after.find('}') else {
            rest = after;
            break;
        };
        let (element, after) = after.split_at(close + 1);
        match element {
            "{streamName}" => out.push_str(&facts.stream_name),
            "{mediaSessionId}" => out.push_str(&facts.media_session_id),
            "{sessionId}" => out.push_str(&base64(&facts.session_id)),
            "{login}" => out.push_str(&facts.login),
            "{audioCodec}" => out.push_str(&facts.audio_codec),
            "{videoCodec}" => out.push_str(&facts.video_codec),
            "{startTime}" => out.push_str(&facts.start_time_ms.to_string()),
            "{startTimeMillis}" => out.push_str(&facts.started.map(millis).unwrap_or_default()),
            "{duration}" => out.push_str(&end(&|end| end.duration.as_millis().to_string())),
            "{endTime}" => out.push_str(&end(&|end| {
                let duration = i64::try_from(end.duration.as_millis()).unwrap_or(i64::MAX);
                facts.start_time_ms.saturating_add(duration).to_string()
            })),
            "{endTimeMillis}" => out.push_str(&end(&|end| millis(end.ended))),
            // Not an element: as it stands.
            other => out.push_str(other),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// In the alphabet for addresses and file names, without padding (RFC 4648 section 5).
fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts() -> NameFacts {
        NameFacts {
            stream_name: "cam/1".into(),
            media_session_id: "38b84fa0-e555".into(),
            session_id: "/127.0.0.1:5/x".into(),
            login: "k3v0q7".into(),
            audio_codec: "opus".into(),
            video_codec: "H264".into(),
            start_time_ms: 1500,
            started: Some(UNIX_EPOCH + Duration::from_millis(1_735_689_600_000)),
            end: None,
        }
    }

    #[test]
    fn every_element_is_filled_and_late_ones_in_the_end() {
        let template =
            "a{streamName}_{startTime}_{startTimeMillis}_{audioCodec}_{videoCodec}_{sessionId}_{nothing}";
        let name = Naming::Template(template.into()).name(&facts(), "mp4");
        assert_eq!(name, "acam_1_1500_1735689600000_opus_H264_LzEyNy4wLjAuMTo1L3g__nothing_.mp4");
        let usual = Naming::Template("stream-{mediaSessionId}-{login}".into());
        assert_eq!(usual.name(&facts(), "webm"), "stream-38b84fa0-e555-k3v0q7.webm");
        let late = Naming::Template("{duration}-{endTime}-{endTimeMillis}".into());
        assert!(usual.is_known_at_start() && !late.is_known_at_start());
        assert_eq!(late.name(&facts(), "mp4"), "recording-recording-recording.mp4");
        let end =
            EndFacts { duration: Duration::from_millis(2500), ended: UNIX_EPOCH + Duration::from_secs(9) };
        assert_eq!(late.name(&NameFacts { end: Some(end), ..facts() }, "mp4"), "2500-4000-9000.mp4");
        assert_eq!(Naming::StreamName.name(&facts(), "mp4"), "cam_1.mp4");
    }

    #[test]
    fn hostile_names_are_one_visible_component() {
        for (stream, want) in [
            ("../../etc/passwd", "_._.._etc_passwd.mp4"),
            (".hidden", "_hidden.mp4"),
            ("-rf", "_rf.mp4"),
            ("NUL", "_NUL.mp4"),
            ("$(reboot) `x`", "__reboot___x_.mp4"),
            ("Süd\u{202e}", "S_d_.mp4"),
        ] {
            let facts = NameFacts { stream_name: stream.into(), ..NameFacts::default() };
            assert_eq!(Naming::StreamName.name(&facts, "mp4"), want);
        }
    }

    proptest! {
        #[test]
        fn any_name_is_safe_and_short(stream in "(?s).{0,400}", template in "(?s)[{}a-zN/.]{0,300}") {
            let facts = NameFacts { stream_name: stream, ..NameFacts::default() };
            for naming in [Naming::StreamName, Naming::Template(template)] {
                let name = naming.name(&facts, "mp4");
                prop_assert!(name.len() <= NAME_BYTES_MAX && name.ends_with(".mp4"), "{}", name);
                prop_assert!(!name.starts_with(['.', '-']) && !name.contains(['/', '\\', '{', '%']), "{}", name);
            }
        }
    }
}
