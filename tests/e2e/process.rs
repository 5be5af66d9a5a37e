//! The program as a service manager and an operator meet it: arguments, exit codes, signals, banner, messages.

use std::net::TcpListener;
use std::time::Duration;

use crate::support::process::{Process, command, run};

/// A properties file in a folder of its own.
fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.properties"), text).unwrap();
    folder
}

#[test]
fn check_config_accepts_a_good_file_and_refuses_a_bad_one_with_all_its_faults() {
    let folder = folder_with("http.port=9000\ndomain=example.org\n");
    let good = run(&mut command(folder.path(), &["--check-config", "--config", "a.properties"]));
    assert_eq!(good.code, Some(0), "{}", good.stderr);
    let warning = "warning: known keys that have no effect in this version: domain (a.properties:2)";
    assert!(good.stderr.contains(warning), "{}", good.stderr);

    let folder = folder_with("http.port=x\nsnapshot_auto_enabled=maybe\n");
    let bad = run(&mut command(folder.path(), &["--check-config", "--config", "a.properties"]));
    assert_eq!(bad.code, Some(1));
    assert!(bad.stdout.is_empty(), "{}", bad.stdout);
    for expected in [
        "error: a.properties:1: http.port: \"x\" is wrong, expected a port",
        "error: a.properties:2: snapshot_auto_enabled: \"maybe\" is wrong, expected true or false",
    ] {
        assert!(bad.stderr.contains(expected), "{}", bad.stderr);
    }
}

#[test]
fn a_wrong_command_line_exits_with_2_and_a_missing_file_with_1() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [["--set", "http.port"].as_slice(), &["--set", "=1"], &["--colour"]] {
        assert_eq!(run(&mut command(folder.path(), arguments)).code, Some(2), "{arguments:?}");
    }
    let missing = run(&mut command(folder.path(), &["--config", "none.properties"]));
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.stderr.starts_with("error: none.properties: cannot read the configuration"),
        "{}",
        missing.stderr
    );
    let version = run(&mut command(folder.path(), &["--version"]));
    assert_eq!(
        (version.code, version.stdout.trim()),
        (Some(0), concat!("stillcast ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn print_config_shows_each_value_with_its_origin_and_masks_secrets() {
    let folder = folder_with("disable_rest_auth=false\nrest_auth_password=hunter2\n");
    let mut command =
        command(folder.path(), &["--print-config", "--config", "a.properties", "--set", "ws.port=1"]);
    let printed = run(command.env("STILLCAST_WSS_PORT", "2"));
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    for expected in [
        "ws.port=1  # --set\n",
        "wss.port=2  # environment STILLCAST_WSS_PORT\n",
        "disable_rest_auth=false  # a.properties:1\n",
        "rest_auth_password=********  # a.properties:2\n",
        "http.port=8081  # default\n",
    ] {
        assert!(printed.stdout.contains(expected), "{expected} in {}", printed.stdout);
    }
    assert!(!(printed.stdout + &printed.stderr).contains("hunter2"));
}

#[test]
fn each_signal_of_a_service_manager_stops_it_cleanly_within_five_seconds() {
    for signal in ["TERM", "INT", "HUP"] {
        let process = Process::start(&["--demo"]);
        process.signal(signal);
        let (status, took, log) = process.wait();
        assert_eq!(status.code(), Some(0), "{signal}: {log}");
        assert!(took < Duration::from_secs(5), "{signal}: {took:?}");
        assert!(log.contains("stopped"), "{log}");
    }
}

#[test]
fn a_second_signal_stops_it_at_once() {
    let process = Process::start(&["--demo"]);
    // Both signals wait while it stands still, so that the second is there before a clean stop could end.
    for signal in ["STOP", "TERM", "INT", "CONT"] {
        process.signal(signal);
    }
    let (status, _, log) = process.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!log.contains("stopped"), "{log}");
}

#[test]
fn the_banner_names_the_ports_that_were_taken() {
    let process = Process::start(&[]);
    assert_eq!(process.banner[0], concat!("Stillcast ", env!("CARGO_PKG_VERSION")));
    for (name, scheme) in
        [("ws", "ws"), ("wss", "wss"), ("http", "http"), ("https", "https"), ("legacy_https", "https")]
    {
        let url = process.value(name).split(' ').next().unwrap();
        let address = url.strip_prefix(&format!("{scheme}://")).unwrap_or_else(|| panic!("{name}: {url}"));
        let address: std::net::SocketAddr = address.parse().unwrap();
        assert_ne!(address.port(), 0);
        std::net::TcpStream::connect(address).unwrap();
    }
}

#[test]
fn a_busy_port_is_told_by_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["--set".to_owned(), format!("http.port={port}")];
    for setting in [
        "ip_local=127.0.0.1",
        "ws.port=0",
        "wss.port=",
        "https.port=",
        "legacy_https.port=",
        "rtmp.port=",
        "rtsp.port=",
    ] {
        arguments.extend(["--set".to_owned(), setting.to_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let busy = run(&mut command(folder.path(), &arguments));
    assert_eq!(busy.code, Some(1));
    let expected =
        format!("error: http.port: cannot listen on 127.0.0.1:{port} (another program uses this port");
    assert!(busy.stderr.contains(&expected), "{}", busy.stderr);
    assert!(busy.stdout.is_empty(), "no banner: {}", busy.stdout);
}
