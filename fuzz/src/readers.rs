//! The readers of foreign bytes, one function each. The targets call them under libFuzzer, and ordinary tests with the
//! files in `corpus/` (`tests/end_to_end/fuzz_corpus.rs`).

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ctseg::cli::config::Config;
use ctseg_core::dataset::{Dataset, DatasetImages};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::outputs::probabilities_reader::ProbabilityReader;
use ctseg_core::outputs::sidecar::{found_at, sidecar_path};
use ctseg_core::recipe::Recipe;
use ctseg_image::formats::{OpenVolume, Source, from_reader};
use ctseg_image::nifti::NiftiHeader;
use ctseg_image::space::Grid;
use ctseg_predict::claims::survey::Survey;

/// Reads bytes; how many more they declare, decoded, that were read. A reader that refuses them has done right.
pub type Reader = fn(&[u8]) -> usize;

/// All of them by their targets' names.
#[allow(dead_code)] // the targets name their own
pub const ALL: [(&str, Reader); 12] = [
    ("nifti_header", nifti_header),
    ("nifti_voxels", nifti_voxels),
    ("gzip", gzip),
    ("label_names", label_names),
    ("npy", npy),
    ("dataset_json", dataset_json),
    ("descriptor", descriptor),
    ("recipe", recipe),
    ("config", config),
    ("sums", sums),
    ("sidecar", sidecar),
    ("claims", claims),
];

/// Volumes that declare more are not read here.
const MOST_DECODED: usize = 16 << 20;

const NAME: &str = "input.nii.gz";

/// A folder of this thread's own, for readers of files.
fn folder() -> PathBuf {
    thread_local!(static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let made = || tempfile::tempdir().expect("a temporary folder");
        folder.get_or_init(made).path().to_path_buf()
    })
}

/// A file of that folder with this content.
fn written(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a temporary folder");
    }
    fs::write(&path, bytes).expect("a temporary file");
    path
}

/// An empty file of that folder, made once.
fn empty(name: &str) {
    if !folder().join(name).exists() {
        written(name, b"");
    }
}

fn volume(bytes: &[u8], is_length_known: bool) -> Option<OpenVolume<'_>> {
    let length = is_length_known.then_some(bytes.len() as u64);
    from_reader(bytes, Path::new(NAME), length).ok()
}

pub fn nifti_header(bytes: &[u8]) -> usize {
    for is_length_known in [true, false] {
        let _ = volume(bytes, is_length_known).map(OpenVolume::read_header);
    }
    0
}

/// Intensities, labels and runs of labels.
pub fn nifti_voxels(bytes: &[u8]) -> usize {
    let header = volume(bytes, true).and_then(|volume| volume.read_header().ok());
    let Some(voxels) = header.map(|header| header.grid.voxels()) else {
        return 0;
    };
    let decoded = voxels.saturating_mul(size_of::<f32>());
    if decoded > MOST_DECODED {
        return 0;
    }
    for is_length_known in [true, false] {
        let open = || volume(bytes, is_length_known);
        let _ = open().map(OpenVolume::read_volume);
        let _ = open().map(OpenVolume::read_label_map);
        let _ = open().map(OpenVolume::read_label_runs);
    }
    decoded
}

/// Members of gzip data and what follows them; plain bytes pass through.
pub fn gzip(bytes: &[u8]) -> usize {
    let length = Some(bytes.len() as u64);
    let Ok(mut source) = Source::from_reader(bytes, Path::new(NAME), length) else {
        return 0;
    };
    let mut piece = vec![0; 1 << 16];
    while source.position() < MOST_DECODED as u64 {
        match source.fill(&mut piece) {
            Ok(found) if found == piece.len() => {}
            Ok(_) => break,
            Err(_) => return source.position() as usize,
        }
    }
    let _ = source.end();
    source.position() as usize
}

/// Extensions between the header and the voxels of a label map.
pub fn label_names(bytes: &[u8]) -> usize {
    let grid = Grid::with_spacing([1, 1, 1], [1.0; 3]);
    let header = NiftiHeader::for_grid(&grid).expect("a header of one voxel");
    let mut file = header.raw_bytes()[..348].to_vec();
    let first_voxel = (352 + bytes.len()) as f32;
    file[108..112].copy_from_slice(&first_voxel.to_le_bytes());
    file.extend([1, 0, 0, 0]);
    file.extend(bytes);
    file.extend([0; 8]);
    let _ = volume(&file, true).map(OpenVolume::read_label_names);
    0
}

/// Probabilities of 16-bit reals in NumPy's format.
pub fn npy(bytes: &[u8]) -> usize {
    let path = written("case_probabilities.npy", bytes);
    if let Ok(reader) = ProbabilityReader::open_array(&path) {
        let _ = reader.each_slice(|_, _, _| {});
    }
    0
}

/// `dataset.json` of nnU-Net and of the Decathlon, in a folder with two cases.
pub fn dataset_json(bytes: &[u8]) -> usize {
    let cases = [
        "imagesTr/a_0000.nii",
        "imagesTr/b_0000.nii",
        "imagesTs/c_0000.nii",
    ];
    for name in cases
        .into_iter()
        .chain(["labelsTr/a.nii", "labelsTr/b.nii"])
    {
        empty(&format!("dataset/{name}"));
    }
    written("dataset/dataset.json", bytes);
    let folder = folder().join("dataset");
    let _ = Dataset::open(&folder);
    let _ = DatasetImages::of_folder(&folder);
    0
}

pub fn descriptor(bytes: &[u8]) -> usize {
    for name in [
        "images/a.nii",
        "images/b.nii",
        "labels/a.nii",
        "labels/b.nii",
    ] {
        empty(&format!("described/{name}"));
    }
    let path = written("described/dataset.toml", bytes);
    let _ = Dataset::open(&path);
    let _ = DatasetImages::of_descriptor(&path, None);
    0
}

pub fn recipe(bytes: &[u8]) -> usize {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Recipe::parsed(text, "recipe.toml", &[]);
    }
    0
}

/// `ctseg.toml`.
pub fn config(bytes: &[u8]) -> usize {
    let path = written("ctseg.toml", bytes);
    let _ = Config::read(Some(&path));
    0
}

/// `SHA256SUMS` of a model.
pub fn sums(bytes: &[u8]) -> usize {
    written("model/model.toml", b"format = 1\n");
    empty("model/stage1.safetensors");
    written("model/SHA256SUMS", bytes);
    let _ = Bundle::open(&folder().join("model"));
    0
}

/// `CASE.json` beside a label map.
pub fn sidecar(bytes: &[u8]) -> usize {
    let label_map = folder().join("out/case.nii.gz");
    let name = sidecar_path(&label_map);
    let name = name.strip_prefix(folder()).unwrap_or(&name);
    written(&name.to_string_lossy(), bytes);
    let _ = found_at(&label_map);
    0
}

/// A folder of claims: a process, a claim and a mark.
pub fn claims(bytes: &[u8]) -> usize {
    for name in ["process-01234567-1-2.0", "case.claim-1", "case.json"] {
        written(&format!("claims/{name}"), bytes);
    }
    let expiry = Duration::from_secs(600);
    let folder = folder().join("claims");
    if let Ok(survey) = Survey::read(&folder, "way", expiry, SystemTime::now()) {
        let _ = (survey.settled("case"), survey.held("case"));
    }
    0
}
