//! The statistics page (protocol document, section 12): what the old console reads, and the same as JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rouille::percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rouille::{Request, Response};
use serde_json::{Map, Value};

use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::edge::ports::MediaPorts;
use crate::hub::{Registry, SourceProtocol, Stream, Viewer};

/// Clock ticks a second in `/proc` (`USER_HZ`), which is 100 on every Linux that we run on.
const PROC_TICKS_PER_SECOND: f64 = 100.0;

/// Shortest time over which the use of the processor is measured.
const CPU_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Characters of a stream name that would break the page's lines and lists.
const NAME_ESCAPES: &AsciiSet = &CONTROLS.add(b'=').add(b';').add(b'/').add(b'%');

/// Collects the numbers when they are asked for.
#[derive(Debug)]
pub(super) struct Statistics {
    registry: Registry,
    metrics: Metrics,
    ports: MediaPorts,
    clock: Clock,
    cpu: Mutex<Cpu>,
}

/// The use of the processor between the last two questions.
#[derive(Debug)]
struct Cpu {
    at: Instant,
    used: Duration,
    percent: f64,
}

/// One group: its title in the text form, its name in the JSON form, its lines.
struct Group {
    title: &'static str,
    name: &'static str,
    lines: Vec<(&'static str, Value)>,
}

impl Statistics {
    pub(super) fn new(registry: Registry, metrics: Metrics, ports: MediaPorts, clock: Clock) -> Self {
        let cpu = Mutex::new(Cpu { at: clock.now(), used: cpu_used(), percent: 0.0 });
        Self { registry, metrics, ports, clock, cpu }
    }

    /// Answers `/?action=stat`, with `format=json` and `groups=…` where they are given.
    pub(super) fn respond(&self, request: &Request) -> Response {
        let groups = self.groups();
        let response = if request.get_param("format").as_deref() == Some("json") {
            let wanted = request.get_param("groups");
            Response::json(&as_json(groups, wanted.as_deref()))
        } else {
            Response::text(as_text(&groups))
        };
        response.with_additional_header("Cache-Control", "no-store")
    }

    fn groups(&self) -> Vec<Group> {
        let streams = self.registry.list();
        let published = |protocols: &[SourceProtocol]| {
            let of_these = |stream: &&Arc<Stream>| protocols.contains(&stream.publication().protocol);
            Value::from(streams.iter().filter(of_these).count())
        };
        let viewers = self.registry.viewers().list();
        let played = |media_provider: &str| {
            let by_this = |viewer: &&Arc<Viewer>| viewer.viewing().media_provider == media_provider;
            Value::from(viewers.iter().filter(by_this).count())
        };
        let mut watching = HashMap::<u64, u64>::new();
        for viewer in &viewers {
            *watching.entry(viewer.stream().epoch()).or_default() += 1;
        }
        let on_port = |name: &str| self.metrics.connections_by_port.with_label_values(&[name]).get();
        let websocket = on_port("ws") + on_port("wss");
        let (rtmp, rtsp) = (on_port("rtmp") + on_port("rtmps"), on_port("rtsp"));
        let list = |number: &dyn Fn(&Stream) -> u64| -> Value {
            let items: Vec<String> = streams
                .iter()
                .map(|stream| {
                    let name = stream.publication().name.as_str();
                    format!("{}/{}", utf8_percent_encode(name, NAME_ESCAPES), number(stream))
                })
                .collect();
            items.join(";").into()
        };
        let zero = || Value::from(0);
        let (memory_total, memory_free) = memory_mb();
        let mut groups = vec![Group {
            title: "Connection Stats",
            name: "connections_stats",
            lines: vec![
                ("connections", self.metrics.connections.get().into()),
                ("connections_rtmfp", zero()),
                ("connections_websocket", websocket.into()),
                ("connections_rtmp", rtmp.into()),
                ("connections_rtsp", rtsp.into()),
            ],
        }];
        if let Some(size) = self.ports.size() {
            let busy = self.ports.taken();
            groups.push(Group {
                title: "Port Stats",
                name: "port_stats",
                lines: vec![
                    ("ports_media_free", size.saturating_sub(busy).into()),
                    ("ports_media_busy", busy.into()),
                    // A port that was given back waits for its turn and counts as free.
                    ("ports_media_quarantine", zero()),
                ],
            });
        }
        groups.push(Group {
            title: "Stream Stats",
            name: "streams_stats",
            // What is not served has no streams; the console wants to read it all the same.
            lines: vec![
                ("streams_webrtc_in", published(&[SourceProtocol::WebRtc])),
                ("streams_webrtc_out", played(SourceProtocol::WebRtc.media_provider())),
                ("streams_websocket_out", zero()),
                ("streams_rtmfp_in", zero()),
                ("streams_rtmfp_out", zero()),
                ("streams_rtmp_in", published(&[SourceProtocol::Rtmp, SourceProtocol::RtmpPull])),
                ("streams_rtmp_out", played(SourceProtocol::Rtmp.media_provider())),
                ("streams_rtsp_in", published(&[SourceProtocol::Rtsp, SourceProtocol::RtspPull])),
                ("streams_rtsp_out", played(SourceProtocol::Rtsp.media_provider())),
                ("streams_viewers", list(&|stream| watching.get(&stream.epoch()).copied().unwrap_or(0))),
                ("streams_synchronization", list(&|_| 0)),
            ],
        });
        groups.push(Group {
            title: "System Stats",
            name: "native_resources",
            lines: vec![
                ("system_memory_total", memory_total.into()),
                ("system_memory_free", memory_free.into()),
                ("system_java_cpu_usage", self.cpu_percent().into()),
            ],
        });
        groups.push(Group {
            title: "Core Stats",
            name: "core_stats",
            lines: vec![("core_threads", threads().into())],
        });
        groups
    }

