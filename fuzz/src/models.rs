//! The readers of models, and whole models around the one file that is foreign.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use ctseg_base::Result;
use ctseg_base::hash::file_sha256;
use ctseg_base::unzip::unzip_to_temp;
use ctseg_core::model::bundle::Bundle;
use ctseg_engine::torch_checkpoint::TorchFile;
use ctseg_engine::weights::{read_shapes, read_tensors};
use ctseg_interop::nnunet::read_model;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::{folder, once, written};

/// Opens a file of `torch.save` and reads all that is in it, as `inspect` and `import` do.
///
/// # Errors
/// What is wrong with it.
pub fn torch_file(path: &Path) -> Result<()> {
    let mut file = TorchFile::open(path)?;
    let root = file.root();
    let places = [Some(root), root.get("network_weights")];
    let stored = places.into_iter().flatten();
    let stored: Result<Vec<_>> = stored.map(|at| file.tensors(at, |_| true)).collect();
    for tensors in stored? {
        file.read_all(&tensors)?;
    }
    file.json(file.root()).map(drop)
}

/// The elements of the only storage in archives that are made here.
const STORAGE: [u8; 64] = [7; 64];

/// A checkpoint of nnU-Net with this pickle.
pub fn pickle(bytes: &[u8]) -> usize {
    let in_memory = "an archive in memory";
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in [("data.pkl", bytes), ("data/0", &STORAGE[..])] {
        let started = archive.start_file(format!("archive/{name}"), stored);
        started.expect(in_memory);
        archive.write_all(content).expect(in_memory);
    }
    checkpoint(&archive.finish().expect(in_memory).into_inner());
    0
}

/// A zip archive as a checkpoint, and as a packed model.
pub fn zip(bytes: &[u8]) -> usize {
    checkpoint(bytes);
    let path = written("packed.zip", bytes);
    let _ = unzip_to_temp(&path, &folder().join("unpacked"), &|_| true);
    0
}

fn checkpoint(bytes: &[u8]) {
    if torch_file(&written("weights.pth", bytes)).is_ok() {
        let _ = nnunet_model(CHECKPOINT, bytes);
    }
}

/// A file of weights, and its header alone.
pub fn safetensors(bytes: &[u8]) -> usize {
    let path = written("weights.safetensors", bytes);
    let shapes = read_shapes(&path);
    if let Ok((tensors, _)) = read_tensors(&path) {
        let read = tensors.into_iter().map(|(name, read)| (name, read.shape));
        let read: BTreeMap<String, Vec<usize>> = read.collect();
        assert_eq!(shapes.ok(), Some(read), "the header alone says otherwise");
    }
    0
}

/// A fold's file in a model of nnU-Net.
const CHECKPOINT: &str = "fold_0/checkpoint_final.pth";

/// A model of nnU-Net, file by file.
const NNUNET: [(&str, &[u8]); 3] = [
    ("plans.json", include_bytes!("../corpus/plans_json/plain")),
    (
        "dataset.json",
        include_bytes!("../corpus/dataset_json/nnunet"),
    ),
    (CHECKPOINT, include_bytes!("../corpus/zip/checkpoint")),
];

/// Reads that model with these bytes for its file `name`.
///
/// # Errors
/// Why it cannot be imported.
pub fn nnunet_model(name: &str, bytes: &[u8]) -> Result<()> {
    let model = format!("nnunet-{}", name.replace('/', "-"));
    for (other, content) in NNUNET.iter().filter(|(other, _)| *other != name) {
        once(&format!("{model}/{other}"), content);
    }
    written(&format!("{model}/{name}"), bytes);
    read_model(&folder().join(model)).map(drop)
}

/// `plans.json` of nnU-Net.
pub fn plans_json(bytes: &[u8]) -> usize {
    let _ = nnunet_model("plans.json", bytes);
    0
}

const MANIFEST: &[u8] = include_bytes!("../corpus/model_toml/two_stages");

/// Opens a model with two weight files, and with right checksums where none are given.
///
/// # Errors
/// Why it cannot be used.
pub fn model(manifest: &[u8], sums: Option<&[u8]>) -> Result<()> {
    let names = ["model.toml", "stage1.safetensors", "stage2.safetensors"];
    written("model/model.toml", manifest);
    for name in &names[1..] {
        let weights = include_bytes!("../corpus/safetensors/two");
        once(&format!("model/{name}"), weights);
    }
    let folder = folder().join("model");
    let line = |name: &str| -> Result<String> {
        let sum = file_sha256(&folder.join(name))?;
        Ok(format!("{sum}  {name}\n"))
    };
    let right: Result<String> = names.into_iter().map(line).collect();
    written("model/SHA256SUMS", sums.unwrap_or(right?.as_bytes()));
    Bundle::open(&folder).map(drop)
}

/// `model.toml`, whose checksum is right.
pub fn model_toml(bytes: &[u8]) -> usize {
    let _ = model(bytes, None);
    0
}

/// `SHA256SUMS` of a model.
pub fn sums(bytes: &[u8]) -> usize {
    let _ = model(MANIFEST, Some(bytes));
    0
}
