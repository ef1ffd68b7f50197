//! Chooses a model's post-processing on out-of-fold predictions: steps that improve Dice are kept (like nnU-Net's
//! `determine_postprocessing`, Isensee et al., Nature Methods 2021, with more kinds of steps).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use ctseg_base::cancel::check_stop;
use ctseg_base::progress::Observer;
use ctseg_base::text::suggest::expected;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::{Dataset, Structure};
use ctseg_core::model::postprocessing::{Candidate, Postprocessing, StructurePostprocessing};
use ctseg_core::recipe::Recipe;
use ctseg_image::formats::read_label_map;
use ctseg_image::labels::components::Connectivity;
use ctseg_image::labels::postprocess::{Part, Step, Within, apply, apply_steps, bounding_boxes};
use ctseg_image::metrics::overlap::{Overlap, Summary, overlaps};
use ctseg_image::space::LabelMap;

/// Minimum number of cases; with fewer the choice would be random.
const MIN_CASES: usize = 5;

/// Candidate volumes below which components are removed, as shares of the structure's median volume.
const SMALL_SHARES: [f64; 3] = [0.01, 0.05, 0.2];

/// Refuses steps for structures that are not in the dataset.
pub fn check_names(recipe: &Recipe, structures: &[Structure]) -> Result<()> {
    let mut names = recipe.postprocessing.steps.keys();
    match names.find(|name| structures.iter().all(|s| s.name != **name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "postprocessing.steps names '{name}', which is not in the dataset; its structures are {}",
            expected(
                name,
                &structures
                    .iter()
                    .map(|s| s.name.as_str())
                    .collect::<Vec<_>>()
            )
        ))),
    }
}

/// Searches for post-processing steps on out-of-fold predictions.
pub struct PostprocessingSearch<'a> {
    pub dataset: &'a Dataset,
    /// Case indices in the dataset, with their label maps.
    pub maps: &'a [(usize, PathBuf)],
    pub recipe: &'a Recipe,
    pub stop: &'a AtomicBool,
}

/// The result of a [`PostprocessingSearch`].
pub struct PostprocessingChoice {
    pub chosen: Option<Postprocessing>,
    pub tried: Vec<Candidate>,
}

/// Mean Dice of each structure without and with post-processing.
struct MeanDice {
    without: Means,
    with: Means,
}

/// Dice by structure, candidate step list and case.
type Scores = Vec<Vec<Vec<Option<f64>>>>;

