//! Cameras: GStreamer's RTSP server as a process, with a clip of numbered test cards.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use stillcast::base::clock::Clock;
use stillcast::services::test_card::{CardSettings, annex_b_run};

/// A clip of cards 0 to `cards - 1`, 25 a second, a keyframe each `keyframe_interval`, with a tone.
pub fn card_clip(folder: &Path, cards: u32, keyframe_interval: u32) -> PathBuf {
    let settings = CardSettings { frames_per_second: 25, keyframe_interval, ..CardSettings::sized(320, 240) };
    let stream = annex_b_run(settings, 0..cards, &Clock::real()).unwrap();
    let (raw, clip) = (folder.join("cards.h264"), folder.join("cards.mp4"));
    std::fs::write(&raw, stream).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-r", "25", "-f", "h264", "-i"])
        .arg(&raw)
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"])
        .args(["-c:v", "copy", "-c:a", "aac", "-shortest"])
        .arg(&clip)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    clip
}

/// A running camera; killed when dropped.
pub struct Camera {
    child: Child,
    /// `rtsp://127.0.0.1:…/cam`
    pub uri: String,
}

impl Camera {
    /// Starts `tests/cameras/camera.py` with this clip and these further arguments, and waits until it listens.
    pub fn start(clip: &Path, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cameras/camera.py");
        // The system's Python: the bindings are a package of the system.
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .arg(clip)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut uri = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut uri).unwrap();
        assert!(uri.starts_with("rtsp://"), "the camera did not start: {uri:?}");
        Self { child, uri: uri.trim().to_owned() }
    }

    /// The port it listens on.
    pub fn port(&self) -> &str {
        self.uri.split([':', '/']).nth(4).unwrap()
    }

    /// Its address with a user and a password.
    pub fn uri_with(&self, login: &str) -> String {
        self.uri.replacen("rtsp://", &format!("rtsp://{login}@"), 1)
    }

    /// Pulls its plug.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
