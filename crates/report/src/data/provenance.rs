//! Provenance of label maps, from their sidecars and the models named there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::evaluation::EvaluationFacts;
use super::run::RunFacts;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::manifest::StageManifest;
use ctseg_core::outputs::sidecar::Sidecar;

/// A model that produced label maps.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    pub path: PathBuf,
    pub sha256: String,
    /// Number of the evaluation's cases that it segmented.
    pub cases: usize,
    /// Current location of the unchanged model.
    pub found: Option<PathBuf>,
    /// Stage numbers and manifests; empty if the model no longer exists or has changed.
    pub stages: Vec<(u8, StageManifest)>,
    /// Why there are no stages.
    pub not_found: Option<String>,
}

/// Combined provenance of an evaluation's label maps.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    pub models: Vec<ModelFacts>,
    pub versions: BTreeSet<String>,
    pub devices: BTreeSet<String>,
    /// Number of label maps without a sidecar, written by another program.
    pub without_sidecar: usize,
    /// Cases and the notes in their sidecars.
    pub notes: Vec<(String, Vec<String>)>,
}

impl Provenance {
    /// Reads the sidecars and the models, and verifies the models' checksums. Models are searched for at the path in
    /// the sidecar (a relative path also below the evaluation's parent folders) and in the output folders of `runs`.
    pub fn of(evaluation: &EvaluationFacts, runs: &[RunFacts]) -> Self {
        let mut all = Self::default();
        for case in &evaluation.table.cases {
            match evaluation.files.sidecar(case) {
                Some(sidecar) => all.add(case, sidecar),
                None => all.without_sidecar += 1,
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
                    not_found: None,
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
                self.not_found = Some("the model no longer exists at this path".to_owned());
            }
            // Held-out predictions contain the hash of one network's weights.
            None => {
                self.not_found = Some(
                    "the model at this path has another checksum: a single fold was used, or it was retrained since"
                        .to_owned(),
                );
            }
        }
    }
}
