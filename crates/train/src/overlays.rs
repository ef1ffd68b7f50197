//! Pictures of the held-out cases with the best and worst scores.

use std::path::{Path, PathBuf};

use crate::cross_validation::OutOfFold;
use ctseg_base::Result;
use ctseg_base::atomic_file::create_folder;
use ctseg_core::dataset::Dataset;
use ctseg_core::dataset::reference::Reference;
use ctseg_evaluate::mask_ignored;
use ctseg_image::formats::{LabelNames, read_label_map};
use ctseg_image::space::{LabelMap, Volume};

/// A case with its reference and prediction, on one grid.
pub struct Comparison<'a> {
    /// The case and its score.
    pub title: &'a str,
    pub volume: &'a Volume,
    pub reference: &'a LabelMap,
    pub prediction: &'a LabelMap,
    pub names: &'a LabelNames,
}

/// Draws a case to a file.
pub type DrawComparison = fn(&Path, &Comparison) -> Result<()>;

/// Draws `worst_case.png` and, if there are several cases, `best_case.png` into `folder`; nothing if no case has a
/// defined Dice. Returns their paths.
///
/// # Errors
/// Cases that can no longer be read, pictures that cannot be written.
pub fn best_and_worst(
    dataset: &Dataset,
    predicted: &OutOfFold,
    folder: &Path,
    draw: DrawComparison,
) -> Result<Vec<PathBuf>> {
    let Some(evaluation) = &predicted.evaluation else {
        return Ok(Vec::new());
    };
    let scored = evaluation.by_mean_dice();
    let chosen = match scored.as_slice() {
        [] => return Ok(Vec::new()),
        [only] => vec![("worst", *only)],
        [worst, .., best] => vec![("worst", *worst), ("best", *best)],
    };
    create_folder(folder)?;
    let names = evaluation.structures.iter();
    let names: LabelNames = names.map(|s| (s.value, s.name.clone())).collect();
    let reference = match predicted.union {
        true => Reference::Union(dataset.clone()),
        false => Reference::Dataset(dataset.clone()),
    };
    let mut pictures = Vec::new();
    for (which, (case, dice)) in chosen {
        let path = folder.join(format!("{which}_case.png"));
        let title = format!("{which} case {case}, Dice {dice:.3}");
        let drawn = draw_case(predicted, dataset, &reference, case, |volume, maps| {
            let [reference, prediction] = maps;
            let comparison = Comparison {
                title: &title,
                volume,
                reference,
                prediction,
                names: &names,
            };
            draw(&path, &comparison)
        })?;
        if drawn {
            pictures.push(path);
        }
    }
    Ok(pictures)
}

/// Passes the case's volume, reference and prediction to `draw`; false if there is no such case.
fn draw_case(
    predicted: &OutOfFold,
    dataset: &Dataset,
    reference: &Reference,
    id: &str,
    draw: impl FnOnce(&Volume, [&LabelMap; 2]) -> Result<()>,
) -> Result<bool> {
    let of_id = |(case, _): &&(usize, PathBuf)| dataset.cases[*case].id == id;
    let Some((case, map)) = predicted.maps.iter().find(of_id) else {
        return Ok(false);
    };
    let (_, mut prediction) = read_label_map(map)?;
    let Some((mut truth, _)) = reference.load_on(id, map, &prediction.grid)? else {
        return Ok(false);
    };
    let image = dataset.load_image(&dataset.cases[*case])?;
    mask_ignored(&mut prediction, &mut truth, reference.ignore());
    draw(&image.volume, [&truth, &prediction])?;
    Ok(true)
}
