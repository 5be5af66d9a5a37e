//! Which old files go: by number, age, size in all, and what is free on the file system. For recordings and pictures alike.
//!
//! Only regular files below one folder are looked at. Links are neither followed nor removed, and what
//! is removed is looked at once more in the moment that it is.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstatvfs, openat, statat, unlinkat};

/// Most files that are looked at in one folder: a folder of more is pruned in several rounds.
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

/// A file that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    name: String,
    bytes: u64,
    modified: SystemTime,
}

/// How many of these files, which stand oldest first, must go.
fn excess(files: &[Candidate], keep: &Keep, now: SystemTime, free_bytes: u64) -> usize {
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let (mut gone, mut left, mut free) = (0, total, free_bytes);
    for file in files {
        let too_many = keep.files > 0 && (files.len() - gone) as u64 > keep.files;
        let too_old =
            keep.age.is_some_and(|age| now.duration_since(file.modified).is_ok_and(|old| old > age));
        let too_large = keep.bytes > 0 && left > keep.bytes;
        let too_full = keep.free_bytes > 0 && free < keep.free_bytes;
        if !(too_many || too_old || too_large || too_full) {
            break;
        }
        (gone, left, free) = (gone + 1, left - file.bytes, free.saturating_add(file.bytes));
    }
    gone
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
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, flags, Mode::empty())?;
    let mut files = candidates(&folder, ours)?;
    files.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
    let space = fstatvfs(&folder)?;
    let gone = excess(&files, keep, now, space.f_bavail.saturating_mul(space.f_frsize));
    files.truncate(gone);
    Ok(files.into_iter().filter(|file| remove(&folder, file)).map(|file| file.name).collect())
}

fn candidates(folder: &OwnedFd, ours: &dyn Fn(&str) -> bool) -> io::Result<Vec<Candidate>> {
    let mut files = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with('.') || !ours(name) || files.len() >= FILES_MAX {
            continue;
        }
        files.extend(look(folder, name));
    }
    Ok(files)
}

fn look(folder: &OwnedFd, name: &str) -> Option<Candidate> {
    let status = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let seconds = u64::try_from(status.st_mtime).unwrap_or(0);
    FileType::from_raw_mode(status.st_mode).is_file().then(|| Candidate {
        name: name.to_owned(),
        bytes: u64::try_from(status.st_size).unwrap_or(0),
        modified: UNIX_EPOCH + Duration::from_secs(seconds),
    })
}

/// Removes a file that is still the one that was looked at.
fn remove(folder: &OwnedFd, file: &Candidate) -> bool {
    look(folder, &file.name).as_ref() == Some(file) && unlinkat(folder, &file.name, AtFlags::empty()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(name: &str, bytes: u64, seconds: u64) -> Candidate {
        Candidate { name: name.into(), bytes, modified: UNIX_EPOCH + Duration::from_secs(seconds) }
    }

    #[test]
    fn each_bound_takes_the_oldest_and_no_more_than_it_needs() {
        let files: Vec<_> = (1..=5).map(|n| file(&n.to_string(), 100, n * 10)).collect();
        let now = UNIX_EPOCH + Duration::from_secs(50);
        let excess = |keep| excess(&files, &keep, now, 1000);
        assert_eq!(excess(Keep::default()), 0);
        assert_eq!(excess(Keep { files: 2, ..Keep::default() }), 3);
        assert_eq!(excess(Keep { age: Some(Duration::from_secs(25)), ..Keep::default() }), 2);
        assert_eq!(excess(Keep { bytes: 350, ..Keep::default() }), 2);
        assert_eq!(excess(Keep { free_bytes: 1150, ..Keep::default() }), 2);
        assert_eq!(excess(Keep { free_bytes: u64::MAX, ..Keep::default() }), 5);
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
}
