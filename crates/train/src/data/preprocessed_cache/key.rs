//! The cache key of a preprocessed case: a hash of everything it depends on.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use ctseg_augment::Augmentation;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::dataset::{Dataset, LabelSource};
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::roi::Prior;
use ctseg_core::recipe::Recipe;
use ctseg_image::preprocess::channels::Window;
use ctseg_image::preprocess::normalisation::Normalisation;
use ctseg_image::resample::Interpolation;
use ctseg_image::space::{Grid, VoxelBox};

/// Raise this whenever the same files and recipe give different values than before.
const PREPROCESSING_VERSION: u32 = 1;

/// SHA-256 of everything that a preprocessed case depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(pub(super) [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A case to preprocess.
#[derive(Clone, Copy)]
pub struct CaseRequest<'a> {
    pub dataset: &'a Dataset,
    /// Index in the dataset.
    pub case: usize,
    pub recipe: &'a Recipe,
    pub stage_one: Option<&'a StageOneResult>,
}

impl CaseRequest<'_> {
    /// The cache key; none for cases that are not cached: those without labels, and those of imported models, which are
    /// not trained.
    ///
    /// # Errors
    /// A file cannot be read, or has changed since this process first read it.
    pub(super) fn key(&self, hashes: &FileHashes) -> Result<Option<Key>> {
        let Some(case) = self.dataset.cases.get(self.case) else {
            return Ok(None);
        };
        let hash_of = |path: &Path| self.dataset.copies.read(path, |path| hashes.of(path));
        let mut fields = Fields(Sha256::new());
        fields.add("preparation", &PREPROCESSING_VERSION.to_le_bytes());
        fields.add("ctseg", env!("CARGO_PKG_VERSION").as_bytes());
        fields.add("image", &hash_of(&case.image)?);
        match &case.labels {
            LabelSource::None => return Ok(None),
            LabelSource::Map(path) => fields.add("labels", &hash_of(path)?),
            LabelSource::PerStructure(files) => {
                for (value, path) in files {
                    fields.add(
                        "mask",
                        &[&value.to_le_bytes()[..], &hash_of(path)?].concat(),
                    );
                }
            }
        }
        if let Some(how) = self.dataset.reading.rescale_hu {
            fields.add("rescale_hu", how.to_string().as_bytes());
        }
        if let Some(ignore) = self.dataset.ignore {
            fields.add("ignore", &ignore.to_le_bytes());
        }
        if !fields.add_recipe(self.recipe) {
            return Ok(None);
        }
        if let Some(result) = self.stage_one {
            fields.add_region(&result.region);
            if self.recipe.prior {
                fields.add_prior(&result.prior);
            }
        }
        Ok(Some(Key(fields.0.finalize().into())))
    }

    /// Whether the case's files are unchanged since its key was computed.
    pub(super) fn is_unchanged(&self, hashes: &FileHashes) -> bool {
        let case = &self.dataset.cases[self.case];
        let same = |path: &Path| {
            let known = self.dataset.copies.read(path, |path| hashes.of(path));
            known.is_ok()
        };
        same(&case.image) && case.labels.files().into_iter().all(|path| same(path))
    }
}

/// Hashes named values, each with its length, so that different lists never hash the same bytes.
struct Fields(Sha256);

impl Fields {
    fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Returns false for recipes whose cases are not cached.
    fn add_recipe(&mut self, recipe: &Recipe) -> bool {
        // All fields by name, so that a new field does not compile until it is decided whether it belongs in the key.
        let Recipe {
            prior,
            spacing_mm,
            interpolation,
            windows_hu,
            normalisation,
            training, // only the HU reach: the rest applies after preprocessing
            nnunet,
            name: _,
            stage: _,
            structures: _,
            outputs: _,
            region: _, // the box itself is hashed
            folds: _,
            train_folds: _,
            out_of_fold: _,
            generated_data: _,
            network: _,
            roi: _,
            jitter: _,
            sliding: _,
            postprocessing: _,
            tracking: _,
        } = recipe;
        if nnunet.is_some() {
            return false;
        }
        self.add("prior", &[u8::from(*prior)]);
        self.add("spacing_mm", &spacing_mm.map(f64::to_le_bytes).concat());
        let interpolation = match interpolation {
            Interpolation::Nearest => 0,
            Interpolation::Linear => 1,
            Interpolation::Cubic => 3,
        };
        self.add("interpolation", &[interpolation]);
        for Window { low_hu, high_hu } in windows_hu {
            self.add(
                "window_hu",
                &[*low_hu, *high_hu].map(f32::to_le_bytes).concat(),
            );
        }
        match normalisation {
            Normalisation::Window {} => self.add("normalisation", b"window"),
            Normalisation::Ct { mean_hu, sd_hu } => {
                self.add("normalisation", b"ct");
                self.add(
                    "mean_and_sd_hu",
                    &[*mean_hu, *sd_hu].map(f32::to_le_bytes).concat(),
                );
            }
            Normalisation::ZScore {} => self.add("normalisation", b"z_score"),
        }
        let augmentation = training.augmentation();
        if let Some(reach_hu) = augmentation.and_then(Augmentation::max_hu_change) {
            self.add("reach_hu", &reach_hu.to_le_bytes());
        }
        true
    }

    fn add_region(&mut self, region: &VoxelBox) {
        let VoxelBox { start, end } = region;
        self.add("region", &[start, end].map(indices).concat());
    }

    fn add_prior(&mut self, prior: &Prior) {
        let Grid { shape, affine } = prior.grid;
        self.add("prior_shape", &indices(&shape));
        self.add(
            "prior_affine",
            &affine
                .as_flattened()
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<u8>>(),
        );
        let values: Vec<u8> = prior.quantised().iter().copied().collect();
        self.add("prior_values", &values);
    }
}

fn indices(values: &[usize; 3]) -> Vec<u8> {
    values.map(|value| (value as u64).to_le_bytes()).concat()
}

/// SHA-256 of files, each file read once.
#[derive(Debug, Default)]
pub(super) struct FileHashes(Mutex<HashMap<PathBuf, (FileState, [u8; 32])>>);

/// Detects that a file was changed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileState {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::io(path, "read"))?;
        Ok(Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

impl FileHashes {
    /// The hash of a file.
    ///
    /// # Errors
    /// It cannot be read, or has changed since it was first hashed: this process may hold older data of it.
    fn of(&self, path: &Path) -> Result<[u8; 32]> {
        let state = FileState::of(path)?;
        let changed = || {
            Error::file(
                path,
                "changed while it was in use; do not modify the dataset during training",
            )
        };
        if let Some((known, hash)) = self.lock().get(path) {
            return if *known == state {
                Ok(*hash)
            } else {
                Err(changed())
            };
        }
        let mut hasher = Sha256::new();
        let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
        io::copy(&mut file, &mut hasher).map_err(Error::io(path, "read"))?;
        if FileState::of(path)? != state {
            return Err(changed());
        }
        let hash = hasher.finalize().into();
        self.lock().insert(path.to_path_buf(), (state, hash));
        Ok(hash)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, (FileState, [u8; 32])>> {
        // A panic elsewhere cannot leave the map inconsistent: each update is a single insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
