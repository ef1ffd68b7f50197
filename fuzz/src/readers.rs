//! The readers of foreign bytes, one function each. The targets call them under libFuzzer, and ordinary tests with the
//! files in `corpus/` (`tests/end_to_end/fuzz_corpus.rs`).

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use ctseg::cli::config::Config;
use ctseg_core::dataset::{Dataset, DatasetImages};
use ctseg_core::outputs::probabilities_reader::ProbabilityReader;
use ctseg_core::outputs::sidecar::{find_sidecar, sidecar_path};
use ctseg_core::recipe::Recipe;
use ctseg_http::{ErrorResponse, parse_retry_after};
use ctseg_image::formats::{Source, VolumeReader, from_reader};
use ctseg_image::nifti::NiftiHeader;
use ctseg_image::space::Grid;
use ctseg_predict::claims::survey::Survey;
use ctseg_tracking::mlflow::api::{parse_experiment, parse_model, parse_run};
use ctseg_tracking::mlflow::artifacts::{Multipart, Store, presigned_target};
use ctseg_tracking::mlflow::http::Http;
use ctseg_tracking::mlflow::settings::{Preferences, Server};

// By its path: ordinary tests have this file elsewhere among their modules.
#[path = "models.rs"]
pub mod models;

pub use models::{model_toml, pickle, plans_json, safetensors, sums, zip};

use models::nnunet_model;

/// Reads bytes; how many more they declare, decoded, that were read. A reader that refuses them has done right.
pub type Reader = fn(&[u8]) -> usize;

/// All of them by their targets' names.
#[allow(dead_code)] // the targets name their own
pub const ALL: [(&str, Reader); 18] = [
    ("nifti_header", nifti_header),
    ("nifti_voxels", nifti_voxels),
    ("gzip", gzip),
    ("label_names", label_names),
    ("npy", npy),
    ("pickle", pickle),
    ("zip", zip),
    ("safetensors", safetensors),
    ("plans_json", plans_json),
    ("dataset_json", dataset_json),
    ("descriptor", descriptor),
    ("recipe", recipe),
    ("config", config),
    ("model_toml", model_toml),
    ("sums", sums),
    ("sidecar", sidecar),
    ("claims", claims),
    ("mlflow_reply", mlflow_reply),
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

/// The same with content that never changes.
fn once(name: &str, bytes: &[u8]) {
    if !folder().join(name).exists() {
        written(name, bytes);
    }
}

fn volume(bytes: &[u8], is_length_known: bool) -> Option<VolumeReader<'_>> {
    let length = is_length_known.then_some(bytes.len() as u64);
    from_reader(bytes, Path::new(NAME), length).ok()
}

pub fn nifti_header(bytes: &[u8]) -> usize {
    for is_length_known in [true, false] {
        let _ = volume(bytes, is_length_known).map(VolumeReader::read_header);
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
        let _ = open().map(VolumeReader::read_volume);
        let _ = open().map(VolumeReader::read_label_map);
        let _ = open().map(VolumeReader::read_label_runs);
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
    let _ = volume(&file, true).map(VolumeReader::read_label_names);
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

/// `dataset.json` of nnU-Net and of the Decathlon, in a folder with two cases, and beside a model.
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
        once(&format!("dataset/{name}"), b"");
    }
    let _ = nnunet_model("dataset.json", bytes);
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
        once(&format!("described/{name}"), b"");
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

/// `CASE.json` beside a label map.
pub fn sidecar(bytes: &[u8]) -> usize {
    let label_map = folder().join("out/case.nii.gz");
    let name = sidecar_path(&label_map);
    let name = name.strip_prefix(folder()).unwrap_or(&name);
    written(&name.to_string_lossy(), bytes);
    let _ = find_sidecar(&label_map);
    0
}

/// A folder of claims: a process, a claim and a mark.
pub fn claims(bytes: &[u8]) -> usize {
    // The names that the case `case` has there.
    let names = [
        "process-01234567-1-2.0",
        "case.bbfcd4160a1e.claim-1",
        "case.bbfcd4160a1e.json",
    ];
    for name in names {
        written(&format!("claims/{name}"), bytes);
    }
    let expiry = Duration::from_secs(600);
    let folder = folder().join("claims");
    if let Ok(survey) = Survey::read(&folder, "way", expiry, SystemTime::now()) {
        let _ = (survey.settled("case"), survey.held("case"));
    }
    0
}

/// Answers of an MLflow server, good and bad, and the places for files that they name. No server is asked.
pub fn mlflow_reply(bytes: &[u8]) -> usize {
    static HTTP: OnceLock<Http> = OnceLock::new();
    let http = HTTP.get_or_init(|| {
        let preferences = Preferences {
            uri: Some("http://127.0.0.1:1/mlflow".to_owned()),
            artifact_root: Some(std::env::temp_dir()),
            ..Preferences::default()
        };
        let server = Server::find(&preferences, &|_: &str| None);
        let server = server.expect("an address").expect("an address");
        Http::open(&server).expect("a client")
    });
    let text = String::from_utf8_lossy(bytes);
    for status in [302, 400, 401, 403, 404, 429, 503] {
        let answer = ErrorResponse {
            status,
            body: bytes.to_vec(),
            location: text.clone().into_owned(),
            retry_after: parse_retry_after(&text),
        };
        let _ = http.fault(&answer).to_string();
    }
    let Ok(reply) = http.parse_body(bytes) else {
        return 0;
    };
    let _ = parse_experiment(&reply["experiment"]);
    let (run, model) = (parse_run(&reply["run"]), parse_model(&reply["model"]));
    for uri in [run.artifact_uri, model.artifact_uri] {
        let _ = Store::open(http, &uri, Multipart::default()).map(|store| store.risk());
    }
    for credential in reply["credentials"].as_array().into_iter().flatten() {
        let _ = presigned_target(http, credential);
    }
    0
}
