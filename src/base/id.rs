//! Names and ids that come from outside, and ids that we make.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Longest stream name or media session id that is accepted, in bytes. VOD and RTSP names are URLs, hence the room.
pub const NAME_MAX_BYTES: usize = 1024;

/// Why a name or id from outside is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only white space.
    #[error("name is empty")]
    Empty,
    /// More than [`NAME_MAX_BYTES`].
    #[error("name is longer than {NAME_MAX_BYTES} bytes")]
    TooLong,
    /// A control character, which could forge log lines or headers.
    #[error("name holds a control character")]
    ControlCharacter,
}

fn check(text: &str) -> Result<(), NameError> {
    if text.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $shown:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks text from outside.
            ///
            /// # Errors
            /// When it is empty, too long, or holds a control character.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self($shown(text).into()))
            }

            /// The text as it came.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// The name under which a stream is published, as its publisher spelt it. It is never a path: whoever makes a
    /// file from it goes through `services::auto::store`. A name that is the address of a source never holds a password
    /// ([`without_password`]), so that it may be shown, logged and looked up with or without one.
    StreamName, without_password
);
text_id!(
    /// One publication or playback of one client, named by the client (a UUID in practice).
    MediaSessionId, Cow::Borrowed
);

/// A stream name without the user name and password of a source's address: `rtsp://user:secret@cam/1` is `rtsp://cam/1`. Other
/// names are left as they are.
#[must_use]
pub fn without_password(name: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = name.split_once("://") else { return Cow::Borrowed(name) };
    if !["rtsp", "rtsps", "rtmp", "rtmps"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Cow::Borrowed(name);
    }
    let authority = rest.find(['/', '?', '#']).map_or(rest, |end| rest.split_at(end).0);
    match authority.rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://{}", rest.split_at(at + 1).1)),
        None => Cow::Borrowed(name),
    }
}

/// A new random id in the form of a UUID version 4.
#[must_use]
pub fn random_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_harm_are_refused_and_odd_ones_kept() {
        assert_eq!(StreamName::new(" "), Err(NameError::Empty));
        assert_eq!(StreamName::new(&"x".repeat(10_000)), Err(NameError::TooLong));
        assert_eq!(StreamName::new("a\r\nb"), Err(NameError::ControlCharacter));
        assert_eq!(StreamName::new("../../etc/passwd").unwrap().as_str(), "../../etc/passwd");
        assert_eq!(StreamName::new("Kamera Süd #1").unwrap().to_string(), "Kamera Süd #1");
    }

    #[test]
    fn the_address_of_a_source_is_named_without_its_password() {
        for (text, name) in [
            ("rtsp://user:secret@cam/1", "rtsp://cam/1"),
            ("RTSP://user@[::1]:554/1?a=@", "RTSP://[::1]:554/1?a=@"),
            ("rtmps://a:b@c@host", "rtmps://host"),
            ("rtsp://cam/@/x@y", "rtsp://cam/@/x@y"),
            ("mail://me@example", "mail://me@example"),
            ("me@home", "me@home"),
        ] {
            assert_eq!(StreamName::new(text).unwrap().as_str(), name);
        }
    }
}