impl PostprocessingSearch<'_> {
    /// Tries components, holes and smoothing in this order, each after the steps kept so far. The best alternative of
    /// each kind is kept if the structure's mean Dice improves enough. Finally all steps are applied together, as in
    /// prediction; structures with a lower Dice than before lose their steps.
    ///
    /// # Errors
    /// Label maps that cannot be read; [`Error::Interrupted`] when stopped.
    pub fn choose(&self, observer: &dyn Observer) -> Result<PostprocessingChoice> {
        let config = &self.recipe.postprocessing;
        let by_hand = Postprocessing::by_hand(self.recipe);
        if self.maps.is_empty() || !config.choose && by_hand.is_none() {
            return Ok(PostprocessingChoice {
                chosen: by_hand,
                tried: Vec::new(),
            });
        }
        let structures = &self.dataset.structures;
        let mut kept: Vec<Vec<Step>> = structures
            .iter()
            .map(|s| config.steps.get(&s.name).cloned().unwrap_or_default())
            .collect();
        let mut tried = Vec::new();
        if config.choose && self.maps.len() >= MIN_CASES {
            let sizes = self.median_volumes_ml()?;
            for kind in [components, holes, smoothing] {
                self.try_kind(kind, &sizes, &mut kept, &mut tried)?;
            }
        } else if config.choose {
            observer.info(&format!(
                "no postprocessing was chosen: {} out-of-fold predictions; expected {MIN_CASES} or more",
                self.maps.len()
            ));
        }
        let dice = self.drop_harmful(&mut kept)?;
        let mut chosen = Postprocessing {
            cases: self.maps.len(),
            smallest_gain: config.smallest_gain,
            structures: BTreeMap::new(),
        };
        for (index, steps) in kept
            .into_iter()
            .enumerate()
            .filter(|(_, steps)| !steps.is_empty())
        {
            let name = structures[index].name.clone();
            let cleaning = StructurePostprocessing {
                by_hand: config.steps.contains_key(&name),
                dice_before: dice.without[index],
                dice_after: dice.with[index],
                steps,
            };
            chosen.structures.insert(name, cleaning);
        }
        Ok(PostprocessingChoice {
            chosen: (!chosen.structures.is_empty()).then_some(chosen),
            tried,
        })
    }

    /// Tries the alternatives of one kind for all structures at once.
    fn try_kind(
        &self,
        kind: Alternatives,
        sizes_ml: &[Option<f64>],
        kept: &mut [Vec<Step>],
        tried: &mut Vec<Candidate>,
    ) -> Result<()> {
        let config = &self.recipe.postprocessing;
        let structures = &self.dataset.structures;
        let mut lists: Vec<Vec<Vec<Step>>> = Vec::new();
        for (index, structure) in structures.iter().enumerate() {
            let mut own = vec![kept[index].clone()];
            if !config.steps.contains_key(&structure.name) {
                let more = kind(sizes_ml[index], self.recipe.spacing_mm);
                own.extend(
                    more.into_iter()
                        .map(|step| [kept[index].clone(), vec![step]].concat()),
                );
            }
            lists.push(own);
        }
        let scores = self.scores(&lists)?;
        for (index, (own, scores)) in lists.into_iter().zip(scores).enumerate() {
            let means: Vec<Option<f64>> = scores.into_iter().map(|s| Summary::of(s).mean).collect();
            let gain = |at: usize| Some(means[at]? - means[0]?);
            // The first of those with equal gain: the simplest.
            let best = (1..own.len()).rev().max_by(|a, b| {
                let of = |at: &usize| gain(*at).unwrap_or(f64::NEG_INFINITY);
                of(a).total_cmp(&of(b))
            });
            let best = best.filter(|at| {
                gain(*at).is_some_and(|gain| gain >= config.smallest_gain && gain > 0.0)
            });
            for (at, steps) in own.into_iter().enumerate() {
                if Some(at) == best {
                    kept[index].clone_from(&steps);
                }
                if at > 0 || tried.len() < structures.len() {
                    tried.push(Candidate {
                        structure: structures[index].name.clone(),
                        steps,
                        mean_dice: means[at],
                        kept: Some(at) == best,
                    });
                }
            }
        }
        Ok(())
    }

    /// Structures whose Dice falls lose their steps, unless the steps were set by hand.
    fn drop_harmful(&self, kept: &mut [Vec<Step>]) -> Result<MeanDice> {
        let structures = &self.dataset.structures;
        let none = vec![Vec::new(); structures.len()];
        let without = self.means_applied(&none)?;
        loop {
            let with = self.means_applied(kept)?;
            let by_hand = |index: usize| {
                self.recipe
                    .postprocessing
                    .steps
                    .contains_key(&structures[index].name)
            };
            let harmed = (0..structures.len()).find(|index| {
                !by_hand(*index) && !kept[*index].is_empty() && with[*index] < without[*index]
            });
            match harmed {
                Some(index) => kept[index].clear(),
                None => return Ok(MeanDice { without, with }),
            }
        }
    }

    fn load(&self, (case, path): &(usize, PathBuf)) -> Result<(LabelMap, LabelMap)> {
        check_stop(self.stop, || "postprocessing was being chosen".to_owned())?;
        let (_, prediction) = read_label_map(path)?;
        let reference = self.dataset.load_labels(&self.dataset.cases[*case])?;
        let tolerance = self.dataset.reading.grid_tolerance;
        let placed = tolerance.placed(reference, &prediction.grid, "prediction");
        let (reference, _) = placed.map_err(|problem| Error::file(path, problem))?;
        Ok((prediction, reference))
    }

    fn values(&self) -> Vec<u16> {
        self.dataset.structures.iter().map(|s| s.value).collect()
    }

    fn median_volumes_ml(&self) -> Result<Vec<Option<f64>>> {
        let values = self.values();
        let volumes = self.maps.par_iter().map(|map| {
            let (_, reference) = self.load(map)?;
            let own = overlaps(&reference, &reference, &values)?;
            let ml = reference.grid.voxel_volume_ml();
            Ok(own
                .iter()
                .map(|o| o.reference_voxels() as f64 * ml)
                .collect())
        });
        let volumes = volumes.collect::<Result<Vec<Vec<f64>>>>()?;
        Ok((0..values.len())
            .map(|index| {
                let there = volumes
                    .iter()
                    .map(|case| case[index])
                    .filter(|ml| *ml > 0.0);
                let mut there: Vec<f64> = there.collect();
                there.sort_by(f64::total_cmp);
                there.get(there.len() / 2).copied()
            })
            .collect())
    }

    /// Scores each structure by itself; its neighbours matter only where both grow.
    fn scores(&self, lists: &[Vec<Vec<Step>>]) -> Result<Scores> {
        let values = self.values();
        let cases = self.maps.par_iter().map(|map| {
            let (prediction, reference) = self.load(map)?;
            let mut masked = prediction.clone();
            self.mask_ignored(&mut masked, &reference);
            let unchanged = overlaps(&masked, &reference, &values)?;
            drop(masked);
            let found = bounding_boxes(&prediction, &values);
            let structures = (0..values.len()).into_par_iter().map(|index| {
                let of = |steps: &Vec<Step>| match found[index] {
                    Some(found) if !steps.is_empty() => {
                        let part = apply_steps(&prediction, values[index], &found, steps);
                        let references = unchanged[index].reference_voxels();
                        self.overlap(&part, &reference, values[index], references)
                    }
                    _ => unchanged[index],
                };
                lists[index]
                    .iter()
                    .map(|steps| of(steps).dice())
                    .collect::<Vec<_>>()
            });
            Ok(structures.collect::<Vec<_>>())
        });
        let cases = cases.collect::<Result<Vec<_>>>()?;
        Ok(lists
            .iter()
            .enumerate()
            .map(|(index, own)| {
                let of = |at: usize| cases.iter().map(|case| case[index][at]).collect();
                (0..own.len()).map(of).collect()
            })
            .collect())
    }

    fn means_applied(&self, steps: &[Vec<Step>]) -> Result<Means> {
        let values = self.values();
        let plan: Vec<_> = values.iter().copied().zip(steps.iter().cloned()).collect();
        let cases = self.maps.par_iter().map(|map| {
            let (mut prediction, reference) = self.load(map)?;
            apply(&mut prediction, &plan)?;
            self.mask_ignored(&mut prediction, &reference);
            overlaps(&prediction, &reference, &values)
        });
        let cases = cases.collect::<Result<Vec<Vec<Overlap>>>>()?;
        let mean = |index: usize| Summary::of(cases.iter().map(|case| case[index].dice())).mean;
        Ok((0..values.len()).map(mean).collect())
    }

    /// Sets voxels with the reference's ignore label to background in `prediction`.
    fn mask_ignored(&self, prediction: &mut LabelMap, reference: &LabelMap) {
        if let Some(ignore) = self.dataset.ignore {
            prediction
                .data
                .zip_mut_with(&reference.data, |label, known| {
                    if *known == ignore {
                        *label = 0;
                    }
                });
        }
    }

    fn overlap(
        &self,
        part: &Part,
        reference: &LabelMap,
        value: u16,
        reference_voxels: u64,
    ) -> Overlap {
        let [z, y, x] = part.region.ranges_zyx();
        let own = reference.data.slice(ndarray::s![z, y, x]);
        let ignore = self.dataset.ignore;
        let (mut both, mut predicted) = (0u64, 0u64);
        ndarray::Zip::from(&part.mask)
            .and(own)
            .for_each(|inside, label| {
                predicted += u64::from(*inside && Some(*label) != ignore);
                both += u64::from(*inside && *label == value);
            });
        Overlap {
            true_positive: both,
            false_positive: predicted - both,
            false_negative: reference_voxels - both,
            true_negative: 0, // not used by Dice
        }
    }
}

