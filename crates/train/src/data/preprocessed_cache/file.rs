//! The file of a preprocessed case, little endian:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `ctsegPC1` |
//! | 32 | the case's [`Key`] |
//! | 4 × 8 | shape (channel, z, y, x) |
//! | 4 | number of scalings |
//! | 1 + 4 | whether Hounsfield units follow, and their zero |
//! | 16 each | scalings: window, mean and SD in HU |
//! | 4 each | channels (f32) |
//! | 2 each | labels (u16) |
//! | 4 each | Hounsfield units beyond the windows (f32), if present |
//! | 32 | SHA-256 of everything before |
//!
//! Not safetensors: that would hold file and case in memory at the same time, it has no checksum, and the reader in
//! this project supports f32 only.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::OnceLock;

use ndarray::{Array3, Array4};
use sha2::{Digest, Sha256};

use super::key::Key;
use ctseg_base::regular_file;
use ctseg_core::dataset::prepared_case::{CaseHu, PreparedCase};
use ctseg_image::preprocess::normalisation::Scaling;

const MAGIC: &[u8; 8] = b"ctsegPC1";
const HEADER_BYTES: u64 = 8 + 32 + 4 * 8 + 4 + 1 + 4;
const SCALING_BYTES: u64 = 16;
const CHECKSUM_BYTES: u64 = 32;

/// Size of the conversion buffer.
const CHUNK_BYTES: usize = 1 << 18;

pub(super) enum ReadResult {
    Case(Box<PreparedCase>),
    /// No file, or not readable now: it was just removed, or its storage is offline.
    Missing,
    /// The problem with the file.
    Damaged(String),
}

/// Length of the file of a case, in bytes.
pub(super) fn length(case: &PreparedCase) -> u64 {
    let [channels, z, y, x] = case.channels.shape() else {
        return 0;
    };
    let shape = [*channels, *z, *y, *x].map(|side| side as u64);
    length_of(shape, case.scalings.len() as u32, case.hu.is_some()).unwrap_or(u64::MAX)
}

/// None if it overflows.
fn length_of([channels, z, y, x]: [u64; 4], scalings: u32, hu: bool) -> Option<u64> {
    let voxels = z.checked_mul(y)?.checked_mul(x)?;
    let per_voxel = channels
        .checked_add(u64::from(hu))?
        .checked_mul(4)?
        .checked_add(2)?;
    let voxel_bytes = voxels.checked_mul(per_voxel)?;
    let around = HEADER_BYTES + SCALING_BYTES * u64::from(scalings) + CHECKSUM_BYTES;
    voxel_bytes.checked_add(around)
}

/// Writes a case. All its arrays have the same shape.
pub(super) fn write(to: &mut impl Write, key: &Key, case: &PreparedCase) -> io::Result<()> {
    let mut to = Hashing {
        inner: to,
        hasher: Sha256::new(),
    };
    to.write_all(MAGIC)?;
    to.write_all(&key.0)?;
    for side in case.channels.shape() {
        to.write_all(&(*side as u64).to_le_bytes())?;
    }
    to.write_all(&(case.scalings.len() as u32).to_le_bytes())?;
    to.write_all(&[u8::from(case.hu.is_some())])?;
    let zero_hu = case.hu.as_ref().map_or(0.0, |hu| hu.zero_hu);
    to.write_all(&zero_hu.to_le_bytes())?;
    for scaling in &case.scalings {
        let Scaling {
            window,
            mean_hu,
            sd_hu,
        } = scaling;
        for value in [window.low_hu, window.high_hu, *mean_hu, *sd_hu] {
            to.write_all(&value.to_le_bytes())?;
        }
    }
    write_values(&mut to, case.channels.iter(), |value| value.to_le_bytes())?;
    write_values(&mut to, case.labels.iter(), |value| value.to_le_bytes())?;
    if let Some(hu) = &case.hu {
        write_values(&mut to, hu.above.iter(), |value| value.to_le_bytes())?;
    }
    let checksum = to.hasher.finalize();
    to.inner.write_all(&checksum)
}

fn write_values<'a, T: 'a, const N: usize>(
    to: &mut impl Write,
    values: impl Iterator<Item = &'a T>,
    bytes_of: impl Fn(&T) -> [u8; N],
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    for value in values {
        bytes.extend_from_slice(&bytes_of(value));
        if bytes.len() + N > CHUNK_BYTES {
            to.write_all(&bytes)?;
            bytes.clear();
        }
    }
    to.write_all(&bytes)
}

