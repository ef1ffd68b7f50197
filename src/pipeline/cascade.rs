//! Both stages on one volume: coarse probabilities, region of interest, fine logits, label map on the
//! volume's own grid.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::mirroring::Mirroring;
use super::recipe::Region;
use super::roi::carried_over;
use super::segmenter::{Segmenter, network_grid, network_input};
use super::stage_one::run_stage_one;
use crate::arrays::resample::restore_exclusive;
use crate::error::{Error, Result};
use crate::tensors::device::Compute;
use crate::values::{LabelMap, Orientation, Volume, VoxelBox};

/// A model in memory, ready for any number of volumes.
pub struct Cascade {
    /// Only where stage 2 works inside a region of interest.
    stage1: Option<Segmenter>,
    stage2: Segmenter,
    /// Label values in the order of stage 2's maps.
    values: Vec<u16>,
    mirroring: Mirroring,
}

/// What was done to one volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CascadeReport {
    /// The region that stage 2 worked on, in voxels of the source file; none for a single-stage model.
    pub roi: Option<VoxelBox>,
    /// The region's share of the volume.
    pub roi_share: Option<f64>,
    /// How many mirror images stage 2 looked at, the volume itself included.
    #[serde(default = "one")]
    pub looks: usize,
    /// Deviations from the normal way, in words.
    pub notes: Vec<String>,
    /// Seconds per step.
    pub seconds: BTreeMap<String, f64>,
}

fn one() -> usize {
    1
}

impl Cascade {
    /// Loads the stages of a bundle that prediction needs.
    pub fn load(bundle: &Bundle, compute: &Compute) -> Result<Self> {
        let stage2 = bundle.segmenter(2, compute)?;
        let stage1 = match stage2.recipe.region {
            Region::Whole => None,
            Region::Roi => {
                let trained_on = bundle
                    .stage(2)
                    .and_then(|stage| stage.stage1_sha256.as_deref());
                if trained_on != bundle.stage_sha256(1) {
                    return Err(Error::file(
                        &bundle.path,
                        "stage 2 was trained on another stage 1 than the model holds; run 'ctseg fit --stage 2' again",
                    ));
                }
                Some(bundle.segmenter(1, compute)?)
            }
        };
        let values = bundle
            .structures()?
            .iter()
            .map(|structure| structure.value)
            .collect();
        Ok(Self {
            stage1,
            stage2,
            values,
            mirroring: Mirroring::none(),
        })
    }

    /// With stage 2 looking at mirror images too.
    ///
    /// # Errors
    /// See [`Mirroring::new`].
    pub fn mirrored(self, bundle: &Bundle) -> Result<Self> {
        let mirroring = Mirroring::new(&self.stage2.recipe, &bundle.structures()?)?;
        Ok(Self { mirroring, ..self })
    }

    /// How many mirror images stage 2 looks at, the volume itself included.
    pub fn looks(&self) -> usize {
        self.mirroring.looks()
    }

    /// What stage 2's work is counted in.
    pub fn unit(&self) -> &'static str {
        self.stage2.recipe.unit()
    }

    /// Segments one volume; the result lies on exactly its grid. `on_pieces` hears of progress:
    /// slices or patches done, and how many there are.
    pub fn segment(
        &self,
        volume: &Volume,
        on_pieces: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(LabelMap, CascadeReport)> {
        let mut seconds = BTreeMap::new();
        let mut timed = Instant::now();
        let mut lap = |step: &str| {
            seconds.insert(step.to_owned(), timed.elapsed().as_secs_f64());
            timed = Instant::now();
        };
        let ras = volume.grid.reoriented(Orientation::RAS);
        let mut notes = Vec::new();
        let (region, prior) = match &self.stage1 {
            Some(stage1) => {
                let (roi, prior) = run_stage_one(stage1, volume, None)?;
                if roi.touches_border && roi.fallback.is_none() {
                    notes.push(
                        "the region touches the end of the scan; structures may be cut off there"
                            .to_owned(),
                    );
                }
                notes.extend(roi.fallback);
                (roi.region, Some(prior))
            }
            None => (VoxelBox::whole(ras.shape), None),
        };
        lap("stage1");
        let grid = network_grid(&self.stage2.recipe, &volume.grid, &region);
        let input = network_input(&self.stage2.recipe, volume, &grid, prior.as_ref())?;
        lap("preprocess");
        let (_, depth, height, width) = input.dim();
        let pieces = self.looks() * self.stage2.pieces([depth, height, width]);
        let logits = self.mirroring.mean_logits(input.view(), |seen| {
            self.stage2.logits(seen, &|count| on_pieces(count, pieces))
        })?;
        drop(input);
        // What the network worked with is not kept beside the restored volume.
        self.stage2.release_memory()?;
        lap("stage2");
        let labels = restore_exclusive(logits.view(), &grid, &volume.grid, &self.values)?;
        lap("restore");
        let roi = match self.stage1 {
            Some(_) => Some(carried_over(&region, &ras, &volume.grid)?),
            None => None,
        };
        let roi_share = roi.map(|roi| roi.voxels() as f64 / volume.grid.voxels() as f64);
        Ok((
            labels,
            CascadeReport {
                roi,
                roi_share,
                looks: self.looks(),
                notes,
                seconds,
            },
        ))
    }
}
