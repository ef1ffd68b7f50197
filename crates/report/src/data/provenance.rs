//! What label maps were made by, from their sidecars and the models that these name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::evaluation::EvaluationFacts;
use super::run::RunFacts;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::manifest::StageManifest;
use ctseg_core::outputs::sidecar::Sidecar;

/// A model that label maps were made by.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    pub path: PathBuf,
    pub sha256: String,
    /// How many of the evaluation's cases it segmented.
    pub cases: usize,
    /// Where the model lies now, unchanged.
    pub found: Option<PathBuf>,
    /// Stages with the number of each; empty where the model is not there any more, or is another one now.
    pub stages: Vec<(u8, StageManifest)>,
    /// Why there are none.
    pub unknown: Option<String>,
}

/// What the sidecars of an evaluation's label maps say together.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    pub models: Vec<ModelFacts>,
    pub versions: BTreeSet<String>,
    pub devices: BTreeSet<String>,
    /// Cases whose label maps have no sidecar: of another program.
    pub foreign: usize,
    /// Cases with what was remarked on while they were segmented.
    pub notes: Vec<(String, Vec<String>)>,
}

impl Provenance {
    /// Reads the sidecars, and the models (whose checksums are verified): where the sidecars say, below the folders
    /// around the evaluation where that is relative, or at one of the places that `runs` trained into.
    pub fn of(evaluation: &EvaluationFacts, runs: &[RunFacts]) -> Self {
        let mut all = Self::default();
        for case in &evaluation.table.cases {
            match evaluation.places.sidecar(case) {
                Some(sidecar) => all.add(case, sidecar),
                None => all.foreign += 1,
            }
        }
        let trained = runs.iter().filter_map(|run| run.known.as_ref());
        let trained: Vec<&PathBuf> = trained.map(|(_, settings)| &settings.model).collect();
        let around = evaluation.folder.canonicalize().unwrap_or_default();
        for model in &mut all.models {
            let mut places = vec![model.path.clone()];
            if model.path.is_relative() {
                places.extend(around.ancestors().map(|folder| folder.join(&model.path)));
            }
            places.extend(trained.iter().copied().cloned());
            model.look_up(&places);
        }
        all
    }

    fn add(&mut self, case: &str, sidecar: Sidecar) {
        self.versions.insert(sidecar.ctseg_version);
        self.devices.insert(sidecar.device);
        if !sidecar.notes.is_empty() {
            self.notes.push((case.to_owned(), sidecar.notes));
        }
        let mut used: Vec<(PathBuf, String)> = sidecar
            .ensemble
            .into_iter()
            .map(|model| (model.model, model.sha256))
            .collect();
        if used.is_empty() {
            used.push((sidecar.model, sidecar.model_sha256));
        }
        for (path, sha256) in used {
            let mut known = self.models.iter_mut();
            match known.find(|model| model.path == path && model.sha256 == sha256) {
                Some(model) => model.cases += 1,
                None => self.models.push(ModelFacts {
                    path,
                    sha256,
                    cases: 1,
                    found: None,
                    stages: Vec::new(),
                    unknown: None,
                }),
            }
        }
    }
}

impl ModelFacts {
    fn look_up(&mut self, places: &[PathBuf]) {
        let bundles = places.iter().filter(|path| path.is_dir());
        let bundles: Vec<Bundle> = bundles.filter_map(|path| Bundle::open(path).ok()).collect();
        match bundles.iter().find(|bundle| bundle.sha256() == self.sha256) {
            Some(bundle) => {
                let stages = [1, 2].map(|stage| Some((stage, bundle.stage(stage)?.clone())));
                self.stages = stages.into_iter().flatten().collect();
                self.found = Some(bundle.path.clone());
            }
            None if bundles.is_empty() => {
                self.unknown = Some("the model is not at this path any more".to_owned());
            }
            // Held-out predictions bear a hash of one network's weights.
            None => {
                self.unknown = Some(
                    "the model at this path has another checksum: a single fold of it, or trained again since"
                        .to_owned(),
                );
            }
        }
    }
}
