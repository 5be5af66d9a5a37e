//! The house itself: floors, doors, sizes, documents and the configuration's two faces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use stillcast::conf;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` whose name ends so, without what builds and package managers leave behind; sorted.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    const LEFT_OUT: [&str; 8] =
        ["target", "node_modules", ".git", "data", "__pycache__", ".cache", "artifacts", ".cargo"];
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                if !LEFT_OUT.contains(&name) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The path as it is named in messages and tables: from the top of the repository.
fn name_of(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// Lines of code with their numbers: without comments and without unit tests, which stand last in a file.
fn code(path: &Path) -> Vec<(usize, String)> {
    let name = path.file_name().unwrap().to_str().unwrap();
    if name.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
        return Vec::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let end = (0..lines.len())
        .find(|n| {
            lines[*n].trim() == "#[cfg(test)]"
                && lines[*n + 1..].iter().take(2).any(|line| {
                    let line = line.trim();
                    line.contains("mod ") && line.ends_with('{')
                })
        })
        .unwrap_or(lines.len());
    let without_comment = |line: &str| line.split("//").next().unwrap_or("").to_owned();
    lines[..end].iter().enumerate().map(|(n, line)| (n + 1, without_comment(line))).collect()
}

fn source() -> Vec<PathBuf> {
    files(&root().join("src"), &[".rs"])
}

/// The first words of what follows `crate::`, groups in braces included: `crate::{a::b, c}` gives `a::b` and `c`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut start = 0;
            for (n, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    paths.push(group[start..n].trim().to_owned());
                    start = n + 1;
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            paths.push(rest.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect());
        }
    }
    paths
}

/// What each floor may import of ours. `base::id` allows that module alone.
const FLOORS: &[(&str, &[&str])] = &[
    ("base", &["base"]),
    ("conf", &["base", "conf"]),
    ("media", &["base::id", "media"]),
    ("proto", &["base::id", "media", "proto"]),
    ("hub", &["base", "media", "hub"]),
    ("services", &["base", "media", "hub", "services"]),
    ("edge", &["base", "media", "hub", "proto", "services", "edge"]),
    ("fuzz", &["base", "media", "proto", "conf", "edge", "services"]),
    ("app", &["base", "conf", "media", "hub", "proto", "services", "edge", "app"]),
    ("banner", &["base", "conf", "services", "edge::web", "app"]),
    ("cli", &["base", "conf", "app", "banner", "cli"]),
    ("main", &[]),
    ("lib", &[]),
];

