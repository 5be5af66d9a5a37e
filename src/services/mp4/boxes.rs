//! Boxes at the top of a file, read in place.

use std::fs::File;
use std::io;

use super::{Mp4Error, TOP_BOXES_MAX, format_error};

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// How many there are now; a file that is being written grows.
    ///
    /// # Errors
    /// When the system does not tell.
    fn size(&self) -> io::Result<u64>;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// When there are fewer bytes, or the system does not read.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// `length` bytes from `offset` on. The caller has checked the length against a bound of its own.
    ///
    /// # Errors
    /// As [`ReadAt::read_exact_at`].
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if offset.checked_add(length as u64).is_none_or(|end| self.size().is_ok_and(|size| end > size)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl ReadAt for File {
    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = self.get(start..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, out)
    }
}

/// Where a box stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxHead {
    /// Its four letters.
    pub kind: [u8; 4],
    /// Its first byte in the file.
    pub offset: u64,
    /// Its bytes, head included.
    pub size: u64,
    /// Of which so many are its head.
    pub head_size: u64,
}

impl BoxHead {
    /// The first byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// Reads the head of the box at `offset`; `None` where no whole head stands before `file_size`, or what stands there is
/// none. A size of 0 means "to the end of the file" (ISO/IEC 14496-12 section 4.2) and is taken for `mdat` alone: zeros are
/// no box.
pub(super) fn head_at(
    file: &(impl ReadAt + ?Sized),
    offset: u64,
    file_size: u64,
) -> Result<Option<BoxHead>, Mp4Error> {
    let left = file_size.saturating_sub(offset);
    if left < 8 {
        return Ok(None);
    }
    let mut bytes = [0_u8; 16];
    let length = left.min(16) as usize;
    file.read_exact_at(offset, &mut bytes[..length])?;
    let [s0, s1, s2, s3, k0, k1, k2, k3, large @ ..] = bytes;
    let kind = [k0, k1, k2, k3];
    let (size, head_size) = match u32::from_be_bytes([s0, s1, s2, s3]) {
        0 if kind == *b"mdat" => (left, 8),
        1 if length == 16 => (u64::from_be_bytes(large), 16),
        size => (u64::from(size), 8),
    };
    Ok((size >= head_size).then_some(BoxHead { kind, offset, size, head_size }))
}

/// Walks over the boxes at the top of a file. It ends at the end of the file, or where no box can be seen.
pub(super) struct TopBoxes<'a, R: ?Sized> {
    file: &'a R,
    file_size: u64,
    next: u64,
    seen: usize,
}

impl<'a, R: ReadAt + ?Sized> TopBoxes<'a, R> {
    pub(super) fn new(file: &'a R, from: u64, file_size: u64) -> Self {
        Self { file, file_size, next: from, seen: 0 }
    }

    /// The next box; it may reach beyond the end of the file.
    pub(super) fn advance(&mut self) -> Result<Option<BoxHead>, Mp4Error> {
        let Some(found) = head_at(self.file, self.next, self.file_size)? else { return Ok(None) };
        self.seen += 1;
        if self.seen > TOP_BOXES_MAX {
            return Err(Mp4Error::TooLarge("boxes"));
        }
        self.next = found.end();
        Ok(Some(found))
    }
}

/// The children of a box, each with its kind and all its bytes; ends with an error where one does not fit.
pub(super) fn children(payload: &[u8]) -> impl Iterator<Item = Result<([u8; 4], &[u8]), Mp4Error>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let child = rest.first_chunk::<8>().and_then(|&[s0, s1, s2, s3, k0, k1, k2, k3]| {
            let size = match u32::from_be_bytes([s0, s1, s2, s3]) {
                1 => {
                    let large = rest.get(8..16)?.first_chunk::<8>()?;
                    usize::try_from(u64::from_be_bytes(*large)).ok().filter(|size| *size >= 16)?
                }
                size => usize::try_from(size).ok().filter(|size| *size >= 8)?,
            };
            rest.split_at_checked(size).map(|(child, after)| ([k0, k1, k2, k3], child, after))
        });
        let Some((kind, child, after)) = child else {
            rest = &[];
            return Some(Err(format_error("a box that does not fit into its parent")));
        };
        rest = after;
        Some(Ok((kind, child)))
    })
}
