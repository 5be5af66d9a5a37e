//! The folder of recordings: files are made, marked as unfinished, finished, renamed and found again after a crash.
//!
//! Beside each file that is being written lies a hidden mark that names it; it goes when the file is complete. The file itself is
//! locked while somebody writes it, so that two servers over one folder do not repair each other's files. Nothing here follows
//! a link or leaves the folder.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, flock, fstatvfs, fsync, openat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Names of marks end with this.
const MARK_SUFFIX: &str = ".unfinished";
/// Longest mark that is read.
const MARK_BYTES_MAX: u64 = 64 * 1024;
/// Names that are tried with a number after them, when the name is taken.
const TRIES_MAX: u32 = 10_000;

/// The folder, open.
#[derive(Debug)]
pub(super) struct Store {
    root: OwnedFd,
    path: PathBuf,
}

/// What a mark says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The file's name in the folder.
    pub(super) file: String,
    /// Of which stream.
    pub(super) stream: String,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) name: String,
    pub(super) file: File,
    mark: String,
}

impl Store {
    /// Opens (makes) the folder.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { root, path: std::path::absolute(path)? })
    }

    /// The folder once more.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        self.root.try_clone()
    }

    /// The whole path of a file.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Bytes that the file system has left for us.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let found = fstatvfs(&self.root)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Makes a new file of this name, or with a number after it where the name is taken.
    pub(super) fn create(&self, name: &str, stream: &str) -> io::Result<Unfinished> {
        for number in 1..=TRIES_MAX {
            let name = numbered(name, number);
            let mark = mark_name(&name);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match openat(&self.root, &name, flags, Mode::from_raw_mode(0o644)) {
                Err(Errno::EXIST) => continue,
                made => File::from(made?),
            };
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let text = serde_json::to_vec(&Mark { file: name.clone(), stream: stream.to_owned() })?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(&self.root, &mark, flags, Mode::from_raw_mode(0o600));
            let marked = made.map_err(io::Error::from).and_then(|made| File::from(made).write_all(&text));
            if let Err(error) = marked {
                let _ = unlinkat(&self.root, &name, AtFlags::empty());
                let _ = unlinkat(&self.root, &mark, AtFlags::empty());
                return Err(error);
            }
            return Ok(Unfinished { name, file, mark });
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The file is complete: forces it onto the disk, gives it its last name, where that is another one, and takes the mark away.
    /// Returns the name that it has, which is on the disk as well.
    pub(super) fn complete(&self, done: Unfinished, last_name: Option<&str>) -> io::Result<String> {
        done.file.sync_all()?;
        let mut name = done.name.clone();
        if let Some(last_name) = last_name.filter(|last| *last != done.name) {
            for number in 1..=TRIES_MAX {
                let wanted = numbered(last_name, number);
                if wanted == name {
                    break;
                }
                match renameat_with(&self.root, &done.name, &self.root, &wanted, RenameFlags::NOREPLACE) {
                    Ok(()) => {
                        name = wanted;
                        break;
                    }
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        unlinkat(&self.root, &done.mark, AtFlags::empty())?;
        fsync(&self.root)?;
        Ok(name)
    }

    /// Nothing is in the file: takes it away with its mark.
    pub(super) fn discard(&self, empty: Unfinished) -> io::Result<()> {
        unlinkat(&self.root, &empty.name, AtFlags::empty())?;
        Ok(unlinkat(&self.root, &empty.mark, AtFlags::empty())?)
    }

    /// What a crash left: each file that is marked and that nobody writes. Marks without a file are taken away.
    pub(super) fn left_behind(&self) -> io::Result<Vec<(Mark, Unfinished)>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.root)? {
            let entry = entry?;
            let Ok(mark) = entry.file_name().to_str() else { continue };
            if !mark.starts_with('.') || !mark.ends_with(MARK_SUFFIX) {
                continue;
            }
            if let Some(left) = self.left(mark)? {
                found.push(left);
            }
        }
        Ok(found)
    }

    fn left(&self, mark_file: &str) -> io::Result<Option<(Mark, Unfinished)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(opened) = openat(&self.root, mark_file, flags, Mode::empty()) else { return Ok(None) };
        let mut text = Vec::new();
        File::from(opened).take(MARK_BYTES_MAX).read_to_end(&mut text)?;
        let mark: Mark = match serde_json::from_slice::<Mark>(&text) {
            // Only what we would have written: a mark names one file of this folder.
            Ok(mark) if mark_name(&mark.file) == mark_file && is_component(&mark.file) => mark,
            _ => return Ok(None),
        };
        let gone = || unlinkat(&self.root, mark_file, AtFlags::empty());
        match statat(&self.root, &mark.file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) if FileType::from_raw_mode(status.st_mode).is_file() => {}
            Ok(_) => return Ok(None),
            Err(Errno::NOENT) => {
                gone()?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.root, &mark.file, flags, Mode::empty())?);
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let unfinished = Unfinished { name: mark.file.clone(), file, mark: mark_file.to_owned() };
        Ok(Some((mark, unfinished)))
    }
}

fn is_component(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// `a.mp4`, `a_2.mp4`, `a_3.mp4` …
fn numbered(name: &str, number: u32) -> String {
    match (number, name.rsplit_once('.')) {
        (1, _) => name.to_owned(),
        (_, Some((stem, ending))) => format!("{stem}_{number}.{ending}"),
        (_, None) => format!("{name}_{number}"),
    }
}

/// A name of its own length, whatever the file's.
fn mark_name(file: &str) -> String {
    let digest = Sha256::digest(file);
    let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!(".{digest}{MARK_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn taken_names_get_numbers_and_marks_go_with_the_end() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("records")).unwrap();
        let first = store.create("a.mp4", "cam").unwrap();
        let second = store.create("a.mp4", "cam").unwrap();
        assert_eq!((first.name.as_str(), second.name.as_str()), ("a.mp4", "a_2.mp4"));
        assert!(store.left_behind().unwrap().is_empty(), "somebody writes them");
        assert_eq!(store.complete(first, None).unwrap(), "a.mp4");
        assert_eq!(store.complete(second, Some("a.mp4")).unwrap(), "a_2.mp4", "nothing is overwritten");
        assert_eq!(names(&root.path().join("records")), ["a.mp4", "a_2.mp4"]);
        assert!(store.free_bytes().unwrap() > 0);
    }

    #[test]
    fn what_a_crash_left_is_found_and_forged_marks_are_not() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("x.mp4"), b"precious").unwrap();
        let store = Store::open(root.path()).unwrap();
        drop(store.create("left.mp4", "cam").unwrap());
        let target = format!("../{}/x.mp4", outside.path().file_name().unwrap().to_str().unwrap());
        let forged = serde_json::to_vec(&Mark { file: target.clone(), stream: "s".into() }).unwrap();
        std::fs::write(root.path().join(mark_name(&target)), &forged).unwrap();
        symlink(outside.path().join("x.mp4"), root.path().join("link.mp4")).unwrap();
        let linked = serde_json::to_vec(&Mark { file: "link.mp4".into(), stream: "s".into() }).unwrap();
        std::fs::write(root.path().join(mark_name("link.mp4")), linked).unwrap();
        let left = store.left_behind().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].0.file.as_str(), left[0].0.stream.as_str()), ("left.mp4", "cam"));
    }
}
