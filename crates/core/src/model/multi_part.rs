//! Multi-part models, such as TotalSegmentator's: ordinary models in one folder, a manifest that maps their labels to
//! the final ones, and optionally a rough model that finds the region to segment.

pub use super::multi_part_manifest::{
    FORMAT, MANIFEST, MultiPartManifest, OTHERS, PartManifest, RoughManifest, When,
};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bundle::Bundle;
use super::common::common_structures;
use super::folder::SUMS;
use super::identity::ModelUsed;
use super::manifest::StageManifest;
use crate::dataset::Structure;
use crate::recipe::one_line;
use ctseg_base::atomic_file::{ensure_not_file, parent_of, write_bytes_atomically};
use ctseg_base::hash::file_sha256;
use ctseg_base::replace_folder::{read_consistent, replace_folder, restore};
use ctseg_base::temp_files::temporary_folder;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_image::preprocess::channels::Window;

/// Largest depth of rough models: a rough model may have several parts and a rough model itself.
const MAX_DEPTH: usize = 3;

/// A multi-part model on disk with a verified manifest; parts are verified when they are opened.
#[derive(Debug, Clone)]
pub struct MultiPartModel {
    pub path: PathBuf,
    pub manifest: MultiPartManifest,
    structures: Vec<Structure>,
    /// SHA-256 of the manifest, which includes the hashes of the parts.
    sum: String,
}

/// The required parts, opened and verified.
pub struct OpenedParts {
    pub(crate) parts: Vec<(PartManifest, Bundle)>,
    pub(crate) rough: Option<(RoughManifest, Box<Models>)>,
    /// The chosen structures; `None` for all.
    pub(crate) chosen: Option<BTreeSet<String>>,
}

impl MultiPartModel {
    /// Whether `path` is a multi-part model; one that a killed process moved aside is restored first.
    pub fn is_at(path: &Path) -> bool {
        let _ = restore(path); // opening the model reports the error
        path.join(MANIFEST).is_file()
    }

    /// Opens a model and verifies its manifest; nothing in it is executed.
    ///
    /// # Errors
    /// The manifest is missing, changed, inconsistent, or has another format.
    pub fn open(path: &Path) -> Result<Self> {
        read_consistent(path, || Self::read(path))
    }

    fn read(path: &Path) -> Result<Self> {
        let manifest_path = path.join(MANIFEST);
        let sum = file_sha256(&manifest_path)?;
        let sums_path = path.join(SUMS);
        let text = read_text(&sums_path).map_err(Error::io(&sums_path, "read"))?;
        if text != line(&sum) {
            return Err(Error::file(
                &manifest_path,
                format!(
                    "damaged: its SHA-256 is {sum}, which differs from {SUMS}; import or copy the model again"
                ),
            ));
        }
        let text = read_text(&manifest_path).map_err(Error::io(&manifest_path, "read"))?;
        let manifest: MultiPartManifest =
            toml::from_str(&text).map_err(|error| Error::file(&manifest_path, one_line(&error)))?;
        if manifest.format != FORMAT {
            return Err(Error::file(
                &manifest_path,
                format!(
                    "unknown format {}; this version of ctseg reads format {FORMAT}: import the model again",
                    manifest.format
                ),
            ));
        }
        if let Some(problem) = manifest.problem() {
            return Err(Error::file(&manifest_path, problem));
        }
        let structures = manifest
            .structures()
            .map_err(|problem| Error::file(&manifest_path, problem))?;
        Ok(Self {
            path: path.to_path_buf(),
            manifest,
            structures,
            sum,
        })
    }

    /// The hash of the whole model, including all parts.
    pub fn sha256(&self) -> String {
        format!("{:x}", Sha256::digest(line(&self.sum)))
    }

    /// The final structures, ascending by value.
    pub fn structures(&self) -> &[Structure] {
        &self.structures
    }

    /// Opens and verifies the parts that `chosen` structures (label values by name) need; `None` for all. See [`When`].
    ///
    /// # Errors
    /// A part is missing, damaged, or not the one in the manifest.
    pub fn open_parts(&self, chosen: Option<&BTreeMap<String, u16>>) -> Result<OpenedParts> {
        self.open_parts_at(chosen, 1)
    }

