//! Which old files go: by number, age, size in all, and what is free on the file system. For recordings and pictures alike.
//!
//! Only regular files below one folder are looked at ([`prune`]), or in the folders right below it ([`prune_below`]). Links
//! are neither followed nor removed, and what is removed is looked at once more in the moment that it is. What is left of a folder
//! that holds more than can be kept in mind goes in a later round: the oldest are kept in mind.

use std::collections::BinaryHeap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstatvfs, openat, statat, unlinkat};

/// Most files that are kept in mind in one round, the oldest: more are pruned in several rounds.
const FILES_MAX: usize = 200_000;

/// What is kept; the newest files are. 0 (or `None`) sets no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many files.
    pub files: u64,
    /// Files that are not older.
    pub age: Option<Duration>,
    /// So many bytes in all.
    pub bytes: u64,
    /// The oldest go until so many bytes are free on the file system.
    pub free_bytes: u64,
}

/// A file that may go. Ordered by age, the oldest first, and those of one moment as their numbers are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    modified: SystemTime,
    name_length: usize,
    name: String,
    /// Where it lies below the folder; `None`: in it.
    folder: Option<Arc<str>>,
    bytes: u64,
}

/// What was found: how much in all, and the oldest.
#[derive(Debug, Default)]
struct Found {
    files: u64,
    bytes: u64,
    oldest: BinaryHeap<Candidate>,
}

impl Found {
    fn add(&mut self, candidate: Candidate) {
        self.files += 1;
        self.bytes += candidate.bytes;
        self.oldest.push(candidate);
        if self.oldest.len() > FILES_MAX {
            // The newest of them.
            self.oldest.pop();
        }
    }

    /// The oldest files that must go.
    fn excess(self, keep: &Keep, now: SystemTime, free_bytes: u64) -> Vec<Candidate> {
        let mut files = self.oldest.into_sorted_vec();
        let (mut gone, mut left, mut free) = (0, self.bytes, free_bytes);
        for file in &files {
            let too_many = keep.files > 0 && self.files - gone as u64 > keep.files;
            let too_old =
                keep.age.is_some_and(|age| now.duration_since(file.modified).is_ok_and(|old| old > age));
            let too_large = keep.bytes > 0 && left > keep.bytes;
            let too_full = keep.free_bytes > 0 && free < keep.free_bytes;
            if !(too_many || too_old || too_large || too_full) {
                break;
            }
            (gone, left, free) = (gone + 1, left - file.bytes, free.saturating_add(file.bytes));
        }
        files.truncate(gone);
        files
    }
}

/// Removes what is not kept of the files in a folder that are `ours` by name; returns their names.
///
/// # Errors
/// When the folder cannot be read. A file that cannot be removed stays.
pub fn prune(
    folder: &Path,
    keep: &Keep,
    now: SystemTime,
    ours: &dyn Fn(&str) -> bool,
) -> io::Result<Vec<String>> {
    if *keep == Keep::default() {
        return Ok(Vec::new());
    }
    let folder = open_root(folder)?;
    let mut found = Found::default();
    candidates(&folder, None, ours, &mut |candidate| found.add(candidate))?;
    let gone = found.excess(keep, now, free_bytes(&folder)?);
    Ok(gone.into_iter().filter(|file| remove(&folder, file)).map(|file| file.name).collect())
}

/// Folders with files of ours right below one folder.
pub struct Below<'a> {
    /// Whether a folder of this name is ours.
    pub is_folder: &'a dyn Fn(&str) -> bool,
    /// Whether somebody writes to it: it stays when it is empty.
    pub is_busy: &'a dyn Fn(&str) -> bool,
    /// Whether a file of this name is ours.
    pub is_file: &'a dyn Fn(&str) -> bool,
    /// Whether it is the beginning of one, which goes where nobody writes any more.
    pub is_leftover: &'a dyn Fn(&str) -> bool,
}

