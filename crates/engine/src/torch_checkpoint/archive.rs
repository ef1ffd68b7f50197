//! A checkpoint archive: its pickle and the raw tensor data.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use burn::tensor::{bf16, f16};
use zip::ZipArchive;

use super::budget::Budget;
use super::entries::{Archive, check_length, entry, part};
use super::pickle::unpickle;
use super::value::{Id, Node, TensorView, Value, Values};
use crate::weights::{HostTensor, NamedTensors, elements_of};
use ctseg_base::unzip::check_overlaps;
use ctseg_base::{Error, Result, pointer_file, regular_file};

/// Maximum size of the pickle; with optimiser state and logs it has a few megabytes.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// An open file of `torch.save`.
pub struct TorchFile {
    path: PathBuf,
    length: u64,
    archive: Archive,
    /// The folder of the archive that holds everything.
    prefix: Vec<u8>,
    values: Values,
    root: Id,
}

/// A tensor of the file whose data has not been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    kind: &'static str,
    /// Name of its storage.
    key: Id,
    /// Start of its bytes in the storage.
    begin: u64,
    bytes: u64,
    pub shape: Vec<usize>,
}

impl TorchFile {
    /// Opens `path` and reads its pickle.
    ///
    /// # Errors
    /// Not a PyTorch zip archive (format since 1.6); a compressed or big-endian archive; a pickle with anything but
    /// tensors, dictionaries, plain values and NumPy scalars.
    pub fn open(path: &Path) -> Result<Self> {
        let refused = |problem: String| {
            Error::file(
                path,
                format!(
                    "cannot read the checkpoint: {problem}; expected a torch.save file that contains only weights"
                ),
            )
        };
        let file = regular_file::open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|problem| {
            let pointer = pointer_file::problem(path);
            refused(pointer.unwrap_or_else(|| format!("not a zip archive ({problem})")))
        })?;
        check_overlaps(&archive, length).map_err(refused)?;
        let names = archive.file_names_raw();
        let pickles: Vec<Vec<u8>> = names
            .filter(|name| name.ends_with(b"/data.pkl"))
            .map(<[u8]>::to_vec)
            .collect();
        let [pickle] = pickles.as_slice() else {
            return Err(refused(format!(
                "found {} pickles, expected one",
                pickles.len()
            )));
        };
        let prefix = pickle[..pickle.len() - b"data.pkl".len()].to_vec();
        let bytes = entry(&mut archive, pickle, MAX_PICKLE_BYTES).map_err(refused)?;
        let order = [&prefix[..], b"byteorder"].concat();
        if archive.index_for_name_raw(&order).is_some()
            && entry(&mut archive, &order, 16).map_err(refused)? != b"little"
        {
            return Err(refused("the data is big-endian".to_owned()));
        }
        let (values, root) = unpickle(&bytes, Budget::of_file(length))
            .map_err(|problem| refused(format!("pickle: {problem}")))?;
        let file = Self {
            path: path.to_path_buf(),
            length,
            archive,
            prefix,
            values,
            root,
        };
        file.check_storages().map_err(refused)?;
        Ok(file)
    }

    /// The saved object.
    pub fn root(&self) -> Node<'_> {
        self.values.node(self.root)
    }

    /// The tensor at a node of the pickle.
    ///
    /// # Errors
    /// The node is not a tensor, or the tensor is not contiguous.
    pub fn tensor(&self, node: Node) -> Result<StoredTensor> {
        let Value::Tensor(view) = node.value() else {
            return Err(self.problem("expected a tensor, found something else"));
        };
        self.stored(view).map_err(|problem| self.problem(&problem))
    }

    /// The tensors of a dictionary whose names are `wanted`.
    ///
    /// # Errors
    /// As [`TorchFile::tensor`]; names that are not text; more names than a file of this size can hold.
    pub fn tensors(
        &self,
        node: Node,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, StoredTensor>> {
        let budget = &self.values.budget;
        let mut found = BTreeMap::new();
        let tensors = node
            .entries()
            .filter(|(_, value)| matches!(value.value(), Value::Tensor(_)));
        for (name, value) in tensors {
            let name = name
                .text()
                .ok_or_else(|| self.problem("a weight's name is not text"))?;
            budget
                .charge(name.len())
                .map_err(|problem| self.problem(&problem))?;
            if !wanted(name) {
                continue;
            }
            let tensor = self.tensor(value)?;
            budget
                .charge(size_of::<StoredTensor>() + size_of_val(tensor.shape.as_slice()))
                .map_err(|problem| self.problem(&problem))?;
            found.insert(name.to_owned(), tensor);
        }
        Ok(found)
    }

    /// A value as JSON, see [`Node::to_json`].
    ///
    /// # Errors
    /// Repeated references that expand to more than a file of this size can hold.
    pub fn json(&self, node: Node) -> Result<serde_json::Value> {
        node.to_json().map_err(|problem| self.problem(&problem))
    }

    /// Reads several tensors as f32; tensors with several names are read once.
    ///
    /// # Errors
    /// As [`TorchFile::read`]; more bytes than the file has, because tensors have several names.
    pub fn read_all(&mut self, tensors: &BTreeMap<String, StoredTensor>) -> Result<NamedTensors> {
        let bytes = tensors
            .values()
            .fold(0u64, |sum, tensor| sum.saturating_add(tensor.bytes));
        if bytes > self.length {
            return Err(self.problem(&format!(
                "{} weights of {bytes} bytes in all in a file of {} bytes: too many names for the same tensor",
                tensors.len(),
                self.length
            )));
        }
        let mut order: Vec<(&String, &StoredTensor)> = tensors.iter().collect();
        order.sort_by_key(|(_, tensor)| (tensor.kind, tensor.key, tensor.begin, tensor.bytes));
        let mut read = NamedTensors::new();
        let mut before: Option<(&String, &StoredTensor)> = None;
        for (name, tensor) in order {
            let same = before.filter(|(_, other)| other.is_at(tensor));
            let known = same.and_then(|(name, _)| read.get(name));
            let values = match known {
                Some(known) => known.values.clone(),
                None => self.read(tensor)?.values,
            };
            let shape = tensor.shape.clone();
            read.insert(name.clone(), HostTensor { shape, values });
            before = Some((name, tensor));
        }
        Ok(read)
    }

    /// Reads a tensor as f32.
    ///
    /// # Errors
    /// A storage that is too short.
    pub fn read(&mut self, tensor: &StoredTensor) -> Result<HostTensor> {
        let name = self.storage_name(self.key(tensor));
        let bytes = part(&mut self.archive, &name, tensor.begin, tensor.bytes)
            .map_err(|problem| self.problem(&problem))?;
        Ok(HostTensor {
            shape: tensor.shape.clone(),
            values: converted(tensor.kind, &bytes),
        })
    }

    fn storage_name(&self, key: &str) -> Vec<u8> {
        [&self.prefix[..], b"data/", key.as_bytes()].concat()
    }

    fn key(&self, tensor: &StoredTensor) -> &str {
        self.values.node(tensor.key).text().unwrap_or_default()
    }

    fn problem(&self, what: &str) -> Error {
        Error::file(&self.path, format!("cannot read the checkpoint: {what}"))
    }

    fn stored(&self, view: &TensorView) -> std::result::Result<StoredTensor, String> {
        let Value::Storage { kind, key, length } = self.values.get(view.storage) else {
            return Err("a tensor without a storage".to_owned());
        };
        let width = width_of(kind).ok_or("a storage of an unknown kind")?;
        let elements = elements_of(&view.shape).map(|elements| elements as u64);
        let end = elements.and_then(|elements| elements.checked_add(view.offset));
        // Also checks that the storage's size in bytes does not overflow.
        let countable = length.checked_mul(width).is_some();
        let (Some(elements), true) = (elements, countable && end.is_some_and(|end| end <= *length))
        else {
            return Err(format!(
                "a tensor of {:?} elements in a storage of {length}",
                view.shape
            ));
        };
        if !is_contiguous(view) {
            return Err(format!(
                "a non-contiguous tensor of {:?} elements",
                view.shape
            ));
        }
        Ok(StoredTensor {
            kind,
            key: *key,
            begin: view.offset * width,
            bytes: elements * width,
            shape: view.shape.clone(),
        })
    }

    /// Checks that every tensor lies within the archive. Several names may refer to one tensor, but tensors must not
    /// overlap.
    fn check_storages(&self) -> std::result::Result<(), String> {
        let mut ranges: BTreeMap<(&str, u64), u64> = BTreeMap::new();
        for value in &self.values.all {
            let Value::Tensor(view) = value else { continue };
            let tensor = self.stored(view)?;
            let key = self.key(&tensor);
            let end = tensor.begin + tensor.bytes;
            let known = ranges.entry((key, tensor.begin)).or_insert(end);
            if *known != end {
                return Err("overlapping tensors".to_owned());
            }
        }
        let mut before: Option<(&str, u64)> = None;
        for ((key, begin), end) in ranges {
            if before.is_some_and(|(other, end)| other == key && end > begin) {
                return Err("overlapping tensors".to_owned());
            }
            check_length(&self.archive, &self.storage_name(key), end)?;
            before = Some((key, end));
        }
        Ok(())
    }
}

impl StoredTensor {
    /// Whether both refer to the same bytes.
    fn is_at(&self, other: &Self) -> bool {
        let place = |tensor: &Self| (tensor.kind, tensor.key, tensor.begin, tensor.bytes);
        place(self) == place(other)
    }
}

/// Whether elements are in row-major order without gaps; strides of axes with at most one element are ignored.
fn is_contiguous(view: &TensorView) -> bool {
    if view.shape.len() != view.strides.len() {
        return false;
    }
    let mut step = 1usize;
    for (side, stride) in view.shape.iter().zip(&view.strides).rev() {
        if *side > 1 && *stride != step {
            return false;
        }
        step = step.saturating_mul(*side);
    }
    true
}

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
