//! Reports a fit to trackers, apart from its epochs and steps.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::job::{FitJob, FitSummary};
use crate::diagnosis;
use ctseg_base::Result;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::progress::Observer;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::recipe::TrackedCheckpoints;
use ctseg_core::recipe::layer_table;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_core::run::data::RunData;
use ctseg_core::run::folder::{PLOTS, RunFolder};
use ctseg_core::run::metric_names::sanitised;
use ctseg_core::run::tracker::{DatasetInput, Event, Point, Tracker, TrainedModel};
use ctseg_core::run::{history, parameters};

/// The network's layers in a run folder.
const LAYERS: &str = "network.txt";

/// Reports one run to its trackers. Errors of trackers become warnings and never end a training.
pub(super) struct FitReporter<'a> {
    pub job: &'a FitJob<'a>,
    pub run: &'a RunFolder,
    pub tracker: &'a dyn Tracker,
    pub observer: &'a dyn Observer,
    pub data: &'a RunData,
}

impl FitReporter<'_> {
    /// Reports parameters, tags, datasets and the network when a run starts or resumes.
    ///
    /// # Errors
    /// Those that the training itself would meet: data that cannot be read or split, an invalid network.
    pub(super) fn run_started(&self) -> Result<()> {
        let mut parameters = parameters::of_recipe(&self.job.recipe)?;
        parameters.push(("seed".to_owned(), self.job.seed.to_string()));
        self.tracker.log_event(&Event::Parameters(parameters))?;
        self.tracker.log_event(&Event::Tags(self.tags()))?;
        self.datasets()?;
        self.write_layers()?;
        self.files("", &["recipe.toml", LAYERS])
    }

    /// Reports the checkpoint and plots of a trained fold.
    pub(super) fn fold_trained(&self, fold: usize) {
        let checkpoints = self.run.checkpoints(fold);
        let checkpoint = match self.job.recipe.tracking.checkpoints {
            TrackedCheckpoints::None => None,
            TrackedCheckpoints::Best => Some(checkpoints.best()),
            TrackedCheckpoints::Last => Some(checkpoints.last()),
        };
        if let Some(path) = checkpoint {
            self.or_warn(|| self.file(&path, &format!("checkpoints/fold_{fold}")));
        }
        self.or_warn(|| self.file(&self.run.path().join(PLOTS), ""));
    }

    /// Reports results and model once the stage is published.
    pub(super) fn published(&self, summary: &FitSummary) {
        self.or_warn(|| self.results(summary));
        self.or_warn(|| self.model());
    }

    /// Reports the run's files, however it ended.
    pub(super) fn run_ended(&self) {
        let results = [history::FILE, diagnosis::FILE, "postprocessing.json"];
        self.or_warn(|| self.files("", &results));
        let out_of_fold = ["out_of_fold/summary.json", "out_of_fold/metrics.csv"];
        self.or_warn(|| self.files("out_of_fold", &out_of_fold));
        self.or_warn(|| self.file(&self.run.path().join(PLOTS), ""));
        self.or_warn(|| self.files("", &["log.txt"]));
    }

    fn or_warn(&self, report: impl FnOnce() -> Result<()>) {
        if let Err(error) = report() {
            self.observer.warn(&format!("not tracked: {error}"));
        }
    }

    fn tags(&self) -> Vec<(String, String)> {
        let job = self.job;
        let recipe = &job.recipe;
        let folds = recipe.trained_folds();
        let folds: Vec<String> = folds.iter().map(usize::to_string).collect();
        let own = [
            ("ctseg.kind", "fit".to_owned()),
            ("ctseg.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("ctseg.stage", recipe.stage.to_string()),
            ("ctseg.recipe", recipe.name.clone()),
            ("ctseg.folds", folds.join(",")),
            ("ctseg.dataset", job.dataset.name.clone()),
            ("ctseg.engine", job.compute.to_string()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        [job.tags.clone(), own.to_vec()].concat()
    }

    fn datasets(&self) -> Result<()> {
        let job = self.job;
        let source = std::path::absolute(&job.dataset_path);
        let source = source.unwrap_or_else(|_| job.dataset_path.clone());
        let used = |context: &str, digest: String, cases: usize| {
            Event::Dataset(DatasetInput {
                name: job.dataset.name.clone(),
                digest,
                source: source.display().to_string(),
                context: context.to_owned(),
                cases,
            })
        };
        let all = job.dataset.training_cases().len();
        let digest = self.data.content.sha256();
        self.tracker.log_event(&used("training", digest, all))?;
        // Digest of the data fingerprint and of the held-out cases of each trained fold.
        let mut hasher = Sha256::new();
        hasher.update(self.data.content.sha256());
        let mut cases = BTreeSet::new();
        for fold in job.recipe.trained_folds() {
            let split = self.data.splits.folds.get(fold);
            for case in split.iter().flat_map(|split| &split.validation) {
                hasher.update(format!("{fold}\0{case}\0"));
                cases.insert(case);
            }
        }
        let digest = format!("{:x}", hasher.finalize());
        self.tracker
            .log_event(&used("validation", digest, cases.len()))
    }

    /// Writes the table of the network's layers.
    fn write_layers(&self) -> Result<()> {
        let recipe = &self.job.recipe;
        let structures = self.job.dataset.structures.iter();
        let values: Vec<u16> = structures.map(|structure| structure.value).collect();
        let outputs = output_maps(recipe, &values).len();
        let input = layer_table::input_of(recipe);
        let cost = recipe.network.cost(recipe.channels(), outputs, input)?;
        let text = layer_table::as_text(&cost, recipe.training.batch_size);
        write_bytes_atomically(&self.run.path().join(LAYERS), text.as_bytes())
    }

    fn results(&self, summary: &FitSummary) -> Result<()> {
        let mut values = vec![("fit/seconds".to_owned(), summary.seconds)];
        if let Some(roi) = &summary.roi {
            let results = [
                ("mean_recall", roi.mean_recall),
                ("lowest_recall", roi.lowest_recall),
                ("mean_share", roi.mean_share),
            ];
            for (name, value) in results {
                values.extend(value.map(|value| (format!("held_out_roi/{name}"), value)));
            }
        }
        let evaluation = summary.out_of_fold.as_ref();
        let evaluation = evaluation.and_then(|predicted| predicted.evaluation.as_ref());
        let metrics = evaluation.map(|evaluation| evaluation.tracker_metrics());
        for (name, value) in metrics.into_iter().flatten() {
            values.push((format!("out_of_fold/{name}"), value));
        }
        self.tracker.log_event(&Event::Metrics {
            network: None,
            points: vec![Point::now(0, values)],
        })
    }

    fn model(&self) -> Result<()> {
        let bundle = Bundle::open(&self.job.model)?;
        let sha256 = bundle.sha256();
        self.tracker.log_event(&Event::Tags(vec![(
            "ctseg.model_sha256".to_owned(),
            sha256.clone(),
        )]))?;
        let structures = bundle.structures()?.into_iter();
        self.tracker.log_event(&Event::Model(TrainedModel {
            bundle: std::path::absolute(&bundle.path).unwrap_or(bundle.path.clone()),
            sha256,
            name: sanitised(&self.job.dataset.name).replace(':', "_"),
            structures: structures.map(|structure| structure.name).collect(),
            spacing_mm: self.job.recipe.spacing_mm.to_vec(),
        }))
    }

    fn files(&self, to: &str, names: &[&str]) -> Result<()> {
        names
            .iter()
            .try_for_each(|name| self.file(&self.run.path().join(name), to))
    }

    /// Reports a file or folder if it exists.
    fn file(&self, path: &Path, to: &str) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        self.tracker.log_event(&Event::Artifact {
            path: path.to_path_buf(),
            to: to.to_owned(),
        })
    }
}
