//! Compares all predictions with their references in parallel, within a memory limit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::case_scores::{CaseScores, Structures};
use crate::compare::{Compared, Limits, compare};
use crate::metrics::StructurePair;
use crate::scores::StructureScores;
use crate::tolerances::Tolerances;
use ctseg_base::cancel::{catch_panic, check_stop};
use ctseg_base::failures::Failure;
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::progress::{CaseCounts, Observer};
use ctseg_base::text::words::{counted, listed};
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::dataset::reference::Reference;
use ctseg_core::outputs::sidecar::read_sidecar;
use ctseg_core::recipe::output_maps::UNION;
use ctseg_image::formats::endings_in_words;
use ctseg_image::space::GridMismatch;

/// Approximate memory that all cases in progress may use together. A larger case is compared alone.
const MEMORY_BYTES: u64 = 3 << 30;

/// The scores of all cases.
#[derive(Debug, Clone)]
pub struct Evaluation {
    pub structures: Vec<Structure>,
    /// Surface Dice tolerance of each structure.
    pub tolerances_mm: Vec<f64>,
    pub cases: Vec<CaseScores>,
    pub failures: Vec<Failure>,
    /// References that have no prediction.
    pub missing: Vec<String>,
}

/// Compares every prediction with its reference. A case that fails is recorded and the others continue.
///
/// # Errors
/// There are no predictions, or a tolerance names an unknown structure.
pub fn evaluate(
    prediction: &Path,
    reference: &Reference,
    tolerances: &Tolerances,
    observer: &dyn Observer,
) -> Result<Evaluation> {
    let stop = AtomicBool::new(false);
    evaluate_cancellable(prediction, reference, tolerances, &stop, observer)
}

