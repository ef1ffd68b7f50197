//! A prediction job and its summary.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::claims::Claiming;
use crate::shard::Shard;
use ctseg_base::failures::Failure;
use ctseg_base::{Error, Result};
use ctseg_core::inference::attention::Attention;
use ctseg_core::inference::cascade::Cascade;
use ctseg_core::inference::load_options::LoadOptions;
use ctseg_core::inference::memory_limit::BatchMemoryLimit;
use ctseg_core::inference::predictor::Predictor;
use ctseg_core::inference::threshold::Thresholds;
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::model::multi_part::Models;
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::sidecar::sidecar_path;
use ctseg_core::outputs::{Outputs, statistics_path};
use ctseg_engine::device::Compute;
use ctseg_engine::precision::Precision;
use ctseg_image::preprocess::channels::Window;
use ctseg_image::preprocess::rescale_hu::RescaleHu;

pub struct PredictJob<'a> {
    pub cases: Vec<PredictCase>,
    /// The folder of `predictions.json`, and of `failures.jsonl` if a case fails.
    pub folder: PathBuf,
    /// One model, an ensemble (see [`Cascade::segment`]), or a multi-part model.
    pub models: Vec<PathBuf>,
    /// One or more devices, which take cases from one queue.
    pub computes: Vec<Compute>,
    /// Test-time augmentation of stage 2, see [`ctseg_core::inference::test_time_augmentation`]; `None` for each
    /// model's default.
    pub tta: Option<bool>,
    /// Whether to apply the model's post-processing.
    pub postprocess: bool,
    pub thresholds: Thresholds,
    /// Whether to make label maps again that are intact and from the same input and model.
    pub overwrite: bool,
    /// Memory limit of the process in bytes; see [`ctseg_core::inference::memory_limit`].
    pub max_ram: Option<u64>,
    /// Whether probabilities are saved, and in which format.
    pub probabilities: Option<ProbabilityKind>,
    /// How to rescale the volumes to Hounsfield units; `None` if they already are.
    pub rescale_hu: Option<RescaleHu>,
    /// The output files of each case.
    pub outputs: Outputs,
    /// Whether to write `statistics.csv` into the folder at the end.
    pub statistics: bool,
    /// The shard of the cases for this process.
    pub shard: Option<Shard>,
    /// Shares the cases with other processes through claims.
    pub claiming: Option<Claiming>,
    /// Receives stage 2's attention maps of each segmented case.
    pub on_attention: Option<&'a OnAttention>,
    /// Set by the caller to stop after the current cases.
    pub stop: &'a AtomicBool,
    /// Ends the process without waiting for the current cases.
    pub immediate_exit: Option<ImmediateExit<'a>>,
}

