//! What trackers are told of a fit beside its epochs and steps.

use std::path::Path;

use super::job::{FitJob, FitSummary};
use super::manifests::held_out_fingerprint;
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
use ctseg_core::run::metric_names::permitted;
use ctseg_core::run::tracker::{DatasetUsed, Event, ModelMade, Point, Tracker};
use ctseg_core::run::{history, parameters};

/// The network's layers in a run folder.
const LAYERS: &str = "network.txt";

/// Tells of one run. What cannot be told is said to the observer: it ends no training.
pub(super) struct Telling<'a> {
    pub job: &'a FitJob<'a>,
    pub run: &'a RunFolder,
    pub tracker: &'a dyn Tracker,
    pub observer: &'a dyn Observer,
    pub data: &'a RunData,
}

impl Telling<'_> {
    /// What the run is made of, when it begins and when it goes on.
    ///
    /// # Errors
    /// What the training itself would meet: data that cannot be read or split, a network that cannot be.
    pub(super) fn beginning(&self) -> Result<()> {
        let mut parameters = parameters::of_recipe(&self.job.recipe)?;
        parameters.push(("seed".to_owned(), self.job.seed.to_string()));
        self.tracker.happened(&Event::Parameters(parameters))?;
        self.tracker.happened(&Event::Tags(self.tags()))?;
        self.datasets()?;
        self.layers()?;
        self.files("", &["recipe.toml", LAYERS])
    }

    /// What a fold that is trained leaves.
    pub(super) fn fold(&self, fold: usize) {
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

    /// What came of it all, where the run put its stage into a model.
    pub(super) fn done(&self, summary: &FitSummary) {
        self.or_warn(|| self.figures(summary));
        self.or_warn(|| self.model());
    }

    /// The run's files, however it ended.
    pub(super) fn ending(&self) {
        let figures = [history::FILE, diagnosis::FILE, "postprocessing.json"];
        self.or_warn(|| self.files("", &figures));
        let out_of_fold = ["out_of_fold/summary.json", "out_of_fold/metrics.csv"];
        self.or_warn(|| self.files("out_of_fold", &out_of_fold));
        self.or_warn(|| self.file(&self.run.path().join(PLOTS), ""));
        self.or_warn(|| self.files("", &["log.txt"]));
    }

    fn or_warn(&self, told: impl FnOnce() -> Result<()>) {
        if let Err(error) = told() {
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
            Event::Dataset(DatasetUsed {
                name: job.dataset.name.clone(),
                digest,
                source: source.display().to_string(),
                context: context.to_owned(),
                cases,
            })
        };
        let all = job.dataset.training_cases().len();
        let (held_out_digest, held_out) = held_out_fingerprint(&job.recipe, self.data);
        let digest = self.data.content.sha256();
        self.tracker.happened(&used("training", digest, all))?;
        self.tracker
            .happened(&used("validation", held_out_digest, held_out))
    }

    /// Writes the table of the network's layers.
    fn layers(&self) -> Result<()> {
        let recipe = &self.job.recipe;
        let structures = self.job.dataset.structures.iter();
        let values: Vec<u16> = structures.map(|structure| structure.value).collect();
        let outputs = output_maps(recipe, &values).len();
        let input = layer_table::input_of(recipe);
        let cost = recipe.network.cost(recipe.channels(), outputs, input)?;
        let text = layer_table::as_text(&cost, recipe.training.batch_size);
        write_bytes_atomically(&self.run.path().join(LAYERS), text.as_bytes())
    }

    fn figures(&self, summary: &FitSummary) -> Result<()> {
        let mut values = vec![("fit/seconds".to_owned(), summary.seconds)];
        if let Some(roi) = &summary.roi {
            let figures = [
                ("mean_recall", roi.mean_recall),
                ("lowest_recall", roi.lowest_recall),
                ("mean_share", roi.mean_share),
            ];
            for (name, value) in figures {
                values.extend(value.map(|value| (format!("held_out_roi/{name}"), value)));
            }
        }
        let evaluation = summary.out_of_fold.as_ref();
        let evaluation = evaluation.and_then(|predicted| predicted.evaluation.as_ref());
        let points = evaluation.map(|evaluation| evaluation.points());
        for (name, value) in points.into_iter().flatten() {
            values.push((format!("out_of_fold/{name}"), value));
        }
        self.tracker.happened(&Event::Metrics {
            network: None,
            points: vec![Point::now(0, values)],
        })
    }

    fn model(&self) -> Result<()> {
        let bundle = Bundle::open(&self.job.model)?;
        let sha256 = bundle.sha256();
        self.tracker.happened(&Event::Tags(vec![(
            "ctseg.model_sha256".to_owned(),
            sha256.clone(),
        )]))?;
        let structures = bundle.structures()?.into_iter();
        self.tracker.happened(&Event::Model(ModelMade {
            bundle: std::path::absolute(&bundle.path).unwrap_or(bundle.path.clone()),
            sha256,
            name: permitted(&self.job.dataset.name).replace(':', "_"),
            structures: structures.map(|structure| structure.name).collect(),
            spacing_mm: self.job.recipe.spacing_mm.to_vec(),
        }))
    }

    fn files(&self, to: &str, names: &[&str]) -> Result<()> {
        names
            .iter()
            .try_for_each(|name| self.file(&self.run.path().join(name), to))
    }

    /// A file or folder, where it is there.
    fn file(&self, path: &Path, to: &str) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        self.tracker.happened(&Event::Artifact {
            path: path.to_path_buf(),
            to: to.to_owned(),
        })
    }
}