type Means = Vec<Option<f64>>;

/// Alternative steps of one kind, for a structure with this median volume (mL) and a spacing.
type Alternatives = fn(Option<f64>, [f64; 3]) -> Vec<Step>;

fn components(median_ml: Option<f64>, _: [f64; 3]) -> Vec<Step> {
    let connectivity = Connectivity::TwentySix;
    let small = SMALL_SHARES.into_iter().filter_map(|share| {
        let ml = two_digits(median_ml? * share);
        (ml > 0.0).then_some(Step::SmallestVolume { ml, connectivity })
    });
    std::iter::once(Step::LargestComponent { connectivity })
        .chain(small)
        .collect()
}

fn holes(_: Option<f64>, _: [f64; 3]) -> Vec<Step> {
    [Within::Volume, Within::Slice]
        .map(|within| Step::FillHoles { within })
        .to_vec()
}

fn smoothing(_: Option<f64>, spacing_mm: [f64; 3]) -> Vec<Step> {
    let side = spacing_mm.iter().product::<f64>().cbrt();
    let gaussian = |share: f64| Step::Gaussian {
        sigma_mm: two_digits(share * side),
    };
    vec![gaussian(0.5), gaussian(1.0), Step::Median { voxels: 3 }]
}

/// Rounded to two digits, so that `model.toml` reads well.
fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}
