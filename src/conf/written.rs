//! What was written: the text of each key and where it stands, before anybody asks what it means.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use java_properties::{LineContent, PropertiesIter};

use super::keys::{KEYS, Key, NOT_SERVED, VARIABLE_PREFIX, variable};

/// Largest configuration file that is read, in bytes.
pub const FILE_MAX_BYTES: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file; counted from 1.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Where the entry begins.
        line: usize,
    },
    /// An environment variable of this name.
    Environment(String),
    /// `--set` on the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::CommandLine => f.write_str("--set"),
        }
    }
}

/// One key with its text, as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub name: String,
    /// The text, without white space around it.
    pub text: String,
    /// Where it stands.
    pub origin: Origin,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be opened or read.
    #[error("{}: cannot read the configuration: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is larger than [`FILE_MAX_BYTES`].
    #[error("{}: larger than {FILE_MAX_BYTES} bytes, which no configuration is", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not UTF-8.
    #[error("{}:{line}: expected UTF-8 text", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line with the first bad byte.
        line: usize,
    },
    /// It breaks the grammar of properties files.
    #[error("{}:{line}: {source}", path.display())]
    Grammar {
        /// The file.
        path: PathBuf,
        /// The bad line.
        line: usize,
        /// What is wrong with it.
        source: java_properties::PropertiesError,
    },
}

impl ReadError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// The entries of a file, in order.
///
/// # Errors
/// When it cannot be read or breaks the grammar.
pub fn read_file(path: &Path) -> Result<Vec<Entry>, ReadError> {
    use std::io::Read as _;
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(ReadError::TooLarge { path: path.to_owned() });
    }
    parse_file(path, &bytes)
}

/// [`read_file`] on bytes that were read already; `path` is for messages only.
///
/// # Errors
/// When they are not UTF-8 or break the grammar.
pub fn parse_file(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, ReadError> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
        return Err(ReadError::NotUtf8 { path: path.to_owned(), line });
    }
    // Windows editors put a byte order mark first, which is no part of the first key.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut entries = Vec::new();
    for line in PropertiesIter::new_with_encoding(bytes, encoding_rs::UTF_8) {
        let line = line.map_err(|source| ReadError::Grammar {
            path: path.to_owned(),
            line: source.line_number().unwrap_or(0),
            source,
        })?;
        let origin = Origin::File { path: path.to_owned(), line: line.line_number() };
        if let LineContent::KVPair(name, text) = line.consume_content() {
            entries.push(Entry { name, text: text.trim().to_owned(), origin });
        }
    }
    Ok(entries)
}

/// The entries among environment variables. A variable of ours whose key does not exist becomes an entry under its
/// own name, so that it is warned about like any unknown key.
pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Entry> {
    let names: HashMap<String, &str> =
        KEYS.iter().map(|key| key.name).chain(NOT_SERVED.iter().copied()).map(|n| (variable(n), n)).collect();
    let mut entries: Vec<_> = variables
        .into_iter()
        .filter(|(variable, _)| variable.starts_with(VARIABLE_PREFIX))
        .map(|(variable, text)| Entry {
            name: names.get(&variable).map_or_else(|| variable.clone(), |name| (*name).to_owned()),
            text: text.trim().to_owned(),
            origin: Origin::Environment(variable),
        })
        .collect();
    // The system gives them in no order; messages should come in the same order each time.
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The entries of `--set key=value` arguments, in order.
pub fn from_arguments(settings: &[(String, String)]) -> Vec<Entry> {
    let entry = |(name, text): &(String, String)| Entry {
        name: name.trim().to_owned(),
        text: text.trim().to_owned(),
        origin: Origin::CommandLine,
    };
    settings.iter().map(entry).collect()
}

/// The known name nearest to one that is not known; `None` when nothing is near.
#[must_use]
pub fn nearest(name: &str) -> Option<String> {
    let is_variable = name.starts_with(VARIABLE_PREFIX);
    KEYS.iter()
        .map(|key| if is_variable { Key::variable(key) } else { key.name.to_owned() })
        .map(|known| (strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase()), known))
        // Three slips, or a third of a short name: more is another word.
        .filter(|(distance, known)| *distance <= 3.min(known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
