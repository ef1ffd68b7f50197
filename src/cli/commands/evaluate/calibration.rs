//! Calibration of probabilities, as part of an evaluation: files and a summary line.

use std::path::{Path, PathBuf};

use crate::cli::print::print_out;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_base::text::words::counted;
use ctseg_core::dataset::reference::Reference;
use ctseg_evaluate::Evaluation;
use ctseg_evaluate::calibration::{CSV_NAME, Calibration, JSON_NAME, PNG_NAME, calibration};
use ctseg_image::metrics::calibration::Reliability;
use ctseg_report::calibration_diagram::draw;

/// The calibration files in `folder`.
pub fn files(folder: &Path) -> [PathBuf; 3] {
    [JSON_NAME, CSV_NAME, PNG_NAME].map(|name| folder.join(name))
}

/// Measures the calibration of the predictions and writes [`files`]. If no prediction has probabilities, removes the
/// files of an earlier evaluation, which would be out of date.
pub fn measured(
    prediction: &Path,
    reference: &Reference,
    evaluation: &Evaluation,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<Option<Calibration>> {
    let Some(found) = calibration(prediction, reference, evaluation, observer)? else {
        for file in files(folder) {
            let _ = std::fs::remove_file(file); // usually does not exist
        }
        return Ok(None);
    };
    found.write(folder)?;
    draw(&found, folder)?;
    Ok(Some(found))
}

/// Prints a summary line.
pub fn print(calibration: &Calibration) {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let error = Reliability::expected_calibration_error;
    let failed = match calibration.failures.len() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    print_out(&format!(
        "calibration of {}{failed}: ECE {} near the structures ({} in whole volumes), MCE {}, Brier {}; {JSON_NAME}, .csv, .png\n",
        counted(calibration.cases.len(), "case"),
        number(calibration.mean_near(error)),
        number(calibration.mean_whole(error)),
        number(calibration.mean_near(Reliability::maximum_calibration_error)),
        number(calibration.mean_near(Reliability::brier)),
    ));
}
