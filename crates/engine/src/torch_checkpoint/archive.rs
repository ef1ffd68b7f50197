//! The archive: its pickle, and tensors' elements as they lie in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use burn::tensor::{bf16, f16};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::unpickled;
use super::value::{Id, Node, TensorView, Value, Values};
use crate::weights::HostTensor;
use ctseg_base::{Error, Result, pointer_file, regular_file};

/// The pickle of a checkpoint with optimiser and logs is some megabytes.
const LONGEST_PICKLE: u64 = 64 << 20;

/// A file of `torch.save`, open for reading.
pub struct TorchFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    /// The folder that everything in the archive lies in.
    prefix: String,
    values: Values,
    root: Id,
}

/// A tensor of the file that has not been read.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    kind: &'static str,
    key: String,
    /// In elements.
    offset: u64,
    pub shape: Vec<u64>,
}

impl TorchFile {
    /// Opens `path` and reads its pickle.
    ///
    /// # Errors
    /// No zip archive of PyTorch's (as written since 1.6), a compressed one, one whose bytes are in the other order, or a
    /// pickle that wants anything but tensors, dictionaries, plain values and NumPy's numbers.
    pub fn open(path: &Path) -> Result<Self> {
        let refused = |problem: String| {
            Error::file(
                path,
                format!(
                    "is no checkpoint that can be read: {problem}; expected a file of torch.save with weights alone"
                ),
            )
        };
        let file = regular_file::open(path).map_err(Error::io(path, "open"))?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|problem| {
            let pointer = pointer_file::problem(path);
            refused(pointer.unwrap_or_else(|| format!("no zip archive ({problem})")))
        })?;
        let names = archive
            .file_names()
            .filter_map(|name| Some(name.ok()?.into_owned()));
        let pickles: Vec<String> = names.filter(|name| name.ends_with("/data.pkl")).collect();
        let [pickle] = pickles.as_slice() else {
            return Err(refused(format!("{} pickles in it", pickles.len())));
        };
        let prefix = pickle.trim_end_matches("data.pkl").to_owned();
        let bytes = entry(&mut archive, pickle, LONGEST_PICKLE).map_err(refused)?;
        let order = format!("{prefix}byteorder");
        if archive.index_for_name(&order).is_some()
            && entry(&mut archive, &order, 16).map_err(refused)? != b"little"
        {
            return Err(refused(
                "its numbers have their highest byte first".to_owned(),
            ));
        }
        let (values, root) =
            unpickled(&bytes).map_err(|problem| refused(format!("its pickle: {problem}")))?;
        let file = Self {
            path: path.to_path_buf(),
            archive,
            prefix,
            values,
            root,
        };
        file.check_overlaps().map_err(refused)?;
        Ok(file)
    }

    /// What was saved.
    pub fn root(&self) -> Node<'_> {
        self.values.node(self.root)
    }

    /// The tensor at a place of the pickle.
    ///
    /// # Errors
    /// No tensor, or one that does not lie in its storage row by row.
    pub fn tensor(&self, node: Node) -> Result<StoredTensor> {
        let Value::Tensor(view) = node.value() else {
            return Err(self.problem("a tensor was expected and is something else"));
        };
        self.stored(view).map_err(|problem| self.problem(&problem))
    }

    /// The elements as f32.
    ///
    /// # Errors
    /// A storage that is not there, is compressed or has another size than the pickle says.
    pub fn read(&mut self, tensor: &StoredTensor) -> Result<HostTensor> {
        let elements: u64 = tensor.shape.iter().product();
        let width =
            width_of(tensor.kind).ok_or_else(|| self.problem("a storage of an unknown kind"))?;
        let name = format!("{}data/{}", self.prefix, tensor.key);
        let bytes = part(
            &mut self.archive,
            &name,
            tensor.offset * width,
            elements * width,
        )
        .map_err(|problem| self.problem(&problem))?;
        let values = converted(tensor.kind, &bytes);
        Ok(HostTensor {
            shape: tensor.shape.iter().map(|side| *side as usize).collect(),
            values,
        })
    }

    fn problem(&self, what: &str) -> Error {
        Error::file(
            &self.path,
            format!("is no checkpoint that can be read: {what}"),
        )
    }

    fn stored(&self, view: &TensorView) -> std::result::Result<StoredTensor, String> {
        let Value::Storage { kind, key, length } = self.values.get(view.storage) else {
            return Err("a tensor without a storage".to_owned());
        };
        let elements = view
            .shape
            .iter()
            .try_fold(1u64, |all, side| all.checked_mul(*side));
        let end = elements.and_then(|elements| elements.checked_add(view.offset));
        // No storage is so large that its bytes could not be counted.
        let countable = length.checked_mul(WIDEST).is_some();
        if !countable || end.is_none_or(|end| end > *length) {
            return Err(format!(
                "a tensor of {:?} elements in a storage of {length}",
                view.shape
            ));
        }
        if !is_contiguous(view) {
            return Err(format!(
                "a tensor of {:?} elements that do not lie row by row",
                view.shape
            ));
        }
        Ok(StoredTensor {
            kind,
            key: key.clone(),
            offset: view.offset,
            shape: view.shape.clone(),
        })
    }

    /// Several names may have one tensor; tensors that share a part of their elements are no weights.
    fn check_overlaps(&self) -> std::result::Result<(), String> {
        let mut ranges: BTreeMap<(String, u64), u64> = BTreeMap::new();
        for value in &self.values.all {
            let Value::Tensor(view) = value else { continue };
            let tensor = self.stored(view)?;
            let length = tensor.shape.iter().product::<u64>();
            let known = ranges.entry((tensor.key, tensor.offset)).or_insert(length);
            if *known != length {
                return Err("tensors that overlap".to_owned());
            }
        }
        let mut before: Option<(&str, u64)> = None;
        for ((key, offset), length) in &ranges {
            if before.is_some_and(|(other, end)| other == key && end > *offset) {
                return Err("tensors that overlap".to_owned());
            }
            before = Some((key, offset + length));
        }
        Ok(())
    }
}