    fn open_parts_at(
        &self,
        chosen: Option<&BTreeMap<String, u16>>,
        depth: usize,
    ) -> Result<OpenedParts> {
        let is_wanted = |part: &&PartManifest| {
            let mut labels = part.labels.values();
            chosen.is_none_or(|chosen| labels.any(|own| chosen.values().any(|one| one == own)))
        };
        let parts = self.manifest.parts.iter().filter(is_wanted);
        let parts = parts.map(|part| Ok((part.clone(), self.part(part)?)));
        let rough = self.manifest.rough.as_ref();
        let rough = rough.filter(|rough| rough.when == When::Always || chosen.is_some());
        let rough = rough.map(|rough| Ok((rough.clone(), Box::new(self.rough(rough, depth)?))));
        Ok(OpenedParts {
            parts: parts.collect::<Result<_>>()?,
            rough: rough.transpose()?,
            chosen: chosen.map(|chosen| chosen.keys().cloned().collect()),
        })
    }

    /// A part's model.
    ///
    /// # Errors
    /// It is missing, damaged, or not the one in the manifest.
    pub fn part(&self, part: &PartManifest) -> Result<Bundle> {
        let bundle = Bundle::open(&self.path.join(&part.folder))?;
        self.check_hash(&part.folder, &part.sha256, &bundle.sha256())?;
        let structures = bundle.structures()?;
        let lookup = part
            .lookup()
            .map_err(|problem| Error::file(self.path.join(MANIFEST), problem))?;
        let unknown = lookup
            .iter()
            .find(|(from, _)| structures.iter().all(|own| own.value != *from));
        match unknown {
            Some((from, _)) => Err(Error::file(
                &bundle.path,
                format!("has no structure with label {from}, which {MANIFEST} refers to"),
            )),
            None => Ok(bundle),
        }
    }

    fn rough(&self, rough: &RoughManifest, depth: usize) -> Result<Models> {
        let path = self.path.join(&rough.folder);
        let models = if Self::is_at(&path) {
            if depth >= MAX_DEPTH {
                return Err(Error::file(path, "rough models are nested too deeply"));
            }
            let model = Self::open(&path)?;
            let opened = model.open_parts_at(None, depth + 1)?;
            Models::MultiPart(Box::new(model), Some(opened))
        } else {
            Models::Ensemble(vec![Bundle::open(&path)?])
        };
        self.check_hash(&rough.folder, &rough.sha256, &models.sha256())?;
        let known = models.structures()?;
        let mut named = rough.stands_for.values().flatten();
        match named.find(|name| known.iter().all(|own| own.name != **name)) {
            Some(name) => Err(Error::file(
                path,
                format!("has no structure '{name}', which {MANIFEST} refers to"),
            )),
            None => Ok(models),
        }
    }