    /// Per cent of one core that this process used since it was last asked.
    fn cpu_percent(&self) -> f64 {
        let now = self.clock.now();
        let mut cpu = self.cpu.lock();
        let passed = now.saturating_duration_since(cpu.at);
        if passed >= CPU_INTERVAL_MIN {
            let used = cpu_used();
            let busy = used.saturating_sub(cpu.used).as_secs_f64();
            *cpu = Cpu { at: now, used, percent: (busy / passed.as_secs_f64() * 1000.0).round() / 10.0 };
        }
        cpu.percent
    }
}

/// Groups behind a line of dashes, then `key=value`. Readers split at `\n` and want a group in the first line.
fn as_text(groups: &[Group]) -> String {
    let mut text = String::new();
    for group in groups {
        let _ = writeln!(text, "-----{}-----", group.title);
        for (key, value) in &group.lines {
            let _ = match value {
                Value::String(value) => writeln!(text, "{key}={value}"),
                value => writeln!(text, "{key}={value}"),
            };
        }
    }
    text
}

fn as_json(groups: Vec<Group>, wanted: Option<&str>) -> Value {
    let is_wanted = |name: &str| {
        wanted.is_none_or(|wanted| wanted.is_empty() || wanted.split(',').any(|item| item.trim() == name))
    };
    groups
        .into_iter()
        .filter(|group| is_wanted(group.name))
        .map(|group| {
            let lines: Map<String, Value> =
                group.lines.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            (group.name.to_owned(), Value::Object(lines))
        })
        .collect::<Map<_, _>>()
        .into()
}

/// A number after a name in a file of `/proc`: `MemTotal:   16384 kB`.
fn proc_number(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Memory of the machine, whole and available, in MiB.
fn memory_mb() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    (proc_number(&text, "MemTotal") / 1024, proc_number(&text, "MemAvailable") / 1024)
}

fn threads() -> u64 {
    proc_number(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "Threads")
}

/// Processor time of this process so far, its threads and both modes together.
fn cpu_used() -> Duration {
    cpu_used_in(&fs::read_to_string("/proc/self/stat").unwrap_or_default())
}

/// Fields 14 and 15 of `/proc/self/stat`. The second field is the program's name, which may hold anything.
fn cpu_used_in(stat: &str) -> Duration {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / PROC_TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_an_odd_program_name() {
        let stat = "12 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0";
        assert_eq!(cpu_used_in(stat), Duration::from_secs(2));
        assert_eq!(cpu_used_in("nonsense"), Duration::ZERO);
    }

    #[test]
    fn the_machine_tells_about_itself() {
        let (total, free) = memory_mb();
        assert!(total > 0 && free > 0 && free <= total);
        assert!(threads() > 0);
    }
}