/// Reads the case with this key; `ignore` is its ignore label.
pub(super) fn read(path: &Path, key: &Key, ignore: Option<u16>) -> ReadResult {
    let opened = regular_file::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let Ok((bytes, file)) = opened else {
        return ReadResult::Missing;
    };
    let from = Hashing {
        inner: BufReader::with_capacity(CHUNK_BYTES, file),
        hasher: Sha256::new(),
    };
    match read_whole(from, bytes, key, ignore) {
        Ok(Ok(case)) => ReadResult::Case(Box::new(case)),
        Ok(Err(problem)) => ReadResult::Damaged(problem),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            ReadResult::Damaged(format!("ends before its {bytes} bytes"))
        }
        Err(_) => ReadResult::Missing,
    }
}

/// The header before a case's values.
struct Header {
    shape: [u64; 4],
    scaling_count: u32,
    /// Present if Hounsfield units follow.
    zero_hu: Option<f32>,
}

/// The inner error describes the problem with the file, before anything is allocated.
fn read_header(
    from: &mut Hashing<impl Read>,
    bytes: u64,
    key: &Key,
) -> io::Result<Result<Header, String>> {
    if from.array::<8>()? != *MAGIC {
        return Ok(Err(
            "is not a preprocessed case of this version of ctseg".to_owned()
        ));
    }
    if from.array::<32>()? != key.0 {
        return Ok(Err("belongs to another case than its name says".to_owned()));
    }
    let mut shape = [0; 4];
    for side in &mut shape {
        *side = u64::from_le_bytes(from.array()?);
    }
    let scaling_count = u32::from_le_bytes(from.array()?);
    let [has_hu] = from.array()?;
    let zero_hu = f32::from_le_bytes(from.array()?);
    let expected = length_of(shape, scaling_count, has_hu == 1);
    if expected != Some(bytes) || has_hu > 1 {
        return Ok(Err(format!(
            "has {bytes} bytes, but its header says {}",
            expected.unwrap_or(u64::MAX)
        )));
    }
    Ok(Ok(Header {
        shape,
        scaling_count,
        zero_hu: (has_hu == 1).then_some(zero_hu),
    }))
}

/// The inner error describes the problem with the file.
fn read_whole(
    mut from: Hashing<impl Read>,
    bytes: u64,
    key: &Key,
    ignore: Option<u16>,
) -> io::Result<Result<PreparedCase, String>> {
    let header = match read_header(&mut from, bytes, key)? {
        Ok(header) => header,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut scalings = Vec::new();
    for _ in 0..header.scaling_count {
        let mut value = || Ok::<f32, io::Error>(f32::from_le_bytes(from.array()?));
        scalings.push(Scaling {
            window: [value()?, value()?].into(),
            mean_hu: value()?,
            sd_hu: value()?,
        });
    }
    // Cannot overflow: the file has this length.
    let [channels, z, y, x] = header.shape.map(|side| side as usize);
    let voxels = z * y * x;
    let values = from.values(channels * voxels, f32::from_le_bytes)?;
    let labels = from.values(voxels, u16::from_le_bytes)?;
    let above = match header.zero_hu {
        Some(_) => Some(from.values(voxels, f32::from_le_bytes)?),
        None => None,
    };
    let checksum = from.hasher.clone().finalize();
    if from.array::<32>()? != <[u8; 32]>::from(checksum) {
        return Ok(Err("is damaged: checksum mismatch".to_owned()));
    }
    let array = |values| Array3::from_shape_vec((z, y, x), values).map_err(io::Error::other);
    Ok(Ok(PreparedCase {
        ignore,
        channels: Array4::from_shape_vec((channels, z, y, x), values).map_err(io::Error::other)?,
        labels: Array3::from_shape_vec((z, y, x), labels).map_err(io::Error::other)?,
        hu: match header.zero_hu.zip(above) {
            Some((zero_hu, above)) => Some(CaseHu {
                zero_hu,
                above: array(above)?,
            }),
            None => None,
        },
        scalings,
        index: OnceLock::new(),
    }))
}

/// Hashes all bytes read or written.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Hashing<T> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    fn values<V, const N: usize>(
        &mut self,
        count: usize,
        of: impl Fn([u8; N]) -> V,
    ) -> io::Result<Vec<V>> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(io::Error::other)?;
        let mut bytes = vec![0; CHUNK_BYTES / N * N];
        while values.len() < count {
            let now = bytes.len().min((count - values.len()) * N);
            self.fill(&mut bytes[..now])?;
            let (whole, _) = bytes[..now].as_chunks::<N>();
            values.extend(whole.iter().map(|value| of(*value)));
        }
        Ok(values)
    }
}
