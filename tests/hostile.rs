//! MP4 files that mean harm, thousands of them, the same ones in each run: read as films, pictured at a moment, and found as
//! recordings that a crash left. A process of its own, so that its memory can be held against a bound.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use stillcast::base::clock::Clock;
use stillcast::base::id::{MediaSessionId, StreamName};
use stillcast::base::metrics::Metrics;
use stillcast::base::threads;
use stillcast::fuzz;
use stillcast::hub::{Bell, GopLimits, Publication, Registry, SourceProtocol};
use stillcast::services::record::{Naming, RecordService, RecordSettings, Rotation};
use stillcast::services::retention::Keep;
use stillcast::services::test_card::{CardEncoder, CardSettings, push_cards};

/// Files read and pictured, and files repaired.
const READ: usize = 4000;
const REPAIRED: usize = 1500;
/// Memory that all of it may take beyond what the process began with. The worst single file is an index of 64 MiB; here all are small.
const MEMORY_KIB_MAX: u64 = 160 * 1024;
/// One file may take so long; most take a millisecond.
const ONE_FILE_MAX: Duration = Duration::from_secs(10);

/// A simple generator: the same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Films of a second and a half with B-frames and sound, as another program packs them.
fn films(folder: &Path) -> Vec<Vec<u8>> {
    let film = |name: &str, flags: &[&str]| {
        let file = folder.join(name);
        let output = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-y", "-f", "lavfi"])
            .args([
                "-i",
                "testsrc2=size=96x80:rate=10:duration=1.5",
                "-f",
                "lavfi",
                "-i",
                "sine=duration=1.5",
            ])
            .args(["-c:v", "libx264", "-preset", "veryfast", "-g", "8", "-bf", "2", "-pix_fmt", "yuv420p"])
            .args(["-c:a", "aac", "-b:a", "16k"])
            .args(flags)
            .arg(&file)
            .output()
            .expect("ffmpeg is needed: tools/install-test-deps");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(file).unwrap()
    };
    vec![
        film("first.mp4", &["-movflags", "+faststart"]),
        film("last.mp4", &[]),
        film("fragments.mp4", &["-movflags", "frag_keyframe+empty_moov+default_base_moof"]),
        film("delayed.mp4", &["-movflags", "frag_every_frame+empty_moov+delay_moov"]),
    ]
}

fn record_settings(dir: &Path) -> RecordSettings {
    RecordSettings {
        dir: dir.to_owned(),
        on_request: true,
        all_rtmp: false,
        all_rtsp_pulls: false,
        naming: Naming::Template("{streamName}".into()),
        rotation: Rotation::Never,
        keep: Keep::default(),
        free_min_bytes: 0,
        hook: None,
        hook_limit: Duration::from_secs(10),
        finish_limit: Duration::from_secs(30),
    }
}

/// A recording of ours, as it is in the middle of being written.
fn unfinished(folder: &Path) -> Vec<u8> {
    let registry = Registry::new(GopLimits { units: 600, bytes: 1 << 24 }, 2);
    let clock = Clock::real();
    let service =
        RecordService::start(record_settings(folder), &registry, clock.clone(), Metrics::new()).unwrap();
    let publication = Publication {
        record: true,
        ..Publication::new(
            StreamName::new("cam").unwrap(),
            MediaSessionId::new("cam").unwrap(),
            SourceProtocol::TestCard,
            clock.wall(),
        )
    };
    let publisher = registry.publish(publication, Some(Bell::without_keyframes(None).0)).unwrap();
    assert_eq!(service.handle().name_of(publisher.stream()).as_deref(), Some("cam.mp4"));
    let settings = CardSettings { keyframe_interval: 10, ..CardSettings::sized(160, 90) };
    push_cards(&publisher, &mut CardEncoder::new(settings).unwrap(), 0..90, &clock).unwrap();
    let end = clock.now() + Duration::from_secs(30);
    loop {
        let bytes = fs::read(folder.join("cam.mp4")).unwrap();
        // The head's room and some fragments.
        if bytes.windows(4).filter(|kind| kind == b"moof").count() >= 2 {
            return bytes;
        }
        assert!(clock.now() < end, "nothing is written");
        std::thread::yield_now();
    }
}

/// A box of this kind with this payload.
fn boxed(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32 + 8).to_be_bytes()[..], kind, payload].concat()
}

