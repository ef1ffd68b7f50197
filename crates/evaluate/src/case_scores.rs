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

/// One case's comparison.
#[derive(Debug, Clone)]
pub struct CaseScores {
    pub case: String,
    /// The label map.
    pub prediction: PathBuf,
    /// The reference's label map, where it is one file.
    pub reference: Option<PathBuf>,
    /// What both are of, as far as dataset or prediction tell.
    pub image: Option<PathBuf>,
    /// One per structure of the evaluation.
    pub scores: Vec<StructureScores>,
    pub voxel_ml: f64,
    /// Share of the reference's foreground inside stage 1's region, where the prediction tells its region.
    pub roi_recall: Option<f64>,
    /// The region's share of the volume.
    pub roi_share: Option<f64>,
    /// What the prediction was made by, where it tells.
    pub model: Option<ModelUsed>,
}

/// What is to be compared.
pub(super) struct Structures {
    /// None: whatever occurs.
    pub known: Option<Vec<Structure>>,
    /// Their places by label value.
    places: HashMap<u16, usize>,
    pub tolerances: Tolerances,
}

impl Structures {
    /// Checks that structures with tolerances of their own are among those known.
    pub fn new(known: Option<Vec<Structure>>, tolerances: Tolerances) -> Result<Self> {
        if let Some(known) = &known {
            let is_known = |name: &str| known.iter().any(|structure| structure.name == name);
            if let Some(unknown) = tolerances.named().find(|name| !is_known(name)) {
                let names: Vec<&str> = known.iter().map(|s| s.name.as_str()).collect();
                return Err(Error::usage(format!(
                    "a tolerance is given for '{unknown}', which is no structure here; expected one of {}",
                    expected(unknown, &names)
                )));
            }
        }
        let all = known.iter().flatten().enumerate();
        let mut places = HashMap::new();
        for (place, structure) in all {
            places.entry(structure.value).or_insert(place);
        }
        Ok(Self {
            known,
            places,
            tolerances,
        })
    }

    /// The structure of a label value.
    pub fn of(&self, value: u16) -> Structure {
        let known = self.known.as_ref().zip(self.places.get(&value));
        let known = known.and_then(|(known, place)| known.get(*place));
        known.cloned().unwrap_or_else(|| Structure {
            value,
            name: format!("structure_{value}"),
        })
    }

    pub fn tolerance_mm(&self, value: u16) -> f64 {
        self.tolerances.of(&self.of(value).name)
    }
}

/// Background in both where the reference does not know what is there; how many voxels these are.
pub fn forget_ignored(
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
