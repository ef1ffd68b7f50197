//! What a batch does with a case whose files already exist.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::case::{Batch, Outcome};
use ctseg_base::{Error, Result};
use ctseg_core::inference::predictor::Predictor;
use ctseg_core::outputs::existing::{Decision, Wanted};
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::refuse_links_out;
use ctseg_core::outputs::sidecar::{INFERENCE_VERSION, Sidecar};

impl Batch<'_> {
    /// Hash of everything except the input that determines a label map.
    pub(super) fn settings_sha256(&self) -> String {
        let predictor = self.predictors.first();
        let outputs = &self.job.outputs;
        let settings = (
            INFERENCE_VERSION,
            &self.model_sha256,
            predictor.map(Predictor::views),
            predictor.map(Predictor::postprocessing),
            self.job.probabilities,
            (
                outputs.label_map,
                outputs.split,
                outputs.overlap,
                outputs.entropy,
                outputs.preview.is_some(),
                outputs.statistics_json,
                outputs.structures.is_some(),
            ),
            &self.structures,
        );
        let mut text = format!("{settings:?}");
        // Omitted if not set, so that the hash equals that of older versions.
        let threshold = predictor.map(Predictor::threshold);
        if let Some(threshold) = threshold.filter(|threshold| !threshold.is_empty()) {
            text += &format!("{threshold:?}");
        }
        if let Some(how) = self.job.rescale_hu {
            text += &format!(" {how}");
        }
        format!("{:x}", Sha256::digest(text))
    }

    /// All files of a case except its sidecar, relative to its folder.
    pub(super) fn files(&self, case: &PredictCase) -> Vec<PathBuf> {
        let mut files = self.job.outputs.files(&case.output, &self.structures);
        let probabilities = self.job.probabilities.map(|kind| kind.path(&case.output));
        let name = probabilities.as_deref().and_then(Path::file_name);
        files.extend(name.map(PathBuf::from));
        files
    }

    /// The outcome of a case whose files already exist; `None` if it is to be made.
    ///
    /// `input_sha256` is the hash of its volume; `None` if an earlier process has marked the case as done: its volume is
    /// not read, and `--overwrite` does not apply.
    pub(super) fn existing(
        &self,
        case: &PredictCase,
        input_sha256: Option<&str>,
    ) -> Option<Outcome> {
        match self.decide(case, input_sha256) {
            Ok(Decision::Make) => None,
            Ok(Decision::Keep) => Some(Outcome::Kept(Vec::new())),
            Ok(Decision::KeepChanged(file)) => Some(Outcome::Kept(vec![format!(
                "{} was changed since ctseg wrote it, and is kept; use --overwrite to replace it",
                file.display()
            )])),
            // Errors about other files than the volume are about existing outputs.
            Err(error) => Some(match &error {
                Error::File { path, .. } if *path != case.input => Outcome::Protected(error),
                _ => Outcome::Failed(error),
            }),
        }
    }

    /// As [`Batch::existing`], for a case that an earlier process has marked as done.
    pub(super) fn existing_when_done(&self, index: usize) -> Option<Outcome> {
        let case = &self.cases[index];
        match case.refused {
            Some(_) => None, // reading it reports the error
            None => self.existing(case, None),
        }
    }

    fn decide(&self, case: &PredictCase, input_sha256: Option<&str>) -> Result<Decision> {
        let files = self.files(case);
        refuse_links_out(&case.output, &files)?;
        if self.job.overwrite && input_sha256.is_some() {
            return Ok(Decision::Make);
        }
        let editable = self.job.outputs.editable(&case.output, &self.structures);
        let wanted = Wanted {
            input: &case.input,
            output: &case.output,
            files: &files,
            editable: &editable,
        };
        wanted.decide(|made| self.is_current(made, input_sha256.unwrap_or(&made.input_sha256)))
    }

    /// Whether a finished case was made from this input, with this model and these settings.
    fn is_current(&self, made: &Sidecar, input_sha256: &str) -> bool {
        let Some(predictor) = self.predictors.first() else {
            return false;
        };
        made.matches(input_sha256, self.job.rescale_hu, &self.model_sha256)
            && made.cascade.views == predictor.views()
            && made.cascade.postprocessing == *predictor.postprocessing()
            && made.cascade.threshold == *predictor.threshold()
            && self.job.outputs.match_sidecar(made, &self.structures)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::PredictJob;
    use ctseg_base::progress::Silent;
    use ctseg_core::inference::threshold::Thresholds;
    use ctseg_core::outputs::Outputs;

    #[test]
    fn the_volume_of_a_case_that_is_marked_as_done_is_not_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let job = PredictJob {
            cases: Vec::new(),
            folder: folder.path().to_path_buf(),
            models: Vec::new(),
            computes: Vec::new(),
            tta: None,
            postprocess: true,
            thresholds: Thresholds::default(),
            overwrite: false,
            max_ram: None,
            rescale_hu: None,
            probabilities: None,
            outputs: Outputs::default(),
            statistics: false,
            shard: None,
            claiming: None,
            on_attention: None,
            stop: &stop,
            immediate_exit: None,
        };
        // A file that hashing could not read.
        let [input, output] = ["missing.nii", "out.nii"].map(|name| folder.path().join(name));
        let cases = [PredictCase::new(input, output)];
        let batch = Batch {
            job: &job,
            cases: &cases,
            predictors: &[],
            too_large: BTreeMap::new(),
            resident: 0,
            structures: BTreeMap::new(),
            models: Vec::new(),
            model_sha256: String::new(),
            ct_window: None,
            observer: &Silent,
        };
        assert!(batch.existing_when_done(0).is_none());
    }
}
