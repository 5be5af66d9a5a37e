//! What lies in a folder: names, sizes and times of its regular files, for lists that people and pages look at.
//!
//! Links are neither followed nor listed, and both what is looked at and what is told are bounded: a folder may be of any size,
//! and anybody may ask.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

/// Most entries that are looked at, in all folders together.
const ENTRIES_MAX: usize = 20_000;
/// Most files that are told.
const FILES_MAX: usize = 500;

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its path below the folder: components with `/` between them.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written to last.
    pub modified: SystemTime,
}

/// The files of a folder at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Files, the one that was written to last first.
    pub files: Vec<FileFacts>,
    /// Nothing was left out for its number.
    pub is_whole: bool,
}

/// Lists the files that are `ours` by the last component of their name, in the folder and in `depth` levels of folders below
/// it. Hidden files and folders, links, and names that are not UTF-8 or hold a backslash are passed over. The folder itself may be
/// a link, as it is the operator's. One that is not there holds nothing.
///
/// # Errors
/// When the system does not read the folder. A folder below it that cannot be read is passed over.
pub fn list(folder: &Path, depth: usize, ours: &dyn Fn(&str) -> bool) -> io::Result<Listing> {
    let bounds = Bounds { entries: ENTRIES_MAX, files: FILES_MAX };
    list_within(folder, depth, ours, bounds)
}

#[derive(Clone, Copy)]
struct Bounds {
    entries: usize,
    files: usize,
}

fn list_within(
    folder: &Path,
    depth: usize,
    ours: &dyn Fn(&str) -> bool,
    bounds: Bounds,
) -> io::Result<Listing> {
    let root = match openat(CWD, folder, FOLDER, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Listing { files: Vec::new(), is_whole: true }),
        opened => opened?,
    };
    let mut walk = Walk { ours, entries_left: bounds.entries, files: Vec::new() };
    walk.enter(&root, "", depth)?;
    let Walk { entries_left, mut files, .. } = walk;
    files.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
    let is_whole = entries_left > 0 && files.len() <= bounds.files;
    files.truncate(bounds.files);
    Ok(Listing { files, is_whole })
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

struct Walk<'a> {
    ours: &'a dyn Fn(&str) -> bool,
    entries_left: usize,
    files: Vec<FileFacts>,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &OwnedFd, above: &str, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(folder)? {
            if self.entries_left == 0 {
                return Ok(());
            }
            self.entries_left -= 1;
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            // `.` and `..` among them.
            if name.starts_with('.') || name.contains('\\') {
                continue;
            }
            let Ok(status) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            match FileType::from_raw_mode(status.st_mode) {
                FileType::RegularFile if (self.ours)(name) => self.files.push(FileFacts {
                    name: format!("{above}{name}"),
                    bytes: u64::try_from(status.st_size).unwrap_or(0),
                    modified: UNIX_EPOCH
                        + Duration::new(
                            u64::try_from(status.st_mtime).unwrap_or(0),
                            u32::try_from(status.st_mtime_nsec).unwrap_or(0),
                        ),
                }),
                FileType::Directory if depth > 0 => {
                    if let Ok(below) = openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
                        let _ = self.enter(&below, &format!("{above}{name}/"), depth - 1);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, bytes: usize, seconds: u64) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![0; bytes]).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    fn mp4(name: &str) -> bool {
        name.ends_with(".mp4")
    }

    fn names(listing: &Listing) -> Vec<&str> {
        listing.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn files_are_told_newest_first_with_size_and_time() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("old.mp4"), 3, 10);
        write(&root.path().join("new.mp4"), 5, 20);
        write(&root.path().join("notes.txt"), 5, 30);
        let listing = list(root.path(), 0, &mp4).unwrap();
        assert!(listing.is_whole);
        assert_eq!(names(&listing), ["new.mp4", "old.mp4"]);
        let new = &listing.files[0];
        assert_eq!((new.bytes, new.modified), (5, UNIX_EPOCH + Duration::from_secs(20)));
        let absent = list(&root.path().join("absent"), 0, &mp4).unwrap();
        assert_eq!(absent, Listing { files: Vec::new(), is_whole: true });
        assert!(list(&root.path().join("notes.txt"), 0, &mp4).is_err());
    }

    #[test]
    fn no_link_is_followed_or_told_and_nothing_hidden() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("media");
        write(&top.path().join("outside/secret.mp4"), 1, 1);
        write(&folder.join("sub/in.mp4"), 1, 1);
        write(&folder.join(".hidden.mp4"), 1, 1);
        write(&folder.join(".hidden/x.mp4"), 1, 1);
        write(&folder.join("back\\slash.mp4"), 1, 1);
        symlink(top.path().join("outside/secret.mp4"), folder.join("link.mp4")).unwrap();
        symlink(top.path().join("outside"), folder.join("up")).unwrap();
        symlink(&folder, folder.join("round")).unwrap();
        std::fs::create_dir(folder.join("folder.mp4")).unwrap();
        symlink(&folder, top.path().join("operators-own-link")).unwrap();
        for root in [folder.clone(), top.path().join("operators-own-link")] {
            assert_eq!(names(&list(&root, 3, &mp4).unwrap()), ["sub/in.mp4"]);
        }
    }

    #[test]
    fn depth_entries_and_files_are_bounded() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..20 {
            write(&root.path().join(format!("{number:02}.mp4")), 1, 100 + number);
        }
        write(&root.path().join("a/b/deep.mp4"), 1, 999);
        assert_eq!(list(root.path(), 1, &mp4).unwrap().files.len(), 20);
        assert_eq!(list(root.path(), 2, &mp4).unwrap().files.len(), 21);

        let newest = list_within(root.path(), 0, &mp4, Bounds { entries: 100, files: 3 }).unwrap();
        assert_eq!((names(&newest), newest.is_whole), (vec!["19.mp4", "18.mp4", "17.mp4"], false));
        let few = list_within(root.path(), 0, &mp4, Bounds { entries: 10, files: 100 }).unwrap();
        assert!(!few.is_whole && few.files.len() <= 10, "{few:?}");
    }
}
