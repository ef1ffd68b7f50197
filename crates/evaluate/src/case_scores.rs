//! Scores of one case.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::scores::StructureScores;
use crate::tolerances::Tolerances;
use ctseg_base::text::suggest::expected;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::model::identity::ModelUsed;
use ctseg_image::space::LabelMap;

/// One compared case.
#[derive(Debug, Clone)]
pub struct CaseScores {
    pub case: String,
    /// The label map.
    pub prediction: PathBuf,
    /// The reference label map, if it is a single file.
    pub reference: Option<PathBuf>,
    /// The image, if the dataset or the prediction's sidecar names it.
    pub image: Option<PathBuf>,
    /// One per structure of the evaluation.
    pub scores: Vec<StructureScores>,
    pub voxel_ml: f64,
    /// Share of the reference's foreground inside stage 1's region, if the sidecar records the region.
    pub roi_recall: Option<f64>,
    /// The region's share of the volume.
    pub roi_share: Option<f64>,
    /// The model that made the prediction, if the sidecar names it.
    pub model: Option<ModelUsed>,
}

pub(super) struct Structures {
    /// None: all that occur.
    pub known: Option<Vec<Structure>>,
    /// Index in `known` by label value.
    indices: HashMap<u16, usize>,
    pub tolerances: Tolerances,
}

impl Structures {
    /// Checks that every structure with its own tolerance is known.
    pub fn new(known: Option<Vec<Structure>>, tolerances: Tolerances) -> Result<Self> {
        if let Some(known) = &known {
            let is_known = |name: &str| known.iter().any(|structure| structure.name == name);
            if let Some(unknown) = tolerances.named().find(|name| !is_known(name)) {
                let names: Vec<&str> = known.iter().map(|s| s.name.as_str()).collect();
                return Err(Error::usage(format!(
                    "--tolerance names '{unknown}', which is not a structure here; expected one of {}",
                    expected(unknown, &names)
                )));
            }
        }
        let all = known.iter().flatten().enumerate();
        let mut indices = HashMap::new();
        for (index, structure) in all {
            indices.entry(structure.value).or_insert(index);
        }
        Ok(Self {
            known,
            indices,
            tolerances,
        })
    }

    /// The structure of a label value.
    pub fn of(&self, value: u16) -> Structure {
        let known = self.known.as_ref().zip(self.indices.get(&value));
        let known = known.and_then(|(known, index)| known.get(*index));
        known.cloned().unwrap_or_else(|| Structure {
            value,
            name: format!("structure_{value}"),
        })
    }

    pub fn tolerance_mm(&self, value: u16) -> f64 {
        self.tolerances.of(&self.of(value).name)
    }
}

/// Sets voxels with the ignore value to background in both maps; returns their number.
pub fn mask_ignored(
    prediction: &mut LabelMap,
    reference: &mut LabelMap,
    ignore: Option<u16>,
) -> u64 {
    let Some(ignore) = ignore else { return 0 };
    let mut ignored = 0;
    ndarray::Zip::from(&mut prediction.data)
        .and(&mut reference.data)
        .for_each(|prediction, reference| {
            if *reference == ignore {
                (*prediction, *reference) = (0, 0);
                ignored += 1;
            }
        });
    ignored
}
