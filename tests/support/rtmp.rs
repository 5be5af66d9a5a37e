//! Real programs that speak RTMP, and a publisher and a player that send exactly what a test gives them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::media::unit::AccessUnit;
use stillcast::proto::rtmp::amf0::{self, Value};
use stillcast::proto::rtmp::chunk::{ChunkReader, ChunkWriter, Message, kind};
use stillcast::proto::rtmp::handshake::PART_BYTES;
use stillcast::services::test_card::{CardSettings, annex_b_run};

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A program of the tests; `tools/install-test-deps` installs it.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

fn missing(name: &str, error: &std::io::Error) -> ! {
    panic!("{name} does not start ({error}); tools/install-test-deps installs what the tests need")
}

/// A program that runs beside the test; killed when dropped, as by `kill -9`.
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let child = program(name).args(arguments).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| missing(name, &error)))
    }

    /// Kills it, so that it says no goodbye.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end.
pub fn run(name: &str, arguments: &[&str]) -> Output {
    program(name).args(arguments).output().unwrap_or_else(|error| missing(name, &error))
}

/// An FLV file in `folder` of numbered cards 0 to `frames` - 1, 30 a second, with a tone; `encoder` are the options by
/// which ffmpeg encodes it anew (`-c:v copy` keeps it).
pub fn card_file(folder: &Path, size: (u32, u32), frames: u32, encoder: &[&str]) -> PathBuf {
    let settings = CardSettings { keyframe_interval: 600, ..CardSettings::sized(size.0, size.1) };
    let cards = folder.join(format!("cards-{}x{}.h264", size.0, size.1));
    std::fs::write(&cards, annex_b_run(settings, 0..frames, &Clock::real()).unwrap()).unwrap();
    let out = folder.join(format!("cards-{}x{}.flv", size.0, size.1));
    let seconds = (frames as f64 / 30.0).to_string();
    let tone = format!("sine=frequency=440:duration={seconds}");
    let mut arguments =
        vec!["-hide_banner", "-loglevel", "error", "-y", "-framerate", "30", "-f", "h264", "-i"];
    arguments.extend([cards.to_str().unwrap(), "-f", "lavfi", "-i", &tone]);
    arguments.extend(encoder);
    arguments.extend(["-c:a", "aac", out.to_str().unwrap()]);
    let made = run("ffmpeg", &arguments);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out
}

/// A client whose every message the test decides.
pub struct RtmpTalker {
    stream: TcpStream,
    writer: ChunkWriter,
    reader: ChunkReader,
    read: Vec<u8>,
    clock: Clock,
}

impl RtmpTalker {
    /// Connects, shakes hands, and creates a stream in the application `live`.
    pub fn connect(address: SocketAddr, properties: &[(&str, Value)]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&[[3].as_slice(), &[0; PART_BYTES]].concat()).unwrap();
        let mut answer = vec![0; 1 + 2 * PART_BYTES];
        stream.read_exact(&mut answer).unwrap();
        stream.write_all(&answer[1..=PART_BYTES]).unwrap();
        let (writer, reader) = (ChunkWriter::new(), ChunkReader::new());
        let mut talker = Self { stream, writer, reader, read: Vec::new(), clock: Clock::real() };
        let mut object = vec![("app".to_owned(), Value::text("live"))];
        object.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        talker.command(0, &[Value::text("connect"), Value::Number(1.0), Value::Object(object)]);
        talker.expect("NetConnection.Connect.Success");
        talker.command(0, &[Value::text("createStream"), Value::Number(2.0), Value::Null]);
        talker
    }

    /// Publishes under this name; returns the status code of the answer.
    pub fn publish(&mut self, name: &str) -> String {
        self.command(1, &[Value::text("publish"), Value::Number(3.0), Value::Null, Value::text(name)]);
        self.next_code()
    }

    /// Plays a stream.
    pub fn play(&mut self, name: &str) {
        self.command(1, &[Value::text("play"), Value::Number(3.0), Value::Null, Value::text(name)]);
    }

    /// Sends a command.
    pub fn command(&mut self, stream_id: u32, values: &[Value]) {
        self.message(kind::COMMAND_AMF0, stream_id, 0, &amf0::encode(values));
    }

    /// Sends a message.
    pub fn message(&mut self, kind: u8, stream_id: u32, timestamp: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        self.writer.write(&mut bytes, 3, (kind, stream_id, timestamp), &[payload]);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Sends a coded picture, and before a keyframe its parameters.
    pub fn video(&mut self, unit: &AccessUnit, timestamp: u32) {
        if unit.key {
            let (sps, pps) = unit.params.codec.h264_sets().unwrap();
            let config = stillcast::media::h264::decoder_config::decoder_config(sps, pps).unwrap();
            self.message(kind::VIDEO, 1, timestamp, &[&[0x17, 0, 0, 0, 0], config.as_slice()].concat());
        }
        let first = if unit.key { 0x17 } else { 0x27 };
        self.message(kind::VIDEO, 1, timestamp, &[&[first, 1, 0, 0, 0], &unit.data[..]].concat());
    }

    /// The next message; `None` when the server closed.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            let mut rest = self.read.as_slice();
            let message = self.reader.next(&mut rest, self.clock.now()).unwrap();
            self.read = rest.to_vec();
            if let Some(message) = message {
                if message.kind == kind::SET_CHUNK_SIZE {
                    let size = u32::from_be_bytes(message.payload[..].try_into().unwrap());
                    self.reader.set_chunk_size(size).unwrap();
                }
                return Some(message);
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer).unwrap_or_else(|error| panic!("no message: {error}")) {
                0 => return None,
                count => self.read.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// The code of the next status.
    pub fn next_code(&mut self) -> String {
        loop {
            let message = self.next().expect("the server closed");
            if message.kind != kind::COMMAND_AMF0 {
                continue;
            }
            let values = amf0::decode(&message.payload).unwrap();
            if let Some(code) = values.iter().find_map(|value| value.get("code")).and_then(Value::as_str) {
                return code.to_owned();
            }
        }
    }

    fn expect(&mut self, code: &str) {
        assert_eq!(self.next_code(), code);
    }
}
