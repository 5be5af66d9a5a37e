//! Static files: the pages in the binary, and a folder that may stand over them.
//!
//! A path from outside is taken apart into components before anything is looked up; the folder is walked one component at
//! a time without following links, so nothing outside of it can be reached, and it is never listed.

use std::fs::File;
use std::io::{Cursor, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rouille::percent_encoding::percent_decode_str;
use rouille::{Request, Response, ResponseBody};
use rust_embed::RustEmbed;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, openat, statat};

use crate::edge::http::unless_known;
use crate::services::record::is_recording;

#[derive(RustEmbed)]
#[folder = "src/edge/web/pages/"]
struct Pages;

/// Where recordings are found, below a prefix: never a folder of pages.
const RECORDS: &str = "records";

/// The files under both prefixes.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: Option<PathBuf>,
}

/// A file that was found.
struct Found {
    body: Body,
    length: u64,
    etag: String,
    modified: Option<SystemTime>,
    /// Part of the binary, so that we know what it may do.
    is_ours: bool,
}

enum Body {
    Embedded(std::borrow::Cow<'static, [u8]>),
    File(File),
}

impl Files {
    /// The embedded pages, below the files of `folder` where there is one.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        if let Some(folder) = folder.as_ref().filter(|folder| !folder.is_dir()) {
            tracing::warn!("web_dir {} is not a folder: the embedded pages are served", folder.display());
        }
        Self { folder }
    }

    /// The files of recordings, in a folder that may not be there yet.
    pub(super) fn records(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    /// Answers for one recording: a visible file of the folder itself, sent to be shown and never to be run as a page.
    pub(super) fn get_record(&self, request: &Request, encoded_name: &str) -> Option<Response> {
        let components = components(encoded_name)?;
        let [name] = &components[..] else { return None };
        if !is_recording(name) {
            return None;
        }
        let found = find_in_folder(self.folder.as_deref()?, &components)?;
        let response = respond(request, found, name);
        Some(response.with_additional_header("X-Content-Type-Options", "nosniff"))
    }

    /// Answers for a path below a prefix, percent-encoded as it came; `None` when there is no such file. Outside of the
    /// folder, a folder itself and absent look the same.
    pub(super) fn get(&self, request: &Request, encoded_path: &str) -> Option<Response> {
        let components = components(encoded_path)?;
        if components.first().is_some_and(|first| first.eq_ignore_ascii_case(RECORDS)) {
            return None;
        }
        let found = self
            .folder
            .as_deref()
            .and_then(|folder| find_in_folder(folder, &components))
            .or_else(|| find_embedded(&components))?;
        let name = components.last()?;
        Some(respond(request, found, name))
    }
}

/// What follows the folder of recordings in a path below a prefix; `None` for any other path.
pub(super) fn record_name(encoded_path: &str) -> Option<&str> {
    let (folder, name) = encoded_path.split_once('/')?;
    folder.eq_ignore_ascii_case(RECORDS).then_some(name)
}

/// Splits a path into names that can stand in a folder; `None` for one that could mean anything else.
fn components(encoded_path: &str) -> Option<Vec<String>> {
    let path = percent_decode_str(encoded_path).decode_utf8().ok()?;
    // Decoded first, so that an encoded slash is one, and then every component is looked at.
    path.split('/')
        .map(|name| {
            let is_plain = !matches!(name, "" | "." | "..") && !name.contains(['\\', '\0']);
            is_plain.then(|| name.to_owned())
        })
        .collect()
}

fn find_embedded(components: &[String]) -> Option<Found> {
    let file = Pages::get(&components.join("/"))?;
    let hash = file.metadata.sha256_hash();
    let etag: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Some(Found {
        length: file.data.len() as u64,
        body: Body::Embedded(file.data),
        etag: format!("\"{etag}\""),
        modified: None,
        is_ours: true,
    })
}

/// Opens a regular file below `folder`. The folder itself may be a link, as it is the operator's; nothing in it may.
fn find_in_folder(folder: &Path, components: &[String]) -> Option<Found> {
    let (name, folders) = components.split_last()?;
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut at: OwnedFd = open(folder, directory, Mode::empty()).ok()?;
    for folder in folders {
        at = openat(&at, folder.as_str(), directory | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    }
    // Looked at before it is opened: opening a device could do something.
    let status = statat(&at, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return None;
    }
    // Not blocking: what became a pipe meanwhile must not hold the thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(openat(&at, name.as_str(), flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(Found {
        length: metadata.len(),
        body: Body::File(file),
        etag: format!(
            "\"{:x}-{:x}-{:x}\"",
            metadata.len(),
            metadata.mtime().unsigned_abs(),
            metadata.mtime_nsec().unsigned_abs()
        ),
        modified: metadata.modified().ok(),
        is_ours: false,
    })
}

