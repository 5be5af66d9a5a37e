//! The way over the network: ffmpeg publishes the file to a whole server, and stays when it has sent it all; the snapshot
//! is taken by HTTP.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stillcast::base::clock::Clock;

use crate::compare;
use crate::make::Stream;
use crate::support::rest::HttpClient;
use crate::support::server::Server;
use crate::table::{Expect, Row};

/// Protocols by which ffmpeg publishes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Carrier {
    Rtmp,
    Rtsp,
}

pub(crate) const CARRIERS: [Carrier; 2] = [Carrier::Rtmp, Carrier::Rtsp];

/// Longest wait for the last picture, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether a row can be sent as a file. The other rows are about what is between units, and go into the hub alone.
pub(crate) fn can_carry(row: &Row) -> bool {
    row.then.is_none() && row.drop_first == 0 && row.jump.is_none()
}

/// A publisher that has its whole input and does not know that there will be no more.
struct Publisher(Child);

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Publishes a row and compares the picture that is shown last; returns what was wrong.
pub(crate) fn run(row: &Row, stream: &Stream, carrier: Carrier, server: &Server) -> Result<(), String> {
    let name = format!("{}-{carrier:?}", row.name);
    let mut publisher = publish(row, stream, carrier, server, &name);
    let clock = Clock::real();
    let deadline = clock.now() + PATIENCE;
    let mut client = HttpClient::connect(server.address("http"));
    loop {
        let response = client.get(&format!("/snapshots/{name}.png"));
        let outcome = match (&row.expect, response.status) {
            (Expect::Right, 200) => {
                compare::png_with_frame(&response.body, stream, stream.shown_last(stream.units.len()))
            }
            (Expect::Right, status) => {
                Err(format!("status {status}: {}", String::from_utf8_lossy(&response.body)))
            }
            // The picture must never come, whatever was sent so far.
            (Expect::Refused(_), 200) => return Err("a picture where none was due".into()),
            (Expect::Refused(text), _) => {
                let told = String::from_utf8_lossy(&response.body).into_owned();
                if told.contains(text) { Ok(()) } else { Err(told) }
            }
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(error) if clock.now() >= deadline => return Err(error),
            Err(_) => std::thread::park_timeout(PAUSE),
        }
        if let Some(status) = publisher.0.try_wait().unwrap() {
            return Err(format!("the publisher ended: {status}"));
        }
    }
}

fn publish(row: &Row, stream: &Stream, carrier: Carrier, server: &Server, name: &str) -> Publisher {
    // A container that can be read from a pipe, and whose last picture is whole before the pipe ends.
    let file = stream.as_matroska();
    let mut command = Command::new("ffmpeg");
    command.args([
        "-hide_banner",
        "-loglevel",
        "error",
        "-nostats",
        "-probesize",
        "32",
        "-analyzeduration",
        "0",
    ]);
    command.args(["-f", "matroska", "-i", "-", "-map", "0:v", "-c", "copy", "-flush_packets", "1"]);
    match carrier {
        Carrier::Rtmp => {
            let url = format!("rtmp://{}/live/{name}", server.address("rtmp"));
            command.args(["-f", "flv", &url]);
        }
        Carrier::Rtsp => {
            let url = format!("rtsp://{}/{name}", server.address("rtsp"));
            command.args(["-f", "rtsp", "-rtsp_transport", "tcp", &url]);
        }
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The pipe stays open as long as the child is held.
    let written = child.stdin.as_mut().unwrap().write_all(&file);
    assert!(written.is_ok(), "{}: ffmpeg does not read its input", row.name);
    Publisher(child)
}