/// [`evaluate`] that can be stopped.
///
/// # Errors
/// As [`evaluate`], and [`Error::Interrupted`] when stopped.
pub fn evaluate_cancellable(
    prediction: &Path,
    reference: &Reference,
    tolerances: &Tolerances,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Evaluation> {
    let predictions = reference.paired(prediction)?;
    if predictions.is_empty() {
        return Err(Error::file(
            prediction,
            format!(
                "no label map found; expected a {} file or a folder of them",
                endings_in_words()
            ),
        ));
    }
    let paths = predictions.iter().map(|(_, path)| path);
    let known = known_structures(reference, paths);
    let structures = Structures::new(known, tolerances.clone())?;
    let compared = compare_all(&predictions, reference, &structures, stop, observer);
    check_stop(stop, || "label maps were being compared".to_owned())?;
    Ok(collect(
        predictions,
        compared,
        &structures,
        reference,
        observer,
    ))
}

/// The comparisons in case order, fewer when stopped. Uses one thread per core outside the pool: a pool thread that
/// waits for memory would block the work of the others.
fn compare_all(
    predictions: &[(String, PathBuf)],
    reference: &Reference,
    structures: &Structures,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Vec<Result<Compared>> {
    let task = observer.task("comparing", predictions.len() as u64, "cases");
    let limits = Limits::new(MEMORY_BYTES);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while !stop.load(Ordering::Relaxed)
            && let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed))
            && let Some((case, path)) = predictions.get(index)
        {
            let compared = match duplicate(predictions, index) {
                Some(duplicate) => Err(Error::file(
                    path,
                    format!(
                        "case '{case}' has a second label map, {}; keep one of the two",
                        duplicate.display()
                    ),
                )),
                None => catch_panic(|| compare(case, path, reference, structures, &limits)),
            };
            task.advance(1);
            if let Ok(mut done) = done.lock() {
                done.push((index, compared));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..rayon::current_num_threads().min(predictions.len()) {
            // This thread works as well, so a thread that cannot start only costs speed.
            let _ = spawn_scoped(scope, "compare", work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, compared)| compared).collect()
}

/// A second label map of the same case. Label maps of one case are adjacent.
fn duplicate(predictions: &[(String, PathBuf)], index: usize) -> Option<&Path> {
    let (case, _) = predictions.get(index)?;
    let beside = [index.checked_sub(1), index.checked_add(1)].into_iter();
    let mut beside = beside.flatten().filter_map(|other| predictions.get(other));
    let duplicate = beside.find(|(other, _)| other == case);
    duplicate.map(|(_, path)| path.as_path())
}

fn collect(
    predictions: Vec<(String, PathBuf)>,
    compared: Vec<Result<Compared>>,
    structures: &Structures,
    reference: &Reference,
    observer: &dyn Observer,
) -> Evaluation {
    let (mut compared_cases, mut failures, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for ((case, input), result) in predictions.into_iter().zip(compared) {
        seen.push(case);
        match result {
            Ok(compared) => {
                report_remark(&compared, &input, observer);
                compared_cases.push(compared);
            }
            Err(error) => {
                observer.warn(&format!("failed: {error}"));
                failures.push(Failure {
                    input,
                    reason: error.to_string(),
                });
            }
        }
    }
    observer.cases(&CaseCounts {
        done: compared_cases.len() as u64,
        failed: failures.len() as u64,
        ..CaseCounts::default()
    });
    let mut missing = reference.cases();
    missing.retain(|case| !seen.contains(case));
    if !missing.is_empty() {
        observer.warn(&format!(
            "{} without a prediction, skipped: {}",
            counted(missing.len(), "reference"),
            listed(&missing)
        ));
    }
    let found = structures_of(structures, &compared_cases);
    let tolerance_mm = |structure: &Structure| structures.tolerances.of(&structure.name);
    let in_order = |mut compared: Compared| {
        let (voxels, voxel_ml) = (compared.voxels, compared.case.voxel_ml);
        let of = |structure: &Structure| {
            let own = compared.scores.remove(&structure.value);
            own.unwrap_or_else(|| StructureScores::of(&StructurePair::absent(voxels, voxel_ml)))
        };
        CaseScores {
            scores: found.iter().map(of).collect(),
            ..compared.case
        }
    };
    Evaluation {
        cases: compared_cases.into_iter().map(in_order).collect(),
        tolerances_mm: found.iter().map(tolerance_mm).collect(),
        structures: found,
        failures,
        missing,
    }
}

/// Reports a remark about the prediction's grid.
fn report_remark(compared: &Compared, input: &Path, observer: &dyn Observer) {
    if let Some(GridMismatch { text, is_warning }) = &compared.remark {
        let text = format!("{}: {text}", input.display());
        match is_warning {
            true => observer.warn(&text),
            false => observer.info(&text),
        }
    }
}

/// The known structures or, if none are known, those that occur in any case.
fn structures_of(structures: &Structures, cases: &[Compared]) -> Vec<Structure> {
    structures.known.clone().unwrap_or_else(|| {
        let values: BTreeSet<u16> = cases
            .iter()
            .flat_map(|case| case.scores.keys().copied())
            .collect();
        values
            .into_iter()
            .map(|value| structures.of(value))
            .collect()
    })
}

/// The structures to compare, if they are known: the dataset's, or those in a prediction's sidecar.
fn known_structures<'a>(
    reference: &Reference,
    mut predictions: impl Iterator<Item = &'a PathBuf>,
) -> Option<Vec<Structure>> {
    if let Reference::Dataset(dataset) = reference {
        return Some(dataset.structures.clone());
    }
    if let Reference::Union(_) = reference {
        return Some(vec![Structure {
            value: 1,
            name: UNION.to_owned(),
        }]);
    }
    let sidecar = predictions.find_map(|path| read_sidecar(path))?;
    let mut structures: Vec<Structure> = sidecar
        .structures
        .into_iter()
        .map(|(name, value)| Structure { value, name })
        .collect();
    structures.sort_by_key(|structure| structure.value);
    Some(structures)
}