/// Places of all boxes of these kinds, wherever they stand: where the four letters begin.
fn places(bytes: &[u8], kinds: &[&[u8; 4]]) -> Vec<usize> {
    let is_kind = |window: &[u8]| kinds.iter().any(|kind| window == &kind[..]);
    bytes
        .windows(4)
        .enumerate()
        .filter(|(at, window)| *at >= 4 && is_kind(window))
        .map(|(at, _)| at)
        .collect()
}

const TABLES: [&[u8; 4]; 17] = [
    b"stts", b"stsz", b"stsc", b"stco", b"ctts", b"stss", b"elst", b"trun", b"tfhd", b"tfdt", b"mdhd",
    b"mvhd", b"trex", b"avcC", b"stsd", b"esds", b"tkhd",
];
const ALL: [&[u8; 4]; 13] = [
    b"ftyp", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf", b"mdat",
    b"hdlr", b"stsd",
];
const EXTREMES: [u32; 8] = [0, 1, 2, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFE, 0x0001_0000];

fn poke(bytes: &mut [u8], at: usize, word: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

/// A file to be spoilt, with the places of its boxes.
struct Seed {
    bytes: Vec<u8>,
    tables: Vec<usize>,
    boxes: Vec<usize>,
    index_at: usize,
}

impl Seed {
    fn new(bytes: Vec<u8>) -> Self {
        let (tables, boxes) = (places(&bytes, &TABLES), places(&bytes, &[&ALL[..], &TABLES].concat()));
        let index_at = places(&bytes, &[b"moov"])[0];
        Self { bytes, tables, boxes, index_at }
    }
}

/// One of many ways to spoil a file.
fn spoilt(seed: &Seed, kind: usize, numbers: &mut Numbers) -> Vec<u8> {
    let (mut bytes, index_at) = (seed.bytes.clone(), seed.index_at);
    match kind % 9 {
        // A field of a table: versions, counts, first entries, time scales.
        0..=2 => {
            for _ in 0..=numbers.below(3) {
                let at = *numbers.one_of(&seed.tables) + 4 + 4 * numbers.below(8);
                poke(&mut bytes, at, *numbers.one_of(&EXTREMES));
            }
        }
        // The size of a box.
        3 => {
            let at = *numbers.one_of(&seed.boxes);
            let size = match numbers.below(3) {
                0 => *numbers.one_of(&EXTREMES),
                1 => bytes.len() as u32,
                _ => numbers.below(64) as u32,
            };
            poke(&mut bytes, at - 4, size);
        }
        // The kind of a box becomes another's.
        4 => {
            let at = *numbers.one_of(&seed.boxes);
            let other: [u8; 4] = **numbers.one_of(&ALL);
            bytes[at..at + 4].copy_from_slice(&other);
        }
        // Bytes of the index.
        5 => {
            for _ in 0..=numbers.below(8) {
                let at = (index_at + numbers.below(2000)).min(bytes.len() - 1);
                bytes[at] = numbers.next() as u8;
            }
        }
        // Bytes of the media.
        6 => {
            for _ in 0..=numbers.below(20) {
                let at = numbers.below(bytes.len());
                bytes[at] = numbers.next() as u8;
            }
        }
        // Cut off.
        7 => bytes.truncate(numbers.below(bytes.len())),
        // A part of it twice, or left out.
        _ => {
            let from = numbers.below(bytes.len());
            let to = (from + 1 + numbers.below(500)).min(bytes.len());
            if numbers.below(2) == 0 {
                let part = bytes[from..to].to_vec();
                bytes.splice(to..to, part);
            } else {
                bytes.drain(from..to);
            }
        }
    }
    bytes
}

/// Files that are bombs by design.
fn bombs(fragments: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let head_end = places(fragments, &[b"moof"])[0] - 4;
    let head = &fragments[..head_end];
    let moof = |traf: &[u8]| {
        let mfhd = boxed(b"mfhd", &[0, 0, 0, 0, 0, 0, 0, 1]);
        [head, &boxed(b"moof", &[&mfhd[..], traf].concat()), &boxed(b"mdat", &[0; 64])].concat()
    };
    let tfhd = boxed(b"tfhd", &[0, 2, 0, 0, 0, 0, 0, 1]);
    let trun = |count: u32| boxed(b"trun", &[[0; 4], count.to_be_bytes()].concat());
    let traf = |runs: &[u8]| boxed(b"traf", &[&tfhd[..], runs].concat());
    let deep = |kind: &[u8; 4], depth: usize| (0..depth).fold(Vec::new(), |inner, _| boxed(kind, &inner));
    let ftyp = boxed(b"ftyp", b"isom\0\0\0\0isom");
    let one = [&fragments[head_end..]].concat();
    vec![
        // Two gigabytes of samples out of twenty bytes each.
        ("runs", moof(&traf(&trun(65_536).repeat(20_000)))),
        ("trafs", moof(&traf(&trun(65_536)).repeat(20_000))),
        ("run", moof(&traf(&trun(u32::MAX)))),
        ("many", [head, &one.repeat(300)].concat()),
        ("deep", [&ftyp[..], &boxed(b"moov", &deep(b"trak", 20_000))].concat()),
        ("deeper", [&ftyp[..], &deep(b"moov", 20_000)].concat()),
        ("boxes", [&ftyp[..], &boxed(b"moov", &boxed(b"free", b"").repeat(1_000_000))].concat()),
        ("top", [&ftyp[..], &boxed(b"free", b"").repeat(1_000_000)].concat()),
        ("moovs", [&ftyp[..], &boxed(b"moov", b"").repeat(100_000)].concat()),
        ("huge", [&ftyp[..], &[0, 0, 0, 1], b"moov", &u64::MAX.to_be_bytes()].concat()),
        ("empty", Vec::new()),
        ("zeros", vec![0; 100_000]),
    ]
}

fn memory_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// What marks a recording as unfinished: `services/record/store.rs`.
fn mark(folder: &Path, file: &str) {
    let digest: String = Sha256::digest(file).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let text = serde_json::json!({"file": file, "stream": "cam"}).to_string();
    fs::write(folder.join(format!(".{digest}.unfinished")), text).unwrap();
}

#[test]
fn thousands_of_hostile_files_cost_neither_a_panic_nor_time_nor_memory() {
    let folder = tempfile::tempdir().unwrap();
    let films: Vec<_> = films(folder.path()).into_iter().map(Seed::new).collect();
    let recording = Seed::new(unfinished(folder.path()));
    let clock = Clock::real();
    let mut numbers = Numbers(0x2545_F491_4F6C_DD1D);
    let before = memory_kib("VmHWM");

    let read = |what: &str, bytes: &[u8]| {
        let begun = clock.now();
        fuzz::mp4(bytes);
        let took = clock.now() - begun;
        assert!(took < ONE_FILE_MAX, "{what} took {took:?}");
    };
    for (name, bomb) in bombs(&films[2].bytes) {
        read(name, &bomb);
    }
    for number in 0..READ {
        let film = if number % 5 == 4 { &recording } else { &films[number % films.len()] };
        let file = spoilt(film, number / 5, &mut numbers);
        read(&format!("file {number}"), &file);
    }

    // As recordings that a crash left: those of ours above all.
    let left = folder.path().join("left");
    fs::create_dir(&left).unwrap();
    for (name, bomb) in bombs(&films[2].bytes) {
        fs::write(left.join(format!("{name}.mp4")), bomb).unwrap();
        mark(&left, &format!("{name}.mp4"));
    }
    for number in 0..REPAIRED {
        let film = if number % 4 == 3 { &films[number % films.len()] } else { &recording };
        let name = format!("{number}.mp4");
        fs::write(left.join(&name), spoilt(film, number, &mut numbers)).unwrap();
        mark(&left, &name);
    }
    let metrics = Metrics::new();
    let registry = Registry::new(GopLimits { units: 10, bytes: 1000 }, 1);
    let service =
        RecordService::start(record_settings(&left), &registry, clock.clone(), metrics.clone()).unwrap();
    let end = clock.now() + Duration::from_secs(120);
    // Whatever becomes of each, all are looked at: the last mark that can go is gone, or stays for its reason.
    while !service.is_repaired() {
        assert!(clock.now() < end, "repairing does not end");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(service.stop());
    let repaired = metrics.recordings_total.with_label_values(&["repaired"]).get();
    assert!(repaired as usize > REPAIRED / 5, "{repaired} of {REPAIRED} were repaired");
    assert_eq!(threads::panics(), 0);

    let took = memory_kib("VmHWM") - before;
    assert!(took < MEMORY_KIB_MAX, "{took} KiB");
    println!("{READ} files read, {repaired} of {REPAIRED} repaired, {took} KiB at most");
}
