//! Where automatic pictures lie: which folder, which number, what goes, and that nothing else is touched.
//!
//! What is decided ([`folder_name`], [`plan`]) is pure; [`Folder`] carries it out through directory handles, so that
//! a link put in the way is refused and no file outside the folder can be reached. Making pictures belongs elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Longest folder name, in bytes: well below the 143 that the strictest common file system allows.
const FOLDER_NAME_MAX: usize = 128;
/// Highest number that is used: a name with more digits is not one of ours.
const NUMBER_MAX: u64 = 999_999_999_999_999;
const SUFFIX: &str = ".png";
/// A file that is being written: hidden, so that nobody who looks for pictures takes it for one.
const PART_SUFFIX: &str = ".png.part";
/// Pictures of a folder that a power failure may have cost, at most: those of a minute, two a second.
const UNSAVED_MAX: usize = 120;
const CASE_PROBE: &str = ".stillcast-case";
const CASE_PROBE_OTHER: &str = ".STILLCAST-CASE";

/// The folder of a stream name or media session id. Two names never share one.
///
/// Letters, digits, `_`, `-` and inner dots stay; every other byte, and what a file system could take for something else
/// (dots at the ends, names of devices, capitals where case is not told apart), becomes `%` and two hexadecimal
/// digits, so that percent-decoding gives the name back. What grows too long is cut and ends in `~` and the SHA-256 of
/// the name.
pub(super) fn folder_name(name: &str, case_matters: bool) -> String {
    let stem = name.split('.').next().unwrap_or_default();
    let mut folder = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let at_end = at == 0 || at + 1 == name.len();
        let plain = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => true,
            b'A'..=b'Z' => case_matters,
            b'.' => !at_end,
            _ => false,
        };
        if plain && !(at == 0 && is_device(stem)) {
            folder.push(char::from(byte));
        } else {
            folder.push_str(&format!("%{byte:02x}"));
        }
    }
    if folder.len() > FOLDER_NAME_MAX {
        let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        folder.truncate(FOLDER_NAME_MAX - 1 - digest.len());
        folder.push('~');
        folder.push_str(&digest);
    }
    folder
}

/// Names that are devices in every folder of some file servers, with any extension.
fn is_device(stem: &str) -> bool {
    let stem = stem.to_ascii_lowercase();
    let numbered =
        |kind: &str| stem.strip_prefix(kind).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']));
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

/// Whether a folder of this name may be one that [`folder_name`] made.
pub(super) fn is_folder_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%._-~".contains(&byte);
    !name.is_empty() && name.len() <= FOLDER_NAME_MAX && name.bytes().all(plain) && !name.starts_with('.')
}

/// Whether a file of this name is a picture that was written here.
pub(super) fn is_picture(name: &str) -> bool {
    number_of(name, SUFFIX).is_some()
}

/// Whether it is one that a crash left half written.
pub(super) fn is_leftover(name: &str) -> bool {
    name.strip_prefix('.').and_then(|name| number_of(name, PART_SUFFIX)).is_some()
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// A regular file: not a folder, a link or a device.
    pub(super) regular: bool,
}

/// What a folder's listing means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The next picture's number; beyond [`NUMBER_MAX`] when all are used.
    pub(super) next: u64,
    /// Numbers of our pictures.
    pub(super) pictures: BTreeSet<u64>,
    /// Files that a crash left half written.
    pub(super) leftovers: Vec<String>,
}

/// Reads a listing. Numbers begin at 1 and continue the highest present, whoever put it there; only regular files
/// whose names are exactly what we write are ours to remove.
pub(super) fn plan(entries: &[Entry]) -> Plan {
    let mut plan = Plan { next: 1, ..Plan::default() };
    for entry in entries {
        if let Some(number) = number_of(&entry.name.to_ascii_lowercase(), SUFFIX) {
            plan.next = plan.next.max(number + 1);
            if entry.regular && entry.name == picture_name(number) {
                plan.pictures.insert(number);
            }
        } else if entry.regular && is_leftover(&entry.name) {
            plan.leftovers.push(entry.name.clone());
        }
    }
    plan
}

/// The number in a name of ours: decimal, no leading zeros.
fn number_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let decimal = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|number| decimal && *number <= NUMBER_MAX)
}

fn picture_name(number: u64) -> String {
    format!("{number}{SUFFIX}")
}

/// A stream's folder, open for writing.
#[derive(Debug)]
pub(super) struct Folder {
    directory: OwnedFd,
    next: u64,
    pictures: BTreeSet<u64>,
    /// Newest pictures to keep; 0: all.
    retention: usize,
}

/// A picture that was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Its number.
    pub(super) number: u64,
    /// An old picture that should have gone could not be removed.
    pub(super) removal: io::Result<()>,
}