/// Elements in order without gaps; where there are none or one, strides mean nothing.
fn is_contiguous(view: &TensorView) -> bool {
    if view.shape.len() != view.strides.len() {
        return false;
    }
    let mut step = 1u64;
    for (side, stride) in view.shape.iter().zip(&view.strides).rev() {
        if *side > 1 && *stride != step {
            return false;
        }
        step = step.saturating_mul(*side);
    }
    true
}

/// Bytes of the widest element.
const WIDEST: u64 = 8;

/// Bytes of an element.
fn width_of(kind: &str) -> Option<u64> {
    Some(match kind {
        "torch DoubleStorage" | "torch LongStorage" => 8,
        "torch FloatStorage" | "torch IntStorage" => 4,
        "torch HalfStorage" | "torch BFloat16Storage" | "torch ShortStorage" => 2,
        "torch CharStorage" | "torch ByteStorage" | "torch BoolStorage" => 1,
        _ => return None,
    })
}

fn converted(kind: &str, bytes: &[u8]) -> Vec<f32> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let (chunks, _) = bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| value(*chunk)).collect()
    }
    match kind {
        "torch DoubleStorage" => each(bytes, |b| f64::from_le_bytes(b) as f32),
        "torch LongStorage" => each(bytes, |b| i64::from_le_bytes(b) as f32),
        "torch FloatStorage" => each(bytes, f32::from_le_bytes),
        "torch IntStorage" => each(bytes, |b| i32::from_le_bytes(b) as f32),
        "torch HalfStorage" => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        "torch BFloat16Storage" => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        "torch ShortStorage" => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
        "torch CharStorage" => each(bytes, |b| f32::from(i8::from_le_bytes(b))),
        _ => each(bytes, |[b]| f32::from(b)),
    }
}

/// All bytes of an entry, which is stored as it is.
fn entry(
    archive: &mut ZipArchive<BufReader<File>>,
    name: &str,
    most: u64,
) -> std::result::Result<Vec<u8>, String> {
    let size = checked(archive, name)?;
    if size > most {
        return Err(format!("'{name}' of {size} bytes, where {most} are plenty"));
    }
    part(archive, name, 0, size)
}

/// `count` bytes of an entry from `from` on.
fn part(
    archive: &mut ZipArchive<BufReader<File>>,
    name: &str,
    from: u64,
    count: u64,
) -> std::result::Result<Vec<u8>, String> {
    let size = checked(archive, name)?;
    if from.checked_add(count).is_none_or(|end| end > size) {
        return Err(format!(
            "'{name}' has {size} bytes, {} are wanted",
            from.saturating_add(count)
        ));
    }
    let failed = |problem: &dyn std::fmt::Display| format!("'{name}' cannot be read ({problem})");
    let mut entry = archive.by_name(name).map_err(|problem| failed(&problem))?;
    std::io::copy(&mut entry.by_ref().take(from), &mut std::io::sink())
        .map_err(|problem| failed(&problem))?;
    let mut bytes = Vec::new();
    entry
        .take(count)
        .read_to_end(&mut bytes)
        .map_err(|problem| failed(&problem))?;
    if bytes.len() as u64 != count {
        return Err(format!(
            "'{name}' ends after {} of {count} bytes",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// The size of an entry; PyTorch compresses nothing, so that no entry is larger than the file.
fn checked(
    archive: &mut ZipArchive<BufReader<File>>,
    name: &str,
) -> std::result::Result<u64, String> {
    let entry = archive
        .by_name(name)
        .map_err(|problem| format!("'{name}' is not in it ({problem})"))?;
    if entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size() {
        return Err(format!(
            "'{name}' is compressed, which torch.save never does"
        ));
    }
    Ok(entry.size())
}