impl PredictJob<'_> {
    /// Whether an output needs the probabilities on a volume's grid.
    pub(super) fn needs_probabilities(&self) -> bool {
        self.probabilities.is_some() || self.outputs.entropy || self.outputs.overlap
    }

    /// An error if there is a memory limit and more than one device.
    pub(super) fn refuse_several_devices(&self) -> Result<()> {
        if self.max_ram.is_none() || self.computes.len() < 2 {
            return Ok(());
        }
        Err(Error::usage(
            "--max-ram supports one device only; choose one with --device",
        ))
    }

    /// An error if an output needs one network for all structures, and the model has several parts.
    pub(super) fn refuse_multi_part(&self, models: &Models) -> Result<()> {
        let wants_one_network = self.needs_probabilities() || self.on_attention.is_some();
        if !wants_one_network || models.has_probabilities() {
            return Ok(());
        }
        Err(Error::usage(
            "--save-probabilities, --save-entropy, --overlap and --attention need one network for all structures, which a multi-part model does not have; pass one part's folder with --model",
        ))
    }

    /// See [`Models::ct_window`]; an error if `--rescale-hu` is given and the models are not for CT.
    pub(super) fn ct_window(&self, models: &Models) -> Result<Option<Window>> {
        let window = models.ct_window();
        match self.rescale_hu.is_some() && window.is_none() {
            true => Err(Error::usage(
                "--rescale-hu is for CT, and the model was trained on other images; remove --rescale-hu",
            )),
            false => Ok(window),
        }
    }

    /// The cases of this process.
    pub(super) fn own_cases(&self) -> Vec<PredictCase> {
        let own = |case: &&PredictCase| {
            let shard = self.shard;
            shard.is_none_or(|shard| shard.holds(&self.folder, case))
        };
        self.cases.iter().filter(own).cloned().collect()
    }

    /// One predictor per device, and the volumes that exceed `--max-ram`, with messages.
    pub(super) fn predictors(
        &self,
        models: &Models,
        cases: &[PredictCase],
    ) -> Result<(Vec<Predictor>, BTreeMap<PathBuf, String>)> {
        let limit = self.max_ram.map(|bytes| {
            let inputs = cases.iter().filter(|case| case.refused.is_none());
            let inputs: Vec<PathBuf> = inputs.map(|case| case.input.clone()).collect();
            BatchMemoryLimit::new(bytes, &inputs, self.needs_probabilities())
        });
        let predictors = self.computes.iter().map(|compute| {
            if compute.precision == Precision::F32 || self.max_ram.is_some() {
                compute.limit_memory_cache();
            }
            let options = LoadOptions {
                compute,
                tta: self.tta,
                postprocess: self.postprocess,
                thresholds: &self.thresholds,
                limit: limit.as_ref(),
            };
            let predictor = Predictor::load(models, &options)?;
            if self.outputs.overlap && predictor.cascade().is_some_and(Cascade::is_exclusive) {
                return Err(Error::usage(
                    "--overlap: the model's classes are exclusive, so structures cannot overlap; expected a model with independent structures (outputs = \"independent\" in its recipe)",
                ));
            }
            Ok(predictor)
        });
        let predictors = predictors.collect::<Result<_>>()?;
        Ok((
            predictors,
            limit.map(BatchMemoryLimit::refused).unwrap_or_default(),
        ))
    }

    /// Refuses pairs of cases where the sidecar of one and the statistics of the other have the same file name.
    pub(super) fn refuse_shared_names(&self, cases: &mut [PredictCase]) {
        if self.outputs.statistics_json.is_none() {
            return;
        }
        let by = |file: fn(&Path) -> PathBuf| -> HashMap<PathBuf, PathBuf> {
            let cases = self.cases.iter();
            cases
                .map(|case| (file(&case.output), case.input.clone()))
                .collect()
        };
        let (tables, sidecars) = (by(statistics_path), by(sidecar_path));
        for case in cases {
            let other = tables
                .get(&sidecar_path(&case.output))
                .or_else(|| sidecars.get(&statistics_path(&case.output)));
            if let (Some(other), None) = (other, &case.refused) {
                case.refused = Some(format!(
                    "its sidecar or statistics file would have the same name as that of {}; predict them into separate folders",
                    other.display()
                ));
            }
        }
    }
}

/// Ends the process immediately on request.
#[derive(Clone, Copy)]
pub struct ImmediateExit<'a> {
    /// Set by the caller.
    pub requested: &'a AtomicBool,
    /// Ends the process; called when everything on disk is consistent.
    pub exit: &'a (dyn Fn() + Sync),
}

/// Receives a case's attention maps.
pub type OnAttention = dyn Fn(&PredictCase, &Attention) -> Result<()> + Sync;

/// The summary of a batch. Cases are listed in the order of the arguments.
#[derive(Debug, Clone, Default)]
pub struct PredictSummary {
    /// The models that were used.
    pub models: Vec<ModelUsed>,
    /// Number of test-time augmentation views, including the originals.
    pub views: usize,
    /// Number of cases of this process.
    pub cases: usize,
    pub written: Vec<PathBuf>,
    /// Existing label maps, from the same input, model and version, or edited by the user.
    pub kept: Vec<PathBuf>,
    /// Label maps of cases that failed because ctseg did not make the existing files.
    pub protected: Vec<PathBuf>,
    /// Label maps made by other processes that share the cases.
    pub by_others: Vec<PathBuf>,
    pub failures: Vec<Failure>,
    pub failures_file: PathBuf,
    /// The list of all cases.
    pub manifest_file: PathBuf,
    /// Deviations from normal processing, by case.
    pub notes: Vec<(PathBuf, String)>,
    pub seconds: f64,
    /// Whether the batch was stopped by the caller before its end.
    pub interrupted: bool,
    /// Why the batch ended early, if not on request.
    pub ended_early: Option<String>,
}

impl PredictSummary {
    /// Whether any case has a label map now, no matter who made it.
    pub fn has_label_maps(&self) -> bool {
        let all = [&self.written, &self.kept, &self.by_others, &self.protected];
        all.iter().any(|label_maps| !label_maps.is_empty())
    }
}
