//! A dataset of generated single slices on disk, for quick training without data.

use std::path::{Path, PathBuf};

use super::GeneratedSet;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_phantom::{SLICE_STRUCTURES, generate_slice};

/// Number of slices, and their seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSet {
    pub slices: usize,
    pub seed: u64,
}

impl Default for SliceSet {
    fn default() -> Self {
        Self {
            slices: 200,
            seed: 1,
        }
    }
}

impl SliceSet {
    /// Writes the slices, each a volume of 128 × 128 × 1 voxels, below `folder` with a descriptor, and
    /// returns its path. An existing dataset of the same settings is kept.
    ///
    /// # Errors
    /// The folder holds anything else, or cannot be written.
    pub fn written(&self, folder: &Path, observer: &dyn Observer) -> Result<PathBuf> {
        let set = GeneratedSet {
            what: "slices",
            descriptor: self.descriptor(),
            cases: (0..self.slices).map(|i| format!("slice_{i:03}")).collect(),
            make: &|index| generate_slice(index as u64, self.seed),
        };
        set.written(folder, observer)
    }

    fn descriptor(&self) -> String {
        let structures: String = SLICE_STRUCTURES
            .iter()
            .map(|(value, name)| format!("{name} = {value}\n"))
            .collect();
        format!(
            "# Generated CT-like slices: {}, seed {}.\n\
             name = \"phantom-slices\"\n\
             images = \"images/*.nii.gz\"\n\
             labels = \"labels/{{case}}.nii.gz\"\n\n\
             [structures]\n{structures}",
            self.slices, self.seed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{CheckDepth, Dataset};
    use crate::recipe::Recipe;
    use ctseg_base::progress::Silent;
    use ctseg_phantom::SLICE_SPACING_MM;

    #[test]
    fn slices_make_a_valid_dataset_on_the_grid_of_the_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let set = SliceSet { slices: 6, seed: 2 };
        let dataset = Dataset::open(&set.written(folder.path(), &Silent).unwrap()).unwrap();
        assert_eq!(dataset.training_cases().len(), 6);
        let report = dataset.check(CheckDepth::Voxels, |_, _| ());
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let loaded = dataset.load_image(&dataset.cases[4]).unwrap().volume;
        let (volume, _) = generate_slice(4, 2);
        assert_eq!(loaded.data, volume.data);
        assert!(loaded.grid.same_as(&volume.grid, 1e-3));
        // The network sees the generated pixels without resampling.
        let recipe = Recipe::named("slices", &[]).unwrap();
        assert_eq!(recipe.spacing_mm, [SLICE_SPACING_MM; 3]);
    }
}
