//! Configuration in two steps: what was written (`written`), and what it means ([`Config`], made from the table in
//! `keys`).
//!
//! A value is taken from `--set`, else from the environment, else from the file, else it is the default. Nobody but
//! `app` sees a whole [`Config`]: each service declares the settings it needs.

pub mod document;
pub mod keys;
pub mod kinds;
#[cfg(test)]
mod tests;
pub mod written;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use document::{configuration_md, properties_file};
pub use keys::{Config, KEYS, Key, NOT_SERVED, RecordNaming, SnapshotNaming, VARIABLE_PREFIX, variable};
pub use kinds::{AnyKind, Rotate, Secret};
pub use written::{Entry, FILE_MAX_BYTES, Origin, ReadError, parse_file};

/// The file that is read when none is named, from the working folder.
pub const DEFAULT_FILE: &str = "conf/flashphoner.properties";

/// Where to look for what was written.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file that was named; it must exist. `None`: [`DEFAULT_FILE`], if it exists.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with [`VARIABLE_PREFIX`] are passed over.
    pub environment: Vec<(String, String)>,
    /// Keys and values from the command line, in order.
    pub settings: Vec<(String, String)>,
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What the operator should hear, one line each.
    pub warnings: Vec<String>,
    effective: Vec<Entry>,
}

/// Why a configuration cannot be used: every fault that was found, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", faults.join("\n"))]
pub struct ConfError {
    /// Each names where the value stands, the key, and what was expected.
    pub faults: Vec<String>,
    /// What the operator should hear besides: a misspelt key may explain a fault.
    pub warnings: Vec<String>,
}

/// Reads all sources and gives them their meaning.
///
/// # Errors
/// When a file that was named cannot be read, or a value is not what its key expects. All faults are told at once.
pub fn load(sources: &Sources) -> Result<Loaded, ConfError> {
    let mut warnings = Vec::new();
    let mut entries = Vec::new();
    let (path, named) = match &sources.file {
        Some(path) => (path.as_path(), true),
        None => (Path::new(DEFAULT_FILE), false),
    };
    match written::read_file(path) {
        Ok(read) => entries.extend(read),
        Err(error) if error.is_missing() && !named => {
            warnings
                .push(format!("there is no {DEFAULT_FILE} in the working folder: every key has its default"));
        }
        Err(error) => return Err(ConfError { faults: vec![error.to_string()], warnings }),
    }
    entries.extend(written::from_environment(sources.environment.iter().cloned()));
    entries.extend(written::from_arguments(&sources.settings));
    interpret(entries, warnings)
}

/// Gives entries their meaning; of two with one key, the later holds.
fn interpret(entries: Vec<Entry>, mut warnings: Vec<String>) -> Result<Loaded, ConfError> {
    let mut chosen: HashMap<&'static str, Entry> = HashMap::new();
    let mut not_served: Vec<(String, String)> = Vec::new();
    for entry in entries {
        let Some(key) = Key::find(&entry.name) else {
            if NOT_SERVED.contains(&entry.name.as_str()) {
                not_served.push((entry.name, entry.origin.to_string()));
            } else {
                warnings.push(unknown(&entry));
            }
            continue;
        };
        if let Some(earlier) = chosen.get(key.name)
            && std::mem::discriminant(&earlier.origin) == std::mem::discriminant(&entry.origin)
        {
            warnings.push(format!(
                "{}: {} is written twice; this one holds, not the one at {}",
                entry.origin, key.name, earlier.origin
            ));
        }
        chosen.insert(key.name, entry);
    }
    if !not_served.is_empty() {
        let list: Vec<_> = not_served.iter().map(|(name, origin)| format!("{name} ({origin})")).collect();
        warnings.push(format!("known keys that have no effect in this version: {}", list.join(", ")));
    }
    let effective: Vec<Entry> = KEYS
        .iter()
        .map(|key| {
            chosen.remove(key.name).unwrap_or_else(|| Entry {
                name: key.name.to_owned(),
                text: key.default.to_owned(),
                origin: Origin::Default,
            })
        })
        .collect();
    let mut faults: Vec<String> =
        effective.iter().zip(KEYS).filter(|(entry, key)| !key.kind.accepts(&entry.text)).map(wrong).collect();
    let text_of = |name: &str| -> &str {
        effective.iter().find(|entry| entry.name == name).map_or("", |entry| entry.text.as_str())
    };
    let config = Config::from_texts(text_of);
    if let Some(config) = &config {
        faults.extend(contradictions(config, &effective));
    }
    match config {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings, effective }),
        _ => Err(ConfError { faults, warnings }),
    }
}

fn unknown(entry: &Entry) -> String {
    let hint =
        written::nearest(&entry.name).map(|known| format!("; did you mean {known}?")).unwrap_or_default();
    format!("{}: unknown key {:?} is passed over{hint}", entry.origin, entry.name)
}

fn wrong((entry, key): (&Entry, &Key)) -> String {
    // A value can be long or hold anything: a piece of it, quoted, is enough to find it.
    let shown = if key.kind.is_secret() {
        "a value".to_owned()
    } else {
        let piece: String = entry.text.chars().take(80).collect();
        format!("{piece:?}")
    };
    format!("{}: {}: {shown} is wrong, expected {}", entry.origin, entry.name, key.kind.expected())
}

/// Values that are right alone and wrong together.
fn contradictions(config: &Config, effective: &[Entry]) -> Vec<String> {
    let origin = |name: &str| {
        effective
            .iter()
            .find(|entry| entry.name == name)
            .map_or(Origin::Default, |entry| entry.origin.clone())
    };
    let mut faults = Vec::new();
    if config.media_port_from > config.media_port_to {
        faults.push(format!(
            "{}: media_port_to: {} is wrong, expected no less than media_port_from, which is {} ({})",
            origin("media_port_to"),
            config.media_port_to,
            config.media_port_from,
            origin("media_port_from")
        ));
    }
    for (one, other, missing) in [
        ("tls.cert", "tls.key", config.tls_key.is_none()),
        ("tls.key", "tls.cert", config.tls_cert.is_none()),
    ] {
        if missing && (config.tls_cert.is_some() || config.tls_key.is_some()) {
            faults.push(format!(
                "{}: {other}: nothing is wrong, expected a path, because {one} is set ({})",
                origin(other),
                origin(one)
            ));
        }
    }
    if !config.disable_rest_auth && config.rest_auth_password.reveal().is_empty() {
        faults.push(format!(
            "{}: rest_auth_password: nothing is wrong, expected a password, because disable_rest_auth is false ({})",
            origin("rest_auth_password"),
            origin("disable_rest_auth")
        ));
    }
    if config.rest_auth_user.contains(':') {
        faults.push(format!(
            "{}: rest_auth_user: a colon is wrong, expected a name without one (RFC 7617)",
            origin("rest_auth_user")
        ));
    }
    faults
}

impl Loaded {
    /// Every key with its effective value and where it came from, one line each; secrets are masked.
    #[must_use]
    pub fn print(&self) -> String {
        let lines = self.effective.iter().zip(KEYS).map(|(entry, key)| {
            let hidden = key.kind.is_secret() && !entry.text.is_empty();
            let text = if hidden { "********" } else { entry.text.as_str() };
            format!("{}={text}  # {}\n", entry.name, entry.origin)
        });
        lines.collect()
    }

    /// Where the value of a key came from.
    #[must_use]
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.effective.iter().find(|entry| entry.name == name).map(|entry| &entry.origin)
    }
}