    fn check_hash(&self, folder: &str, expected: &str, found: &str) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(Error::file(
            self.path.join(folder),
            format!(
                "is not the model in {MANIFEST}: its hash is {found}, expected {expected}; import the whole model again"
            ),
        ))
    }

    /// Creates a model at `path`: `fill` writes the parts' models into the folder that it is given and returns the
    /// manifest without hashes. An existing multi-part model is replaced atomically: a killed process leaves either
    /// the old or the new one.
    ///
    /// # Errors
    /// The folder contains something other than a multi-part model; errors of `fill` and
    /// [`MultiPartModel::open_parts`].
    pub fn publish(
        path: &Path,
        fill: impl FnOnce(&Path) -> Result<MultiPartManifest>,
    ) -> Result<()> {
        Self::check_target(path)?;
        let fresh = temporary_folder(parent_of(path))?;
        let mut manifest = fill(fresh.path())?;
        for part in &mut manifest.parts {
            part.sha256 = Bundle::open(&fresh.path().join(&part.folder))?.sha256();
        }
        if let Some(rough) = &mut manifest.rough {
            rough.sha256 = Models::open(&[fresh.path().join(&rough.folder)])?.sha256();
        }
        let text = toml::to_string(&manifest)
            .map_err(|error| Error::file(path, format!("cannot write {MANIFEST}: {error}")))?;
        let manifest_path = fresh.path().join(MANIFEST);
        write_bytes_atomically(&manifest_path, text.as_bytes())?;
        let sums = line(&file_sha256(&manifest_path)?);
        write_bytes_atomically(&fresh.path().join(SUMS), sums.as_bytes())?;
        let model = Self::open(fresh.path())?;
        for part in &model.manifest.parts {
            model.part(part)?;
        }
        if let Some(rough) = &model.manifest.rough {
            model.rough(rough, 1)?;
        }
        replace_folder(fresh, path)
    }

    /// Checks that a model can be created at `path`; call it before the parts are made.
    ///
    /// # Errors
    /// The folder contains something other than a multi-part model.
    pub fn check_target(path: &Path) -> Result<()> {
        restore(path)?;
        if !path.exists() {
            return Ok(());
        }
        ensure_not_file(path)?;
        let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let names: Vec<String> = names.collect();
        let own: BTreeSet<String> = match Self::open(path) {
            Ok(old) => {
                let parts = old.manifest.parts.into_iter().map(|part| part.folder);
                let rough = old.manifest.rough.map(|rough| rough.folder);
                let files = [MANIFEST, SUMS].map(str::to_owned);
                parts.chain(rough).chain(files).collect()
            }
            Err(_) => BTreeSet::new(),
        };
        match names.iter().find(|name| !own.contains(*name)) {
            Some(other) => Err(Error::file(
                path,
                format!(
                    "contains '{other}', which does not belong to a multi-part model and would be deleted; choose a separate folder"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// The only line of `SHA256SUMS`.
fn line(sum: &str) -> String {
    format!("{sum}  {MANIFEST}\n")
}

/// Models on disk, verified.
pub enum Models {
    /// One model, or several whose logits are averaged.
    Ensemble(Vec<Bundle>),
    /// A multi-part model, and its required parts once they are chosen.
    MultiPart(Box<MultiPartModel>, Option<OpenedParts>),
}

impl Models {
    /// Opens models; the parts of a multi-part model are opened by [`Models::choose`].
    ///
    /// # Errors
    /// No model; damaged models; a multi-part model among several.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        if let Some(multi_part) = paths.iter().find(|path| MultiPartModel::is_at(path)) {
            return match paths {
                [path] => Ok(Self::MultiPart(Box::new(MultiPartModel::open(path)?), None)),
                _ => Err(Error::file(
                    multi_part,
                    "is a multi-part model, which cannot be part of an ensemble; pass it as the only --model",
                )),
            };
        }
        let bundles = paths.iter().map(|path| Bundle::open(path));
        Ok(Self::Ensemble(bundles.collect::<Result<_>>()?))
    }

    /// The structures of the label maps, ascending by value.
    ///
    /// # Errors
    /// No model, or models with different structures.
    pub fn structures(&self) -> Result<Vec<Structure>> {
        match self {
            Self::Ensemble(bundles) => common_structures(bundles),
            Self::MultiPart(model, _) => Ok(model.structures().to_vec()),
        }
    }

    /// Opens the parts that `chosen` structures (label values by name) need; `None` for all.
    pub fn choose(&mut self, chosen: Option<&BTreeMap<String, u16>>) -> Result<()> {
        if let Self::MultiPart(model, opened) = self {
            *opened = Some(model.open_parts(chosen)?);
        }
        Ok(())
    }

    /// The models with their hashes.
    pub fn used(&self) -> Vec<ModelUsed> {
        match self {
            Self::Ensemble(bundles) => {
                let used = bundles.iter().map(|bundle| ModelUsed {
                    model: bundle.path.clone(),
                    sha256: bundle.sha256(),
                });
                used.collect()
            }
            Self::MultiPart(model, _) => vec![ModelUsed {
                model: model.path.clone(),
                sha256: model.sha256(),
            }],
        }
    }

    /// The hash of the model, or one derived from those of all models.
    pub fn sha256(&self) -> String {
        match self.used().as_slice() {
            [one] => one.sha256.clone(),
            several => {
                let hashes: Vec<&str> = several.iter().map(|model| model.sha256.as_str()).collect();
                format!("{:x}", Sha256::digest(hashes.join("\n")))
            }
        }
    }

    /// The range of Hounsfield units that any network uses; `None` for models of images other than CT. For a multi-part
    /// model only known after [`Models::choose`].
    pub fn ct_window(&self) -> Option<Window> {
        let bundles: Vec<&Bundle> = match self {
            Self::Ensemble(bundles) => bundles.iter().collect(),
            Self::MultiPart(_, opened) => {
                let parts = opened.iter().flat_map(|opened| &opened.parts);
                parts.map(|(_, bundle)| bundle).collect()
            }
        };
        let stages = bundles
            .into_iter()
            .flat_map(|bundle| [bundle.stage(1), bundle.stage(2)])
            .flatten();
        let window = |stage: &StageManifest| match &stage.channel {
            Some(_) => None,
            None => stage.recipe.ct_window(),
        };
        let windows = stages.map(window).collect::<Option<Vec<Window>>>()?;
        windows.into_iter().reduce(|a, b| Window {
            low_hu: a.low_hu.min(b.low_hu),
            high_hu: a.high_hu.max(b.high_hu),
        })
    }

    /// Whether one network gives the probabilities of all structures; not so in a multi-part model.
    pub fn has_probabilities(&self) -> bool {
        matches!(self, Self::Ensemble(_))
    }
}