impl Folder {
    /// Opens (makes) the folder of `name` below `root`, removes what a crash left, and finds the next number.
    ///
    /// # Errors
    /// When the system refuses; also when the folder's name is taken by a link or a file.
    pub(super) fn open(root: &Path, name: &str, retention: usize) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        // The root itself may be a link: it is the operator's word. What lies below is not.
        let root = openat(CWD, root, directory, Mode::empty())?;
        let name = folder_name(name, case_matters(&root)?);
        match mkdirat(&root, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let directory = openat(&root, &name, directory | OFlags::NOFOLLOW, Mode::empty())?;
        let plan = plan(&list(&directory)?);
        for leftover in &plan.leftovers {
            unlinkat(&directory, leftover, AtFlags::empty())?;
        }
        let mut pictures = plan.pictures;
        // A power failure leaves names whose bytes never came: no picture is better than half a one.
        let newest: Vec<u64> = pictures.iter().rev().take(UNSAVED_MAX).copied().collect();
        for number in newest {
            let name = picture_name(number);
            let found = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if found.st_size == 0 {
                unlinkat(&directory, &name, AtFlags::empty())?;
                pictures.remove(&number);
            }
        }
        if retention == 0 {
            // Nothing will ever be removed: no need to remember.
            pictures.clear();
        }
        Ok(Self { directory, next: plan.next, pictures, retention })
    }

    /// Writes a picture under the next number, so that a reader sees all of it or nothing, and removes what is too old.
    ///
    /// # Errors
    /// When it was not written. The folder is then to be opened anew.
    pub(super) fn write(&mut self, png: &[u8]) -> io::Result<Written> {
        let number = self.next;
        if number > NUMBER_MAX {
            return Err(io::Error::other("all picture numbers are used"));
        }
        let (name, part) = (picture_name(number), format!(".{number}{PART_SUFFIX}"));
        match statat(&self.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, &part, flags, Mode::from_raw_mode(0o644))?;
        let written = File::from(file)
            .write_all(png)
            .and_then(|()| Ok(renameat(&self.directory, &part, &self.directory, &name)?));
        if let Err(error) = written {
            // Best effort: opening the folder anew removes it as well.
            let _ = unlinkat(&self.directory, &part, AtFlags::empty());
            return Err(error);
        }
        self.next += 1;
        let removal = self.remove_old(number);
        Ok(Written { number, removal })
    }