/// Removes what is not kept of the files in all these folders together, and folders that nothing is left in; returns
/// how many files and folders.
///
/// # Errors
/// When the folder above cannot be read. What cannot be removed stays.
pub fn prune_below(
    root: &Path,
    keep: &Keep,
    now: SystemTime,
    below: &Below<'_>,
) -> io::Result<(usize, usize)> {
    if *keep == Keep::default() {
        return Ok((0, 0));
    }
    let root = open_root(root)?;
    let (mut found, mut folders) = (Found::default(), Vec::new());
    for entry in Dir::read_from(&root)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with('.') || !(below.is_folder)(name) || folders.len() >= FILES_MAX {
            continue;
        }
        // A link, a file, or one that has just gone.
        let Ok(folder) = open_folder(&root, name) else { continue };
        let name: Arc<str> = name.into();
        let listed = candidates(&folder, Some(&name), below.is_file, &mut |candidate| found.add(candidate));
        if listed.is_ok() {
            folders.push(name);
        }
    }
    let mut files = 0;
    let mut open: Option<(Arc<str>, OwnedFd)> = None;
    for file in found.excess(keep, now, free_bytes(&root)?) {
        let Some(name) = &file.folder else { continue };
        if open.as_ref().is_none_or(|(open, _)| open != name) {
            open = open_folder(&root, name).ok().map(|folder| (name.clone(), folder));
        }
        files += usize::from(open.as_ref().is_some_and(|(_, folder)| remove(folder, &file)));
    }
    let is_idle = |name: &&Arc<str>| !(below.is_busy)(name);
    let emptied = folders.iter().filter(is_idle).filter(|name| remove_empty(&root, name, below));
    Ok((files, emptied.count()))
}

/// Removes a folder in which there is nothing, or only what a crash left half written.
fn remove_empty(root: &OwnedFd, name: &str, below: &Below<'_>) -> bool {
    let Ok(folder) = open_folder(root, name) else { return false };
    let Ok(entries) = Dir::read_from(&folder) else { return false };
    let mut leftovers = Vec::new();
    for entry in entries {
        let Ok(entry) = entry else { return false };
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) if (below.is_leftover)(name) => leftovers.push(name.to_owned()),
            _ => return false,
        }
    }
    for leftover in leftovers {
        if look(&folder, &leftover, None).is_none() || unlinkat(&folder, &leftover, AtFlags::empty()).is_err()
        {
            return false;
        }
    }
    // The system refuses where anything came meanwhile.
    unlinkat(root, name, AtFlags::REMOVEDIR).is_ok()
}

/// The folder itself may be a link: it is the operator's word.
fn open_root(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, folder, flags, Mode::empty())?)
}

fn open_folder(root: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(root, name, flags, Mode::empty())?)
}

fn free_bytes(folder: &OwnedFd) -> io::Result<u64> {
    let space = fstatvfs(folder)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Bytes that the file system of a folder has left for us.
///
/// # Errors
/// When the folder is not there or the system does not tell.
pub fn free_bytes_of(folder: &Path) -> io::Result<u64> {
    free_bytes(&open_root(folder)?)
}

fn candidates(
    folder: &OwnedFd,
    name_of_folder: Option<&Arc<str>>,
    ours: &dyn Fn(&str) -> bool,
    add: &mut dyn FnMut(Candidate),
) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if !name.starts_with('.')
            && ours(name)
            && let Some(candidate) = look(folder, name, name_of_folder)
        {
            add(candidate);
        }
    }
    Ok(())
}

fn look(folder: &OwnedFd, name: &str, name_of_folder: Option<&Arc<str>>) -> Option<Candidate> {
    let status = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let seconds = u64::try_from(status.st_mtime).unwrap_or(0);
    let nanos = u32::try_from(status.st_mtime_nsec).unwrap_or(0);
    FileType::from_raw_mode(status.st_mode).is_file().then(|| Candidate {
        modified: UNIX_EPOCH + Duration::new(seconds, nanos),
        name_length: name.len(),
        name: name.to_owned(),
        folder: name_of_folder.cloned(),
        bytes: u64::try_from(status.st_size).unwrap_or(0),
    })
}

