//! The shipped file and `docs/CONFIGURATION.md`, made from the table of keys so that they cannot differ from it.

use super::keys::{KEYS, Key, NOT_SERVED};

/// Longest line of a comment in the shipped file.
const LINE_MAX: usize = 110;

/// `conf/flashphoner.properties`: each key with its default as a comment, so that a line that is not a comment is
/// one that somebody decided.
#[must_use]
pub fn properties_file() -> String {
    let mut text = String::from(
        "# Configuration of Stillcast. Each key stands here with its default, as a comment: remove the # to change it.\n\
         # Grammar: key=value lines in UTF-8, comments begin with #. docs/CONFIGURATION.md tells more about each key.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            text += &format!("\n# {section}\n# {}\n", "-".repeat(section.len()));
        }
        text.push('\n');
        for line in wrapped(&format!("{} Expected: {}.", plain(key), key.kind.expected())) {
            text += &format!("# {line}\n");
        }
        text += &format!("#{}={}\n", key.name, key.default);
    }
    text
}

/// `docs/CONFIGURATION.md`.
#[must_use]
pub fn configuration_md() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         This page is made from the table of keys in `src/conf/keys.rs`; a test keeps it true.\n\n\
         ## Where values come from\n\n\
         A value is taken from the first of these that names its key:\n\n\
         1. `--set key=value` on the command line (repeatable; the last one of a key holds)\n\
         2. the environment: `STILLCAST_` and the key in upper case, with `.` and `-` as `_` \
         (`ws.port` is `STILLCAST_WS_PORT`)\n\
         3. the file: the one named by `--config FILE`, which must exist, or \
         [`conf/flashphoner.properties`](../conf/flashphoner.properties) in the working folder, which may be missing\n\
         4. the default below\n\n\
         The file has `key=value` lines in UTF-8, `#` begins a comment line, a `\\` at the end continues a line. Paths are \
         relative to the working folder. `--print-config` shows the effective values and where each came from, \
         with secrets masked; `--check-config` tells whether the server would accept them and exits with 0 or 1.\n\n\
         A wrong value keeps the server from starting; the message names file, line, key and what was expected, and all \
         wrong values are told at once. An unknown key is passed over with a warning that names the nearest known one.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            text += &format!("\n## {section}\n\n| key | default | accepted | meaning |\n|---|---|---|---|\n");
        }
        let default =
            if key.default.is_empty() { "nothing".to_owned() } else { format!("`{}`", key.default) };
        let accepted = key.kind.expected().replace('|', "\\|");
        text += &format!("| `{}` | {default} | {accepted} | {} |\n", key.name, joined(key));
    }
    text += "\n## Known keys without effect\n\n\
             These keys of Flashphoner Web Call Server are known, so that its file can be used as it is. They have no effect in \
             this version, and the log says so once.\n\n";
    let names: Vec<_> = NOT_SERVED.iter().map(|name| format!("`{name}`")).collect();
    text += &names.join(", ");
    text.push('\n');
    text
}

/// The meaning of a key in one line.
fn joined(key: &Key) -> String {
    key.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The same without the marks of Markdown.
fn plain(key: &Key) -> String {
    joined(key).replace('`', "")
}

/// Lines of at most [`LINE_MAX`] with the comment's mark, broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a last line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() + 2 <= LINE_MAX {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