#[test]
fn each_floor_imports_only_from_below() {
    let mut faults = Vec::new();
    for path in source() {
        let name = name_of(&path);
        let floor = name["src/".len()..].split(['/', '.']).next().unwrap();
        let Some((_, allowed)) = FLOORS.iter().find(|(known, _)| *known == floor) else {
            faults.push(format!("{name}: {floor:?} is not in the table of floors"));
            continue;
        };
        let text: Vec<String> = code(&path).into_iter().map(|(_, line)| line).collect();
        for import in crate_paths(&text.join("\n")) {
            let fits = |allowed: &str| import == allowed || import.starts_with(&format!("{allowed}::"));
            if !import.is_empty() && !allowed.iter().any(|allowed| fits(allowed)) {
                faults.push(format!("{name}: {floor} may not import {import}"));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn pure_floors_know_no_sockets_files_threads_or_clocks() {
    const NEVER: [&str; 10] = [
        "std::fs",
        "std::thread",
        "std::io::Read",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "Instant::now",
        "SystemTime::now",
        "rand::rng()",
        "getrandom::",
    ];
    let mut faults = Vec::new();
    for path in source() {
        let name = name_of(&path);
        if !["src/media/", "src/proto/", "src/hub/"].iter().any(|floor| name.starts_with(floor)) {
            continue;
        }
        for (number, line) in code(&path) {
            for never in NEVER {
                if line.contains(never) {
                    faults.push(format!("{name}:{number}: {never}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Third-party crates that stay behind one door each: who may name them.
const DOORS: &[(&str, &[&str])] = &[
    ("aes", &["src/proto/srtp/"]),
    ("async_trait", &["src/proto/dtls"]),
    ("clap", &["src/cli.rs"]),
    ("dtls", &["src/proto/dtls"]),
    ("encoding_rs", &["src/conf/"]),
    ("fast_image_resize", &["src/services/"]),
    ("h264_reader", &["src/media/h264/"]),
    ("hmac", &["src/proto/rtmp/handshake.rs"]),
    ("http_auth", &["src/proto/rtsp/client"]),
    ("httparse", &["src/edge/http"]),
    ("ipnet", &["src/edge/pull/fence.rs"]),
    ("java_properties", &["src/conf/"]),
    ("openh264", &["src/services/decode", "src/services/encode.rs"]),
    ("oxideav_vp8", &["src/services/decode/vp8.rs"]),
    ("png", &["src/services/png"]),
    ("prometheus", &["src/base/metrics.rs"]),
    ("rcgen", &["src/edge/tls", "src/proto/dtls"]),
    ("ropus", &["src/services/audio"]),
    ("rubato", &["src/services/audio"]),
    ("rouille", &["src/edge/http", "src/edge/rest", "src/edge/web", "src/edge/whip"]),
    ("ring", &["src/edge/tls", "src/proto/srtp/"]),
    ("rtp", &["src/proto/rtp/"]),
    ("rtsp_types", &["src/proto/rtsp/message.rs"]),
    ("rust_embed", &["src/edge/web"]),
    ("rust_h264", &["src/services/decode"]),
    (
        "rustix",
        &[
            "src/base/",
            "src/services/auto/store.rs",
            "src/services/folder.rs",
            "src/services/record/",
            "src/services/folder.rs",
            "src/services/retention.rs",
            "src/services/vod/",
            "src/edge/web/files.rs",
        ],
    ),
    ("rustls", &["src/edge/tls", "src/proto/dtls"]),
    ("sdp_types", &["src/proto/rtsp/sdp.rs"]),
    ("shiguredo_mp4", &["src/services/mp4/"]),
    ("signal_hook", &["src/cli.rs"]),
    ("quinn_udp", &["src/edge/ports.rs"]),
    ("socket2", &["src/edge/"]),
    ("strsim", &["src/conf/"]),
    ("stun", &["src/proto/stun"]),
    ("symphonia", &["src/services/audio"]),
    ("tokio", &["src/proto/dtls"]),
    ("tracing_subscriber", &["src/cli.rs"]),
    ("tungstenite", &["src/edge/ws"]),
    ("url", &["src/edge/pull/source.rs", "src/edge/rtmp", "src/edge/rtsp", "src/proto/rtmp/"]),
    ("uuid", &["src/base/id.rs"]),
    ("webrtc_srtp", &["src/proto/srtp"]),
    ("webrtc_util", &["src/proto/"]),
    ("yuv", &["src/services/colour", "src/services/test_card"]),
];

/// Whether a line names this crate. A module of ours may have a crate's name, so that only the beginning of a path in
/// a `use`, or a path after `::` with nothing before it, counts for those.
fn names_crate(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    let used = |line: &str| {
        line.strip_prefix("use ")
            .or_else(|| line.strip_prefix("pub use "))
            .and_then(|rest| rest.trim_start_matches("::").strip_prefix(name))
            .is_some_and(|rest| rest.starts_with("::") || rest.starts_with(';') || rest.starts_with(" as"))
    };
    let ours = ["dtls", "png", "rtp", "stun", "url"].contains(&name);
    used(line)
        || line.match_indices(&format!("{name}::")).any(|(at, _)| {
            let before = &line[..at];
            let word = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
            let absolute = before.ends_with("::")
                && !before[..before.len() - 2].ends_with(|c: char| c.is_alphanumeric() || "_>".contains(c));
            absolute || (!ours && !word && !before.ends_with("::"))
        })
}

#[test]
fn each_outside_crate_has_one_door() {
    let mut faults = Vec::new();
    for path in source() {
        let name = name_of(&path);
        for (number, line) in code(&path) {
            for (krate, doors) in DOORS {
                if names_crate(&line, krate) && !doors.iter().any(|door| name.starts_with(door)) {
                    faults.push(format!("{name}:{number}: {krate} belongs in {doors:?}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_dependency_is_used() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let text: String = source().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let unused: Vec<_> = dependencies
        .lines()
        .filter_map(|line| line.split_once(" =").map(|(name, _)| name.trim()))
        .filter(|name| !name.starts_with('#') && !text.contains(&name.replace('-', "_")))
        .collect();
    assert!(unused.is_empty(), "named in Cargo.toml and nowhere in src: {unused:?}");
}

/// A file past this is asking to be two.
const LINES_MAX: usize = 600;

#[test]
fn no_source_file_outgrows_its_room() {
    let long: Vec<_> = source()
        .iter()
        .map(|path| (name_of(path), fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines: {long:?}");
}

#[test]
fn each_module_says_what_belongs_in_it() {
    let silent: Vec<_> = source()
        .iter()
        .filter(|path| !name_of(path).ends_with("tests.rs"))
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//! "))
        .map(|path| name_of(path))
        .collect();
    assert!(silent.is_empty(), "without a module doc: {silent:?}");
}

/// Compares a file that is made with what it is made from. `BLESS=1` writes it.
fn made(name: &str, expected: &str) {
    let path = root().join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    if let Some((number, (found, expected))) =
        found.lines().zip(expected.lines()).enumerate().find(|(_, (found, expected))| found != expected)
    {
        panic!(
            "{name}:{}: found\n  {found}\nexpected\n  {expected}\nBLESS=1 cargo test --test house writes it anew",
            number + 1
        );
    }
    assert_eq!(
        found, expected,
        "{name} has more or fewer lines; BLESS=1 cargo test --test house writes it anew"
    );
}

#[test]
fn the_shipped_configuration_holds_every_key_with_its_default() {
    made("conf/flashphoner.properties", &conf::properties_file());
}

#[test]
fn the_configuration_page_is_made_from_the_table_of_keys() {
    made("docs/CONFIGURATION.md", &conf::configuration_md());
}

#[test]
fn the_shipped_configuration_can_be_loaded_without_a_warning() {
    let sources = conf::Sources { file: Some(root().join(conf::DEFAULT_FILE)), ..conf::Sources::default() };
    let loaded = conf::load(&sources).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

/// Keys that a page names: the first cell of a table's line, or a word in back quotes that has the form of a key.
#[test]
fn keys_in_the_readme_exist() {
    let known: BTreeSet<&str> =
        conf::KEYS.iter().map(|key| key.name).chain(conf::NOT_SERVED.iter().copied()).collect();
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let words = text.split('`').skip(1).step_by(2);
    let looks_like_a_key = |word: &&str| {
        let word = word.split('=').next().unwrap_or("");
        (word.ends_with(".port")
            || word.starts_with("tls.")
            || word.starts_with("snapshot_")
            || word.starts_with("media_port_"))
            && !word.contains(['/', '(', ' '])
    };
    let unknown: Vec<_> = words
        .filter(looks_like_a_key)
        .filter(|word| !known.contains(word.split('=').next().unwrap_or("")))
        .collect();
    assert!(unknown.is_empty(), "README.md names keys that do not exist: {unknown:?}");
}

/// The anchor that a heading gets on the usual hosts.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

/// Text outside fenced blocks.
fn prose(path: &Path) -> String {
    let mut fenced = false;
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let pages = files(root(), &[".md"]);
    let anchors: BTreeMap<PathBuf, BTreeSet<String>> = pages
        .iter()
        .map(|page| {
            let headings = prose(page).lines().filter(|line| line.starts_with('#')).map(anchor).collect();
            (page.canonicalize().unwrap(), headings)
        })
        .collect();
    let mut faults = Vec::new();
    for page in &pages {
        for (at, _) in prose(page).match_indices("](") {
            let text = prose(page);
            let target = text[at + 2..].split(')').next().unwrap_or("").split(' ').next().unwrap_or("");
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            match path.canonicalize() {
                Err(_) => faults.push(format!("{}: {target}", name_of(page))),
                Ok(path)
                    if !fragment.is_empty() && !anchors.get(&path).is_some_and(|a| a.contains(fragment)) =>
                {
                    faults.push(format!("{}: {target}: no such heading", name_of(page)));
                }
                Ok(_) => {}
            }
        }
    }
    assert!(faults.is_empty(), "links that lead nowhere:\n{}", faults.join("\n"));
}

#[test]
fn the_changelog_tells_what_is_not_released_yet() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(text.lines().any(|line| line.starts_with("## ") && line.contains("Unreleased")));
}

#[test]
fn no_file_names_a_folder_of_somebodys_machine() {
    let endings =
        [".rs", ".md", ".toml", ".js", ".mjs", ".html", ".css", ".py", ".json", ".properties", ".sh"];
    let mut paths = files(root(), &endings);
    // Scripts have no ending.
    paths.extend(files(&root().join("tools"), &[""]));
    paths.retain(|path| path.file_name().is_some_and(|name| name != "house.rs"));
    let mut faults = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for place in ["/work/", "/home/", "/root/", "/Users/", "/tmp/"] {
                let named = line.match_indices(place).any(|(at, _)| {
                    // A folder of a longer path, such as in an URL, is none of the machine's own.
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-}".contains(c))
                });
                if named {
                    faults.push(format!("{}:{}: {place}", name_of(&path), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