/// Removes a file that is still the one that was looked at.
fn remove(folder: &OwnedFd, file: &Candidate) -> bool {
    let found = look(folder, &file.name, file.folder.as_ref());
    found.as_ref() == Some(file) && unlinkat(folder, &file.name, AtFlags::empty()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(name: &str, bytes: u64, seconds: u64) -> Candidate {
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
        Candidate { modified, name_length: name.len(), name: name.into(), folder: None, bytes }
    }

    #[test]
    fn each_bound_takes_the_oldest_and_no_more_than_it_needs() {
        let now = UNIX_EPOCH + Duration::from_secs(50);
        let excess = |keep| {
            let mut found = Found::default();
            (1..=5).rev().for_each(|n| found.add(file(&n.to_string(), 100, n * 10)));
            let gone = found.excess(&keep, now, 1000);
            let oldest = gone.iter().zip(1..).all(|(file, n)| file.name == n.to_string());
            assert!(oldest, "{gone:?}");
            gone.len()
        };
        assert_eq!(excess(Keep::default()), 0);
        assert_eq!(excess(Keep { files: 2, ..Keep::default() }), 3);
        assert_eq!(excess(Keep { age: Some(Duration::from_secs(25)), ..Keep::default() }), 2);
        assert_eq!(excess(Keep { bytes: 350, ..Keep::default() }), 2);
        assert_eq!(excess(Keep { free_bytes: 1150, ..Keep::default() }), 2);
        assert_eq!(excess(Keep { free_bytes: u64::MAX, ..Keep::default() }), 5);
    }

    #[test]
    fn more_than_can_be_kept_in_mind_counts_and_the_oldest_are_kept_in_mind() {
        let mut found = Found::default();
        let all = FILES_MAX as u64 + 10;
        (0..all).rev().for_each(|n| found.add(file(&n.to_string(), 10, n)));
        assert_eq!((found.files, found.bytes, found.oldest.len()), (all, all * 10, FILES_MAX));
        let keep = Keep { bytes: (all - 3) * 10, ..Keep::default() };
        let gone = found.excess(&keep, UNIX_EPOCH, 0);
        assert_eq!(gone.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["0", "1", "2"]);
    }

    #[test]
    fn links_folders_and_foreign_files_stay() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let precious = outside.path().join("a.mp4");
        std::fs::write(&precious, b"precious").unwrap();
        symlink(&precious, root.path().join("link.mp4")).unwrap();
        std::fs::create_dir(root.path().join("folder.mp4")).unwrap();
        for name in ["a.mp4", "b.mp4", "notes.txt", ".hidden.mp4"] {
            std::fs::write(root.path().join(name), b"123").unwrap();
        }
        let keep = Keep { free_bytes: u64::MAX, ..Keep::default() };
        let ours = |name: &str| name.ends_with(".mp4") && name != "b.mp4";
        let removed = prune(root.path(), &keep, SystemTime::UNIX_EPOCH, &ours).unwrap();
        assert_eq!(removed, ["a.mp4"]);
        for kept in ["b.mp4", "notes.txt", ".hidden.mp4", "link.mp4", "folder.mp4"] {
            assert!(root.path().join(kept).symlink_metadata().is_ok(), "{kept}");
        }
        assert_eq!(std::fs::read(precious).unwrap(), b"precious");
    }

    /// Paths below a folder, as they are, without following links.
    fn tree(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let path = entry.path();
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn folders_share_their_bounds_and_go_when_they_are_empty_and_nobody_writes_to_them() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("1.png"), b"precious").unwrap();
        symlink(outside.path(), root.path().join("linked")).unwrap();
        let add = |folder: &str, name: &str, age_s: u64| {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            let path = root.path().join(folder).join(name);
            std::fs::write(&path, [0; 100]).unwrap();
            let modified = UNIX_EPOCH + Duration::from_secs(1_000_000 - age_s);
            File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        };
        // One that is over, one that is written to, one that somebody else made, and one with a foreign file.
        add("over", "9.png", 500);
        add("over", "10.png", 500);
        add("over", ".11.png.part", 500);
        add("live", "1.png", 400);
        add("foreign!", "1.png", 900);
        add("mixed", "1.png", 450);
        add("mixed", "notes.txt", 900);
        add("newest", "1.png", 10);
        symlink(outside.path().join("1.png"), root.path().join("newest/2.png")).unwrap();
        let below = Below {
            is_folder: &|name| !name.contains('!'),
            is_busy: &|name| name == "live",
            is_file: &|name| name.ends_with(".png"),
            is_leftover: &|name| name.ends_with(".part"),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let prune = |keep| prune_below(root.path(), &keep, now, &below).unwrap();
        assert_eq!(prune(Keep::default()), (0, 0));
        // Five pictures of ours: the oldest by a hair is the one of the lower number.
        assert_eq!(prune(Keep { bytes: 400, ..Keep::default() }), (1, 0));
        assert!(!root.path().join("over/9.png").exists() && root.path().join("over/10.png").exists());
        assert_eq!(prune(Keep { age: Some(Duration::from_secs(399)), ..Keep::default() }), (3, 1));
        let left = ["foreign!", "foreign!/1.png", "linked", "live", "mixed", "mixed/notes.txt", "newest"];
        let left = [&left[..], &["newest/1.png", "newest/2.png"]].concat();
        assert_eq!(tree(root.path()), left);
        assert_eq!(prune(Keep { free_bytes: u64::MAX, ..Keep::default() }), (1, 0));
        assert!(root.path().join("newest/2.png").symlink_metadata().is_ok(), "a link stays");
        assert_eq!(std::fs::read(outside.path().join("1.png")).unwrap(), b"precious");
    }
}
