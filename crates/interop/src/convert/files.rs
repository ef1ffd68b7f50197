//! Plans and writes the files of a case.

use std::path::{Path, PathBuf};

use super::case::{Checked, ReadyLabels};
use super::target::Format;
use ctseg_base::Result;
use ctseg_core::dataset::LabelSource;
use ctseg_image::nifti;

pub(super) const FOLDERS: [&str; 4] = ["imagesTr", "labelsTr", "imagesTs", "labelsTs"];

/// A case and its output files.
#[derive(Debug, Clone)]
pub(super) struct Planned<'a> {
    /// Index into the dataset's cases.
    pub index: usize,
    pub name: &'a str,
    pub test: bool,
    /// Relative to the converted dataset's folder: one file with all channels, or one per channel.
    pub images: Vec<PathBuf>,
    pub labels: Option<PathBuf>,
}

impl<'a> Planned<'a> {
    pub fn new(
        index: usize,
        name: &'a str,
        test: bool,
        labels: &LabelSource,
        channels: usize,
        format: Format,
    ) -> Self {
        let set = if test { "Ts" } else { "Tr" };
        let image = |ending: String| PathBuf::from(format!("images{set}/{name}{ending}.nii.gz"));
        let labelled = *labels != LabelSource::None;
        Self {
            index,
            name,
            test,
            images: match format {
                Format::Msd => vec![image(String::new())],
                Format::NnUnet => (0..channels)
                    .map(|channel| image(format!("_{channel:04}")))
                    .collect(),
            },
            labels: labelled.then(|| PathBuf::from(format!("labels{set}/{name}.nii.gz"))),
        }
    }

    /// All output files of the case.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.images.iter().chain(&self.labels)
    }

    /// Writes image and labels below `folder`, each file atomically.
    pub fn write(
        &self,
        checked: &Checked,
        images: &[PathBuf],
        folder: &Path,
        format: Format,
    ) -> Result<()> {
        let targets: Vec<PathBuf> = self.images.iter().map(|path| folder.join(path)).collect();
        match (format, images) {
            (Format::NnUnet, [all]) => nifti::write_split(all, &targets)?,
            (Format::NnUnet, several) => {
                for (image, target) in several.iter().zip(&targets) {
                    nifti::write_split(image, std::slice::from_ref(target))?;
                }
            }
            (Format::Msd, images) => {
                for target in &targets {
                    nifti::write_joined(images, target)?;
                }
            }
        }
        let Some((path, labels)) = self.labels.as_ref().zip(checked.labels.as_ref()) else {
            return Ok(());
        };
        let path = folder.join(path);
        match labels {
            ReadyLabels::AsIs(source) => nifti::copy(source, &path),
            ReadyLabels::Made(labels) => nifti::write_labels(&path, labels, &checked.header),
        }
    }
}