fn respond(request: &Request, found: Found, name: &str) -> Response {
    let content_type = content_type(name);
    let mut headers = vec![
        ("ETag", found.etag.clone()),
        ("Accept-Ranges", "bytes".to_owned()),
        // Kept, but asked about each time: pages and server are one version.
        ("Cache-Control", "no-cache".to_owned()),
        ("Referrer-Policy", "same-origin".to_owned()),
    ];
    if found.is_ours {
        // What else our pages may load stands in themselves.
        headers.push(("Content-Security-Policy", "frame-ancestors 'self'".to_owned()));
    }
    if let Some(modified) = found.modified {
        headers.push(("Last-Modified", httpdate::fmt_http_date(modified)));
    }
    let (status, range) = match wanted_range(request, found.length, &found.etag) {
        Wanted::Whole => (200, 0..found.length),
        Wanted::Part(range) => {
            let (first, last) = (range.start, range.end.saturating_sub(1));
            headers.push(("Content-Range", format!("bytes {first}-{last}/{}", found.length)));
            (206, range)
        }
        Wanted::Nothing => {
            headers.push(("Content-Range", format!("bytes */{}", found.length)));
            (416, 0..0)
        }
    };
    let response = Response {
        data: part(found.body, range),
        ..Response::from_data(content_type, Vec::new()).with_status_code(status)
    };
    let response = headers
        .into_iter()
        .fold(response, |response, (name, value)| response.with_additional_header(name, value));
    unless_known(request, response)
}

/// The bytes of a range, read as they are sent.
fn part(body: Body, range: Range<u64>) -> ResponseBody {
    let length = range.end - range.start;
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    match body {
        Body::Embedded(bytes) => {
            let mut cursor = Cursor::new(bytes);
            cursor.set_position(range.start);
            ResponseBody::from_reader_and_size(cursor.take(length), size)
        }
        Body::File(mut file) => match file.seek(SeekFrom::Start(range.start)) {
            Ok(_) => ResponseBody::from_reader_and_size(file.take(length), size),
            // The head then promises bytes that never come, which ends the connection.
            Err(_) => ResponseBody::from_reader_and_size(std::io::empty(), size),
        },
    }
}

/// The part of a file that is asked for (RFC 9110 section 14.2).
#[derive(Debug, PartialEq)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    /// None of the file's bytes.
    Nothing,
}