    fn remove_old(&mut self, newest: u64) -> io::Result<()> {
        if self.retention == 0 {
            return Ok(());
        }
        self.pictures.insert(newest);
        let mut result = Ok(());
        while self.pictures.len() > self.retention {
            let Some(oldest) = self.pictures.pop_first() else { break };
            if let Err(error) = self.remove(&picture_name(oldest)) {
                result = Err(error);
            }
        }
        result
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_file() => {
                match unlinkat(&self.directory, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            // Somebody put something else in its place: not ours.
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether names that differ in case alone are two names there. Asked of the file system itself, by a file that lives
/// for a moment.
fn case_matters(root: &OwnedFd) -> io::Result<bool> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(root, CASE_PROBE, flags, Mode::from_raw_mode(0o600))?;
    let other = statat(root, CASE_PROBE_OTHER, AtFlags::SYMLINK_NOFOLLOW);
    unlinkat(root, CASE_PROBE, AtFlags::empty())?;
    Ok(other.is_err())
}

fn list(directory: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        // A name that is not UTF-8 is not ours.
        let Ok(name) = entry.file_name().to_str() else { continue };
        let regular = match entry.file_type() {
            FileType::Unknown => statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file()),
            known => known.is_file(),
        };
        entries.push(Entry { name: name.to_owned(), regular });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn decode(folder: &str) -> Vec<u8> {
        let mut bytes = folder.bytes();
        let mut name = Vec::new();
        while let Some(byte) = bytes.next() {
            name.push(if byte == b'%' {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            } else {
                byte
            });
        }
        name
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn common_names_are_their_own_folder_and_hostile_ones_stay_inside() {
        for name in ["stream1", "Front-Door_2", "cam.north.1", "5f0e2a3c-8d11-4b7e-9a52-0f6f1c9d7a10"] {
            assert_eq!(folder_name(name, true), name);
        }
        assert_eq!(folder_name("../../etc/passwd", true), "%2e.%2f..%2fetc%2fpasswd");
        assert_eq!(folder_name("..", true), "%2e%2e");
        assert_eq!(folder_name(".", true), "%2e");
        assert_eq!(folder_name("rtsp://host/a b", true), "rtsp%3a%2f%2fhost%2fa%20b");
        assert_eq!(folder_name("NUL.cam", true), "%4eUL.cam");
        assert_eq!(folder_name("lpt1", true), "%6cpt1");
        assert_eq!(folder_name("Süd", false), "%53%c3%bcd");
        assert_ne!(folder_name("cam", false), folder_name("Cam", false));
    }

    #[test]
    fn long_names_are_told_apart_by_their_digest() {
        let long = |last: &str| folder_name(&format!("{}{last}", "/".repeat(1000)), true);
        assert_ne!(long("a"), long("b"));
        assert_eq!(long("a").len(), FOLDER_NAME_MAX);
        assert_eq!(folder_name(&"x".repeat(128), true).len(), 128);
        // What a cut name looks like cannot be published as a name of its own.
        assert_ne!(folder_name(&long("a"), true), long("a"));
    }

    proptest! {
        #[test]
        fn a_folder_decodes_to_its_name_and_is_one_safe_component(name in "(?s).{1,40}", case_matters: bool) {
            let folder = folder_name(&name, case_matters);
            prop_assert!(folder.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%._-~".contains(&byte)));
            prop_assert!(!folder.starts_with('.') && !folder.ends_with('.'));
            if !folder.contains('~') {
                prop_assert_eq!(decode(&folder), name.as_bytes());
            }
            if !case_matters {
                prop_assert_eq!(folder.to_ascii_lowercase(), folder);
            }
        }
    }

    #[test]
    fn a_listing_with_foreign_files_gaps_and_huge_numbers_is_read_right() {
        let files =
            ["3.png", "7.png", "007.png", "9.PNG", "12.png.bak", "x.png", ".4.png.part", ".part", "-1.png"];
        let mut entries: Vec<_> =
            files.iter().map(|name| Entry { name: (*name).into(), regular: true }).collect();
        entries.push(Entry { name: "99999999999999999999999.png".into(), regular: true });
        entries.push(Entry { name: "20.png".into(), regular: false });
        let plan = plan(&entries);
        assert_eq!(plan.next, 21, "a folder of that name is not ours, but its number is taken");
        assert_eq!(plan.pictures, BTreeSet::from([3, 7]));
        assert_eq!(plan.leftovers, [".4.png.part"]);
        assert_eq!(super::plan(&[]).next, 1);
    }

    #[test]
    fn numbers_continue_after_reopening_and_the_newest_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(root.path(), "cam/1", 3).unwrap();
        for _ in 0..5 {
            folder.write(b"png").unwrap().removal.unwrap();
        }
        let path = root.path().join("cam%2f1");
        assert_eq!(names(&path), ["3.png", "4.png", "5.png"]);
        std::fs::write(path.join(".6.png.part"), b"half").unwrap();
        // A power failure came before its bytes did.
        std::fs::write(path.join("5.png"), b"").unwrap();
        std::fs::write(path.join("notes.txt"), b"mine").unwrap();
        let mut folder = Folder::open(root.path(), "cam/1", 2).unwrap();
        assert_eq!(folder.write(b"png").unwrap().number, 6);
        assert_eq!(names(&path), ["4.png", "6.png", "notes.txt"]);
        let mut folder = Folder::open(root.path(), "cam/1", 0).unwrap();
        folder.write(b"png").unwrap();
        assert_eq!(names(&path), ["4.png", "6.png", "7.png", "notes.txt"], "0 keeps all");
        assert_eq!(names(root.path()), ["cam%2f1"], "nothing else is left in the root");
    }

    #[test]
    fn links_are_neither_followed_nor_removed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("cam")).unwrap();
        assert!(Folder::open(root.path(), "cam", 1).is_err());

        std::fs::create_dir(root.path().join("two")).unwrap();
        let target = outside.path().join("precious");
        std::fs::write(&target, b"precious").unwrap();
        symlink(&target, root.path().join("two/1.png")).unwrap();
        let mut folder = Folder::open(root.path(), "two", 1).unwrap();
        symlink(&target, root.path().join("two/.2.png.part")).unwrap();
        assert!(folder.write(b"png").is_err(), "a link where the file should be made");
        std::fs::remove_file(root.path().join("two/.2.png.part")).unwrap();
        for number in 2..5 {
            assert_eq!(folder.write(b"png").unwrap().number, number);
        }
        assert_eq!(names(&root.path().join("two")), ["1.png", "4.png"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    }

    #[test]
    fn a_number_that_somebody_took_is_never_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(root.path(), "cam", 9).unwrap();
        folder.write(b"png").unwrap();
        std::fs::write(root.path().join("cam/2.png"), b"foreign").unwrap();
        assert!(folder.write(b"png").is_err());
        let mut folder = Folder::open(root.path(), "cam", 9).unwrap();
        assert_eq!(folder.write(b"png").unwrap().number, 3);
        assert_eq!(std::fs::read(root.path().join("cam/2.png")).unwrap(), b"foreign");
    }

    #[test]
    fn case_is_told_apart_by_asking_the_file_system() {
        let root = tempfile::tempdir().unwrap();
        Folder::open(root.path(), "cam", 1).unwrap();
        Folder::open(root.path(), "CAM", 1).unwrap();
        let folders: HashSet<_> = names(root.path()).into_iter().collect();
        assert_eq!(folders.len(), 2);
    }
}
