//! Calibration of saved probabilities: reliability curves and calibration errors of every structure.

mod boxes;
mod counts;
mod scores;
mod tables;

pub use scores::{
    Calibration, CalibrationMetric, CaseCalibration, MARGIN_MM, StructureCalibration,
};
pub use tables::{CSV_NAME, JSON_NAME, PNG_NAME};

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::Evaluation;
use ctseg_base::cancel::catch_panic;
use ctseg_base::failures::Failure;
use ctseg_base::progress::Observer;
use ctseg_base::text::words;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::reference::Reference;
use ctseg_core::outputs::predicted::read_predicted;
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::probabilities_reader::ProbabilityReader;
use ctseg_core::outputs::sidecar::{Sidecar, read_sidecar};

use boxes::boxes;
use counts::counted;

/// Cases whose label maps are held in memory at the same time.
const CASES_AT_ONCE: usize = 4;

/// Compares the saved probabilities of an evaluation's predictions with their references; none if no prediction has
/// any. Files that cannot be used are recorded and the others continue. Results do not depend on the number of
/// threads.
///
/// # Errors
/// The predictions cannot be listed.
pub fn calibration(
    prediction: &Path,
    reference: &Reference,
    evaluation: &Evaluation,
    observer: &dyn Observer,
) -> Result<Option<Calibration>> {
    let mut cases = reference.paired(prediction)?;
    cases.retain(|(case, _)| evaluation.cases.iter().any(|known| known.case == *case));
    let (with, without): (Vec<_>, Vec<_>) = cases
        .into_iter()
        .partition(|(_, label_map)| KINDS.iter().any(|kind| kind.path(label_map).is_file()));
    if with.is_empty() {
        return Ok(None);
    }
    let task = observer.task("calibration", with.len() as u64, "cases");
    let mut all = Calibration {
        structures: evaluation.structures.clone(),
        cases: Vec::new(),
        failures: Vec::new(),
        without_probabilities: without.into_iter().map(|(case, _)| case).collect(),
    };
    for some in with.chunks(CASES_AT_ONCE) {
        let measured = some.par_iter().map(|(case, label_map)| {
            let found = catch_panic(|| measure_case(case, label_map, reference, &all.structures));
            task.advance(1);
            found
        });
        let measured: Vec<Result<CaseCalibration>> = measured.collect();
        for ((_, label_map), found) in some.iter().zip(measured) {
            match found {
                Ok(case) => all.cases.push(case),
                Err(error) => {
                    observer.warn(&format!("no calibration: {error}"));
                    all.failures.push(Failure {
                        input: label_map.clone(),
                        reason: error.to_string(),
                    });
                }
            }
        }
    }
    Ok(Some(all))
}

/// Probability file kinds, the more precise one first.
const KINDS: [ProbabilityKind; 2] = [ProbabilityKind::F16, ProbabilityKind::U8];

fn measure_case(
    case: &str,
    label_map: &Path,
    reference: &Reference,
    structures: &[Structure],
) -> Result<CaseCalibration> {
    let sidecar = read_sidecar(label_map);
    let (path, kind) = probability_file(label_map, sidecar.as_ref())?;
    let ignore = reference.ignore();
    let prediction = read_predicted(label_map)?;
    let (reference, _) = reference
        .load_on(case, label_map, &prediction.grid)?
        .ok_or_else(|| Error::file(label_map, format!("no reference for case '{case}'")))?;
    let reader = ProbabilityReader::open(&path, kind, &prediction.grid)?;
    let labels = labels_of(&path, reader.maps(), sidecar.as_ref(), structures)?;
    let boxes = boxes(&prediction, &reference, ignore);
    drop(prediction);
    let wanted: Vec<Option<u16>> = labels
        .iter()
        .map(|label| Some(*label).filter(|label| structures.iter().any(|s| s.value == *label)))
        .collect();
    let by_map = counted(reader, kind, &wanted, &boxes, &reference, ignore)?;
    let of = |structure: &Structure| {
        let map = labels.iter().position(|label| *label == structure.value)?;
        by_map[map].clone()
    };
    Ok(CaseCalibration {
        case: case.to_owned(),
        structures: structures.iter().map(of).collect(),
    })
}

/// The probability file of a label map: the one its sidecar records or, without a sidecar, the one of the same name.
fn probability_file(
    label_map: &Path,
    sidecar: Option<&Sidecar>,
) -> Result<(PathBuf, ProbabilityKind)> {
    let there = KINDS.map(|kind| (kind.path(label_map), kind));
    let mut there = there.into_iter().filter(|(path, _)| path.is_file());
    let Some(sidecar) = sidecar else {
        return there.next().ok_or_else(|| {
            Error::file(
                label_map,
                "its probabilities were removed during the evaluation; run it again",
            )
        });
    };
    let mut last = label_map.to_path_buf();
    for (path, kind) in there {
        let name = Path::new(path.file_name().unwrap_or_default());
        if sidecar.is_intact(label_map, name) {
            return Ok((path, kind));
        }
        if sidecar.written.contains_key(name) {
            return Err(Error::file(
                &path,
                "has changed since it was written (its length or hash differs from the sidecar); predict again with --save-probabilities",
            ));
        }
        last = path;
    }
    Err(Error::file(
        last,
        "does not belong to the label map beside it, according to the sidecar; remove it, or predict again with --save-probabilities",
    ))
}

/// Label values in the order of a file's maps: those in the sidecar or, if it has none, the sorted values of the
/// sidecar's structures or of the compared structures, whichever match the number of maps.
fn labels_of(
    path: &Path,
    maps: usize,
    sidecar: Option<&Sidecar>,
    structures: &[Structure],
) -> Result<Vec<u16>> {
    let recorded = sidecar.map(|sidecar| sidecar.probability_labels.clone());
    let of_sidecar = sidecar.map(|sidecar| sidecar.structures.values().copied().collect());
    let compared = structures.iter().map(|structure| structure.value).collect();
    let known = match recorded.filter(|labels| !labels.is_empty()) {
        Some(labels) => vec![labels],
        None => [of_sidecar, Some(compared)]
            .into_iter()
            .flatten()
            .map(|mut labels: Vec<u16>| {
                labels.sort_unstable();
                labels
            })
            .collect(),
    };
    let counts: Vec<String> = known
        .iter()
        .map(|labels| labels.len().to_string())
        .collect();
    let mut known = known.into_iter();
    known.find(|labels| labels.len() == maps).ok_or_else(|| {
        Error::file(
            path,
            format!(
                "holds {}; expected {}, one per structure",
                words::counted(maps, "map"),
                counts.join(" or ")
            ),
        )
    })
}
