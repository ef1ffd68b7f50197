//! Writes files for `torch.load`: a zip archive of a pickle (protocol 2) and the tensors' bytes, uncompressed.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::weights::HostTensor;
use ctseg_base::atomic_file::write_atomically;
use ctseg_base::{Error, Result};

/// A value that can be pickled.
#[derive(Debug, Clone, PartialEq)]
pub enum Pickled<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Pickled<'a>>),
    Tuple(Vec<Pickled<'a>>),
    /// Keys and values, in order.
    Dict(Vec<(String, Pickled<'a>)>),
    /// A tensor; repeated references to the same tensor are written once.
    Tensor(&'a HostTensor),
}

impl From<&serde_json::Value> for Pickled<'_> {
    /// Integral numbers that fit become integers.
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::None,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(int) => Self::Int(int),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(all) => Self::List(all.iter().map(Self::from).collect()),
            Value::Object(all) => Self::Dict(
                all.iter()
                    .map(|(name, value)| (name.clone(), Self::from(value)))
                    .collect(),
            ),
        }
    }
}

/// Writes `root` to `path` atomically.
pub fn write_torch(path: &Path, root: &Pickled) -> Result<()> {
    let mut pickler = Pickler::default();
    pickler.bytes.extend([0x80, 2]);
    pickler.put(root);
    pickler.bytes.push(b'.');
    let problem = |error: zip::result::ZipError| std::io::Error::other(error);
    write_atomically(path, |file| {
        let mut archive = ZipWriter::new(file);
        let mut entry = |name: &str, bytes: &[&[u8]]| -> std::io::Result<()> {
            start(&mut archive, &format!("archive/{name}")).map_err(problem)?;
            bytes.iter().try_for_each(|bytes| archive.write_all(bytes))
        };
        entry("data.pkl", &[&pickler.bytes])?;
        entry("byteorder", &[b"little"])?;
        for (key, tensor) in pickler.tensors.iter().enumerate() {
            let bytes: Vec<u8> = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            entry(&format!("data/{key}"), &[&bytes])?;
        }
        entry("version", &[b"3\n"])?;
        archive.finish().map(drop).map_err(problem)
    })
    .map_err(|error| Error::file(path, format!("cannot write the checkpoint: {error}")))
}

fn start(
    archive: &mut ZipWriter<impl Write + Seek>,
    name: &str,
) -> std::result::Result<(), zip::result::ZipError> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .large_file(true);
    archive.start_file(name, options)
}

/// A pickle under construction.
#[derive(Default)]
struct Pickler<'a> {
    bytes: Vec<u8>,
    tensors: Vec<&'a HostTensor>,
    /// Index of each tensor by its address.
    known: BTreeMap<*const HostTensor, usize>,
}

impl<'a> Pickler<'a> {
    fn put(&mut self, value: &Pickled<'a>) {
        match value {
            Pickled::None => self.bytes.push(b'N'),
            Pickled::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            Pickled::Int(value) => self.int(*value),
            Pickled::Float(value) => {
                self.bytes.push(b'G');
                self.bytes.extend(value.to_be_bytes());
            }
            Pickled::Text(text) => self.text(text),
            Pickled::List(all) => {
                self.bytes.extend(b"](");
                all.iter().for_each(|value| self.put(value));
                self.bytes.push(b'e');
            }
            Pickled::Tuple(all) => {
                self.bytes.push(b'(');
                all.iter().for_each(|value| self.put(value));
                self.bytes.push(b't');
            }
            Pickled::Dict(all) => {
                self.bytes.extend(b"}(");
                for (name, value) in all {
                    self.text(name);
                    self.put(value);
                }
                self.bytes.push(b'u');
            }
            Pickled::Tensor(tensor) => self.tensor(tensor),
        }
    }

    fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(small) => {
                self.bytes.push(b'J');
                self.bytes.extend(small.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([0x8a, 8]);
                self.bytes.extend(value.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    /// `torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`
    fn tensor(&mut self, tensor: &'a HostTensor) {
        let next = self.tensors.len();
        let key = *self.known.entry(std::ptr::from_ref(tensor)).or_insert(next);
        if key == next {
            self.tensors.push(tensor);
        }
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.bytes.extend(b"((");
        self.text("storage");
        self.global("torch", "FloatStorage");
        self.text(&key.to_string());
        self.text("cpu");
        self.int(tensor.values.len() as i64);
        self.bytes.extend(b"tQ");
        self.int(0);
        let sides = |shape: &[usize]| -> Pickled<'a> {
            Pickled::Tuple(
                shape
                    .iter()
                    .map(|side| Pickled::Int(*side as i64))
                    .collect(),
            )
        };
        self.put(&sides(&tensor.shape));
        self.put(&sides(&strides(&tensor.shape)));
        self.bytes.push(0x89);
        self.global("collections", "OrderedDict");
        self.bytes.extend(b")RtR");
    }
}

/// Row-major strides in elements.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch_checkpoint::TorchFile;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.pth");
        let tensor = HostTensor {
            shape: vec![2, 3],
            values: (0..6).map(|value| value as f32).collect(),
        };
        let text = |text: &str| Pickled::Text(text.to_owned());
        let named = |name: &str, value| (name.to_owned(), value);
        let root = Pickled::Dict(vec![
            named("a", Pickled::Tensor(&tensor)),
            named("again", Pickled::Tensor(&tensor)),
            named(
                "axes",
                Pickled::Tuple(vec![Pickled::Int(0), Pickled::Int(-70_000_000_000)]),
            ),
            named(
                "plans",
                Pickled::from(&serde_json::json!({"x": [1.5, null, true, "é"]})),
            ),
            named("name", text("nnU-Net")),
        ]);
        write_torch(&path, &root).unwrap();
        let mut file = TorchFile::open(&path).unwrap();
        let stored = file.tensor(file.root().get("again").unwrap()).unwrap();
        assert_eq!(file.read(&stored).unwrap(), tensor);
        let json = |name: &str| file.root().get(name).unwrap().to_json().unwrap();
        assert_eq!(json("axes"), serde_json::json!([0, -70_000_000_000i64]));
        assert_eq!(
            json("plans"),
            serde_json::json!({"x": [1.5, null, true, "é"]})
        );
        assert_eq!(json("name"), "nnU-Net");
        // Two names for one tensor.
        let length = std::fs::metadata(&path).unwrap().len();
        write_torch(
            &path,
            &Pickled::Dict(vec![named("a", Pickled::Tensor(&tensor))]),
        )
        .unwrap();
        assert!(length < std::fs::metadata(&path).unwrap().len() + 400);
    }
}
