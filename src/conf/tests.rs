//! Precedence, faults and warnings of a whole configuration.

use std::path::Path;

use super::*;

fn file(text: &str) -> Vec<Entry> {
    parse_file(Path::new("a.properties"), text.as_bytes()).unwrap()
}

fn loaded(text: &str) -> Loaded {
    interpret(file(text), Vec::new()).unwrap()
}

fn faults(text: &str) -> Vec<String> {
    interpret(file(text), Vec::new()).unwrap_err().faults
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file_beats_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.properties");
    std::fs::write(&path, "ws.port=1\nwss.port=1\nhttp.port=1\n").unwrap();
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let sources = Sources {
        file: Some(path.clone()),
        environment: vec![
            pair("STILLCAST_WS_PORT", "2"),
            pair("STILLCAST_WSS_PORT", "2"),
            pair("OTHER_HTTP_PORT", "2"),
        ],
        settings: vec![pair("ws.port", "9"), pair("ws.port", " 3 ")],
    };
    let loaded = load(&sources).unwrap();
    let ports = [
        loaded.config.ws_port,
        loaded.config.wss_port,
        loaded.config.http_port,
        loaded.config.https_port,
        loaded.config.legacy_http_port,
    ];
    assert_eq!(ports, [Some(3), Some(2), Some(1), Some(8444), None]);
    assert_eq!(loaded.origin("ws.port"), Some(&Origin::CommandLine));
    assert_eq!(loaded.origin("wss.port"), Some(&Origin::Environment("STILLCAST_WSS_PORT".into())));
    assert_eq!(loaded.origin("http.port"), Some(&Origin::File { path, line: 3 }));
    assert_eq!(loaded.origin("https.port"), Some(&Origin::Default));
    assert_eq!(loaded.warnings, ["--set: ws.port is written twice; this one holds, not the one at --set"]);
}

#[test]
fn every_wrong_value_is_told_with_file_line_key_and_what_was_expected() {
    let faults = faults("# ports\nws.port = many\n\nsnapshot_auto_naming=login\nmedia_port_from=65536\n");
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(
        faults.contains(
            &"a.properties:2: ws.port: \"many\" is wrong, expected a port from 1 to 65535, 0 for any free port, \
              or nothing to leave it closed"
                .to_owned()
        ),
        "{faults:?}"
    );
    assert!(faults.iter().any(|fault| {
        fault.starts_with("a.properties:4: snapshot_auto_naming:")
            && fault.ends_with("one of mediaSessionId, streamName")
    }));
}

#[test]
fn values_that_contradict_each_other_are_faults() {
    let faults = faults(
        "media_port_from=32000\nmedia_port_to=31000\ntls.cert=a.pem\ndisable_rest_auth=false\nrest_auth_user=a:b\n",
    );
    let keys: Vec<_> = faults.iter().map(|fault| fault.split(": ").nth(1).unwrap_or("")).collect();
    assert_eq!(keys, ["media_port_to", "tls.key", "rest_auth_password", "rest_auth_user"], "{faults:?}");
    assert!(faults[0].contains("media_port_from, which is 32000 (a.properties:1)"));
}

#[test]
fn an_unknown_key_is_warned_about_with_the_nearest_name_and_a_far_one_without() {
    let loaded = loaded("ws.prot=1\nfavourite_colour=blue\n");
    assert_eq!(
        loaded.warnings,
        [
            "a.properties:1: unknown key \"ws.prot\" is passed over; did you mean ws.port?",
            "a.properties:2: unknown key \"favourite_colour\" is passed over",
        ]
    );
}

#[test]
fn an_unknown_variable_of_ours_is_warned_about() {
    let entries = written::from_environment([("STILLCAST_HTTP_PROT".to_owned(), "1".to_owned())]);
    let loaded = interpret(entries, Vec::new()).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].ends_with("did you mean STILLCAST_HTTP_PORT?"), "{:?}", loaded.warnings);
}

#[test]
fn known_keys_that_are_not_served_are_told_in_one_line() {
    let loaded = loaded("domain=example.org\nwss.keystore.file=wss.jks\n");
    assert_eq!(
        loaded.warnings,
        [
            "known keys that have no effect in this version: domain (a.properties:1), wss.keystore.file (a.properties:2)"
        ]
    );
}

#[test]
fn a_key_written_twice_in_a_file_takes_the_last_and_says_so() {
    let loaded = loaded("http.port=1\nhttp.port=2\n");
    assert_eq!(loaded.config.http_port, Some(2));
    assert_eq!(
        loaded.warnings,
        ["a.properties:2: http.port is written twice; this one holds, not the one at a.properties:1"]
    );
}

#[test]
fn the_grammar_is_that_of_properties_files_in_utf_8() {
    let loaded = loaded(
        "\u{feff}! comment\r\nweb_dir : /srv/Süd\r\ncodecs = opus,\\\r\n   h264  \r\ndata_dir=a\\u00e4\r\nws.port=\n",
    );
    assert_eq!(loaded.config.web_dir, Some(PathBuf::from("/srv/Süd")));
    assert_eq!(loaded.config.codecs, ["opus", "h264"]);
    assert_eq!(loaded.config.data_dir, PathBuf::from("aä"));
    assert_eq!(loaded.config.ws_port, None);
    assert_eq!(loaded.origin("data_dir").unwrap().to_string(), "a.properties:5");
    assert!(loaded.warnings.is_empty());
}

#[test]
fn broken_files_name_the_line() {
    let path = Path::new("a.properties");
    let latin_1 = parse_file(path, b"ws.port=1\n# caf\xe9\n").unwrap_err();
    assert_eq!(latin_1.to_string(), "a.properties:2: expected UTF-8 text");
    let escape = parse_file(path, b"ws.port=1\nweb_dir=\\u12\n").unwrap_err();
    assert!(escape.to_string().starts_with("a.properties:2: "), "{escape}");
}

#[test]
fn a_file_that_was_named_must_exist_and_be_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("missing"), folder.path().to_owned()] {
        let error = load(&Sources { file: Some(path.clone()), ..Sources::default() }).unwrap_err();
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_file_without_end_is_refused() {
    let error = load(&Sources { file: Some("/dev/zero".into()), ..Sources::default() }).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[test]
fn secrets_are_masked_in_every_form() {
    let loaded = loaded("disable_rest_auth=false\nrest_auth_password=hunter2\n");
    assert!(loaded.print().contains("rest_auth_password=********  # a.properties:2\n"));
    assert!(!loaded.print().contains("hunter2"));
    assert!(!format!("{:?}", loaded.config).contains("hunter2"));
    let faults = faults("rest_auth_password=hun\\u0001ter2\n");
    assert!(faults[0].contains("rest_auth_password") && !faults[0].contains("hun"), "{faults:?}");
}

#[test]
fn what_is_printed_can_be_read_back() {
    let first = loaded("ws.port=\ncodecs=opus, h264\nsnapshot_auto_naming=streamName\n");
    let second = loaded(&first.print().replace("  # ", "\n# "));
    let texts = |loaded: &Loaded| loaded.effective.iter().map(|entry| entry.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&first), texts(&second));
}

#[test]
fn the_shipped_file_with_its_comments_removed_is_the_default_configuration() {
    let text: String = properties_file()
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')))
        .map(|line| format!("{line}\n"))
        .collect();
    let entries = file(&text);
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
    assert!(entries.iter().zip(KEYS).all(|(entry, key)| entry.text == key.default));
}