/// Reads `Range`. Several ranges, other units and what cannot be read are passed over, as the RFC allows; a range of another
/// version (`If-Range`) as well.
fn wanted_range(request: &Request, length: u64, etag: &str) -> Wanted {
    let ranges = request.header("Range").filter(|_| request.method() == "GET");
    if request.header("If-Range").is_some_and(|version| version != etag) {
        return Wanted::Whole;
    }
    let parts = ranges.and_then(|value| value.trim().strip_prefix("bytes="));
    let Some((first, last)) = parts.and_then(|range| range.split_once('-')) else { return Wanted::Whole };
    let number = |text: &str| -> Option<u64> {
        let text = text.trim();
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    match (number(first), number(last), last.trim().is_empty()) {
        // The last so many bytes.
        (None, Some(0), _) if first.trim().is_empty() => Wanted::Nothing,
        (None, Some(count), _) if first.trim().is_empty() => match length {
            0 => Wanted::Nothing,
            _ => Wanted::Part(length.saturating_sub(count)..length),
        },
        (Some(first), None, true) if first < length => Wanted::Part(first..length),
        (Some(first), Some(last), _) if first <= last && first < length => {
            Wanted::Part(first..last.saturating_add(1).min(length))
        }
        (Some(first), None, true) if first >= length => Wanted::Nothing,
        (Some(first), Some(last), _) if first <= last => Wanted::Nothing,
        _ => Wanted::Whole,
    }
}

fn content_type(name: &str) -> String {
    let mime = mime_guess::from_path(name).first_or_octet_stream();
    let is_text = mime.type_() == "text"
        || matches!(mime.subtype().as_str(), "javascript" | "json" | "xml")
        || mime.suffix().is_some_and(|suffix| suffix == "xml" || suffix == "json");
    if is_text { format!("{mime}; charset=utf-8") } else { mime.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::fake_http("GET", "/client/x", headers, Vec::new())
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    fn body(response: Response) -> String {
        let mut text = String::new();
        response.data.into_reader_and_size().0.read_to_string(&mut text).unwrap();
        text
    }

    fn folder() -> (tempfile::TempDir, Files) {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("secret.txt"), "secret").unwrap();
        let web = top.path().join("web");
        std::fs::create_dir_all(web.join("sub")).unwrap();
        std::fs::create_dir_all(top.path().join("web_secret")).unwrap();
        std::fs::write(top.path().join("web_secret/secret.txt"), "secret").unwrap();
        std::fs::write(web.join("sub/page.html"), "0123456789").unwrap();
        std::fs::write(web.join("empty.js"), "").unwrap();
        symlink(top.path().join("secret.txt"), web.join("link.txt")).unwrap();
        symlink(top.path(), web.join("up")).unwrap();
        let files = Files::new(Some(web));
        (top, files)
    }

    #[test]
    fn no_spelling_of_a_path_leaves_the_folder_or_follows_a_link() {
        let (_top, files) = folder();
        assert_eq!(body(files.get(&request(&[]), "sub/page.html").unwrap()), "0123456789");
        for path in [
            "../secret.txt",
            "sub/../../secret.txt",
            "%2e%2e/secret.txt",
            "..%2fsecret.txt",
            "sub/..%2F..%2Fsecret.txt",
            "..\\secret.txt",
            "..%5csecret.txt",
            "../web_secret/secret.txt",
            "/etc/passwd",
            "//etc/passwd",
            "%2Fetc%2Fpasswd",
            "link.txt",
            "up/secret.txt",
            "link.txt%00.html",
            "sub",
            "sub/",
            "",
            ".",
            "sub//page.html",
            "%ff",
        ] {
            assert!(files.get(&request(&[]), path).is_none(), "{path} was served");
        }
    }

    #[test]
    fn the_folder_stands_over_the_embedded_pages_and_hides_none_that_it_has_not() {
        const PAGE: &str = "examples/demo/streaming/stream-snapshot/stream-snapshot.html";
        let embedded = Files::new(None);
        let ours = embedded.get(&request(&[]), PAGE).unwrap();
        assert_eq!(header(&ours, "Content-Type"), Some("text/html; charset=utf-8"));
        assert!(header(&ours, "Content-Security-Policy").is_some());
        let ours = body(ours);
        assert!(ours.starts_with("<!DOCTYPE html>"), "{ours}");
        assert!(embedded.get(&request(&[]), "../mod.rs").is_none());

        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(Some(folder.path().to_owned()));
        assert_eq!(body(files.get(&request(&[]), PAGE).unwrap()), ours);
        let place = folder.path().join(PAGE);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, "theirs").unwrap();
        assert_eq!(body(files.get(&request(&[]), PAGE).unwrap()), "theirs");
    }

    #[test]
    fn one_range_is_served_and_others_are_passed_over() {
        let (_top, files) = folder();
        let get = |path: &str, range: &str| files.get(&request(&[("Range", range)]), path).unwrap();
        for (range, status, content_range, want) in [
            ("bytes=0-3", 206, Some("bytes 0-3/10"), "0123"),
            ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
            ("bytes=-3", 206, Some("bytes 7-9/10"), "789"),
            ("bytes=-30", 206, Some("bytes 0-9/10"), "0123456789"),
            ("bytes=8-99999999999", 206, Some("bytes 8-9/10"), "89"),
            ("bytes=9-9", 206, Some("bytes 9-9/10"), "9"),
            ("bytes=10-", 416, Some("bytes */10"), ""),
            ("bytes=-0", 416, Some("bytes */10"), ""),
            ("bytes=20-30", 416, Some("bytes */10"), ""),
            ("bytes=5-4", 200, None, "0123456789"),
            ("bytes=0-1,3-4", 200, None, "0123456789"),
            ("bytes=+1-4", 200, None, "0123456789"),
            ("bytes=-", 200, None, "0123456789"),
            ("pages=1-2", 200, None, "0123456789"),
            ("bytes=99999999999999999999-", 200, None, "0123456789"),
        ] {
            let response = get("sub/page.html", range);
            assert_eq!(response.status_code, status, "{range}");
            assert_eq!(header(&response, "Content-Range"), content_range, "{range}");
            assert_eq!(body(response), want, "{range}");
        }
        assert_eq!(get("empty.js", "bytes=0-").status_code, 416);
        let old = files.get(&request(&[("Range", "bytes=0-3"), ("If-Range", "\"old\"")]), "sub/page.html");
        assert_eq!(old.unwrap().status_code, 200);
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let (_top, files) = folder();
        let response = files.get(&request(&[]), "sub/page.html").unwrap();
        let etag = header(&response, "ETag").unwrap().to_owned();
        let again = files.get(&request(&[("If-None-Match", &etag)]), "sub/page.html").unwrap();
        assert_eq!(again.status_code, 304);
    }

    #[test]
    fn kinds_are_named_as_browsers_need_them() {
        for (name, want) in [
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.html", "text/html; charset=utf-8"),
            ("a.svg", "image/svg+xml; charset=utf-8"),
            ("a.json", "application/json; charset=utf-8"),
            ("a.png", "image/png"),
            ("a.mp4", "video/mp4"),
            ("a.webm", "video/webm"),
            ("a.wasm", "application/wasm"),
            ("a.unknown", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), want);
        }
    }
}
