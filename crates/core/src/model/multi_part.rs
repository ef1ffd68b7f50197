//! Models of several parts, as TotalSegmentator's: ordinary models in one folder, a manifest that says what their
//! label values become, and optionally a rough model that finds where to look.

pub use super::multi_part_manifest::{
    FORMAT, MANIFEST, OTHERS, PartManifest, PartedManifest, RoughManifest, When,
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
use ctseg_base::atomic_file::{parent_of, refuse_file, write_bytes_atomically};
use ctseg_base::hash::file_sha256;
use ctseg_base::replace_folder::{read_whole, replace_folder, restore};
use ctseg_base::temp_files::temporary_folder;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_image::preprocess::channels::Window;

/// A rough model may be one of several parts itself, whose rough model may be, and no further.
const DEEPEST: usize = 3;

/// A model of several parts on disk, whose manifest has been verified; the parts are when they are opened.
#[derive(Debug, Clone)]
pub struct PartedModel {
    pub path: PathBuf,
    pub manifest: PartedManifest,
    structures: Vec<Structure>,
    /// Of the manifest, which holds those of the parts.
    sum: String,
}

/// The parts that are needed, opened and verified.
pub struct Opened {
    pub(crate) parts: Vec<(PartManifest, Bundle)>,
    pub(crate) rough: Option<(RoughManifest, Box<Models>)>,
    /// Structures that are wanted; all without.
    pub(crate) chosen: Option<BTreeSet<String>>,
}

impl PartedModel {
    /// Whether `path` is the folder of such a model; one that a killed process set aside is put back first.
    pub fn is_at(path: &Path) -> bool {
        let _ = restore(path); // who opens the model says what is wrong
        path.join(MANIFEST).is_file()
    }

    /// Opens a model and verifies its manifest; nothing in it is executed.
    ///
    /// # Errors
    /// A manifest that is missing, changed, not of this format, or does not fit together.
    pub fn open(path: &Path) -> Result<Self> {
        read_whole(path, || Self::read(path))
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
                    "damaged: its SHA-256 is {sum}, {SUMS} says otherwise; import or copy the model again"
                ),
            ));
        }
        let text = read_text(&manifest_path).map_err(Error::io(&manifest_path, "read"))?;
        let manifest: PartedManifest =
            toml::from_str(&text).map_err(|error| Error::file(&manifest_path, one_line(&error)))?;
        if manifest.format != FORMAT {
            return Err(Error::file(
                &manifest_path,
                format!(
                    "format {} is not known; this ctseg reads format {FORMAT}: import the model anew",
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

    /// One hash for the whole model, with all its parts.
    pub fn sha256(&self) -> String {
        format!("{:x}", Sha256::digest(line(&self.sum)))
    }

    /// The final structures, ascending by value.
    pub fn structures(&self) -> &[Structure] {
        &self.structures
    }

    /// Opens and verifies what is needed for `chosen` structures (label values by name), or for all; see [`When`].
    ///
    /// # Errors
    /// A part that is missing, damaged, or another one than the manifest names.
    pub fn opened(&self, chosen: Option<&BTreeMap<String, u16>>) -> Result<Opened> {
        self.opened_at(chosen, 1)
    }

    fn opened_at(&self, chosen: Option<&BTreeMap<String, u16>>, depth: usize) -> Result<Opened> {
        let is_wanted = |part: &&PartManifest| {
            let mut labels = part.labels.values();
            chosen.is_none_or(|chosen| labels.any(|own| chosen.values().any(|one| one == own)))
        };
        let parts = self.manifest.parts.iter().filter(is_wanted);
        let parts = parts.map(|part| Ok((part.clone(), self.part(part)?)));
        let rough = self.manifest.rough.as_ref();
        let rough = rough.filter(|rough| rough.when == When::Always || chosen.is_some());
        let rough = rough.map(|rough| Ok((rough.clone(), Box::new(self.rough(rough, depth)?))));
        Ok(Opened {
            parts: parts.collect::<Result<_>>()?,
            rough: rough.transpose()?,
            chosen: chosen.map(|chosen| chosen.keys().cloned().collect()),
        })
    }

    /// A part's model.
    ///
    /// # Errors
    /// It is missing, damaged, or another one than the manifest names.
    pub fn part(&self, part: &PartManifest) -> Result<Bundle> {
        let bundle = Bundle::open(&self.path.join(&part.folder))?;
        self.check_hash(&part.folder, (&part.sha256, &bundle.sha256()))?;
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
                format!("has no structure with label {from}, which {MANIFEST} names"),
            )),
            None => Ok(bundle),
        }
    }

    fn rough(&self, rough: &RoughManifest, depth: usize) -> Result<Models> {
        let path = self.path.join(&rough.folder);
        let models = if Self::is_at(&path) {
            if depth >= DEEPEST {
                return Err(Error::file(
                    path,
                    "rough models within rough models, too deep",
                ));
            }
            let model = Self::open(&path)?;
            let opened = model.opened_at(None, depth + 1)?;
            Models::Parted(Box::new(model), Some(opened))
        } else {
            Models::Averaged(vec![Bundle::open(&path)?])
        };
        self.check_hash(&rough.folder, (&rough.sha256, &models.sha256()))?;
        let known = models.structures()?;
        let mut named = rough.stands_for.values().flatten();
        match named.find(|name| known.iter().all(|own| own.name != **name)) {
            Some(name) => Err(Error::file(
                path,
                format!("has no structure '{name}', which {MANIFEST} names"),
            )),
            None => Ok(models),
        }
    }

    fn check_hash(&self, folder: &str, (expected, found): (&str, &str)) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(Error::file(
            self.path.join(folder),
            format!(
                "is another model than {MANIFEST} names: its hash is {found}, expected {expected}; import the whole model again"
            ),
        ))
    }

    /// Puts a model together at `path`: `fill` puts the parts' models into the folder that it is given and says what
    /// they are, without hashes. A model of several parts that was there is replaced as a whole: killed at any
    /// moment, there is an old or a new one.
    ///
    /// # Errors
    /// A folder that holds anything but such a model; what `fill` or [`PartedModel::opened`] say.
    pub fn publish(path: &Path, fill: impl FnOnce(&Path) -> Result<PartedManifest>) -> Result<()> {
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

    /// Whether a model can be put at `path`; to be asked before parts are made.
    ///
    /// # Errors
    /// A folder that holds anything but a model of several parts.
    pub fn check_target(path: &Path) -> Result<()> {
        restore(path)?;
        if !path.exists() {
            return Ok(());
        }
        refuse_file(path)?;
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
                    "holds '{other}', which is no part of a model of several parts, and would be replaced as a whole; choose a folder of its own"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// The one line of `SHA256SUMS`.
fn line(sum: &str) -> String {
    format!("{sum}  {MANIFEST}\n")
}

/// Models on disk, verified.
pub enum Models {
    /// One, or several whose logits are averaged.
    Averaged(Vec<Bundle>),
    /// One of several parts, and what is needed of it once that is known.
    Parted(Box<PartedModel>, Option<Opened>),
}

impl Models {
    /// Opens models; those of one that has several parts are opened when [`Models::choose`] says which.
    ///
    /// # Errors
    /// No model, damaged ones, or one of several parts among others.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        if let Some(parted) = paths.iter().find(|path| PartedModel::is_at(path)) {
            return match paths {
                [path] => Ok(Self::Parted(Box::new(PartedModel::open(path)?), None)),
                _ => Err(Error::file(
                    parted,
                    "is a model of several parts, which cannot be averaged with others; expected one --model",
                )),
            };
        }
        let bundles = paths.iter().map(|path| Bundle::open(path));
        Ok(Self::Averaged(bundles.collect::<Result<_>>()?))
    }

    /// The structures that label maps have, ascending by value.
    ///
    /// # Errors
    /// No model, or models of different structures.
    pub fn structures(&self) -> Result<Vec<Structure>> {
        match self {
            Self::Averaged(bundles) => common_structures(bundles),
            Self::Parted(model, _) => Ok(model.structures().to_vec()),
        }
    }

    /// Opens what is needed for `chosen` structures (label values by name), or for all.
    pub fn choose(&mut self, chosen: Option<&BTreeMap<String, u16>>) -> Result<()> {
        if let Self::Parted(model, opened) = self {
            *opened = Some(model.opened(chosen)?);
        }
        Ok(())
    }

    /// Each of them, with its hash.
    pub fn used(&self) -> Vec<ModelUsed> {
        match self {
            Self::Averaged(bundles) => {
                let used = bundles.iter().map(|bundle| ModelUsed {
                    model: bundle.path.clone(),
                    sha256: bundle.sha256(),
                });
                used.collect()
            }
            Self::Parted(model, _) => vec![ModelUsed {
                model: model.path.clone(),
                sha256: model.sha256(),
            }],
        }
    }

    /// The hash of the one model, or one that follows from those of all.
    pub fn sha256(&self) -> String {
        match self.used().as_slice() {
            [one] => one.sha256.clone(),
            several => {
                let hashes: Vec<&str> = several.iter().map(|model| model.sha256.as_str()).collect();
                format!("{:x}", Sha256::digest(hashes.join("\n")))
            }
        }
    }

    /// From the lowest to the highest of the Hounsfield units that any network sees; none of models of other images than
    /// CT. A model of several parts knows once they are [chosen](Models::choose).
    pub fn ct_window(&self) -> Option<Window> {
        let bundles: Vec<&Bundle> = match self {
            Self::Averaged(bundles) => bundles.iter().collect(),
            Self::Parted(_, opened) => {
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

    /// Whether the models give probabilities of all structures together; a model of several parts does not.
    pub fn tells_probabilities(&self) -> bool {
        matches!(self, Self::Averaged(_))
    }
}
