//! The table `datasets/totalsegmentator/tasks.toml`, embedded in the binary.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use ctseg_base::text::suggest::nearest;
use ctseg_base::{Error, Result};
use ctseg_core::model::multi_part::{OTHERS, RoughManifest, When};
use ctseg_core::recipe::one_line;
use ctseg_image::labels::postprocess::Step;

const TABLE: &str = include_str!("../../../../datasets/totalsegmentator/tasks.toml");

/// Number of similar names listed for an unknown task.
const MAX_SUGGESTIONS: usize = 6;

static TASKS: LazyLock<Result<Tasks, String>> = LazyLock::new(|| {
    toml::from_str(TABLE).map_err(|error| format!("tasks.toml: {}", one_line(&error)))
});

/// Metadata of all TotalSegmentator tasks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tasks {
    /// TotalSegmentator version.
    pub version: String,
    licensed: Vec<String>,
    left_out: BTreeMap<String, String>,
    pub(super) models: BTreeMap<String, ModelEntry>,
    pub(super) tasks: BTreeMap<String, Task>,
}

/// One nnU-Net model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    /// Dataset folder in the weights folder.
    pub(super) folder: String,
    /// Model folder below it: trainer, plans and configuration.
    pub(super) model: String,
    /// The task name with which `totalseg_download_weights` downloads it.
    pub(super) download: String,
    /// All existing folds if empty.
    pub(super) folds: Vec<usize>,
    /// Step between patches as a fraction of the patch size.
    pub(super) step: f64,
    /// Whether images are resampled by linear interpolation.
    pub(super) linear: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    /// In the order of their label values, which start at 1.
    pub(super) structures: Vec<String>,
    pub(super) parts: Vec<TaskPart>,
    #[serde(default)]
    pub(super) rough: Option<TaskRough>,
    #[serde(default)]
    pub(super) postprocessing: BTreeMap<String, Vec<Step>>,
}

/// A network of a task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskPart {
    /// Dataset number.
    pub(super) model: u16,
    /// In the order of the network's own label values, which start at 1; the task's if empty.
    #[serde(default)]
    pub(super) structures: Vec<String>,
}

/// The rough model that finds the region of interest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskRough {
    pub(super) task: String,
    pub(super) when: When,
    pub(super) margin_mm: f64,
    /// The structures that define the region; if empty, each structure defines its own.
    #[serde(default)]
    pub(super) of: Vec<String>,
}

impl Tasks {
    /// The embedded table.
    ///
    /// # Errors
    /// A table that cannot be parsed, which the tests rule out.
    pub fn known() -> Result<&'static Self> {
        TASKS
            .as_ref()
            .map_err(|problem| Error::internal(problem.clone()))
    }

    /// A task by name.
    ///
    /// # Errors
    /// A task that needs a licence, an unsupported task, or an unknown name, each with what to do.
    pub(super) fn task(&self, name: &str) -> Result<&Task> {
        if let Some(task) = self.tasks.get(name) {
            return Ok(task);
        }
        if self.licensed.iter().any(|licensed| licensed == name) {
            return Err(Error::usage(format!(
                "--task {name}: its weights need a TotalSegmentator licence (free for academic use: https://backend.totalsegmentator.com/license-academic/); with a licence, import the network that TotalSegmentator downloaded with 'ctseg import nnunet FOLDER --fold 0 --axes ras --no-mirroring'"
            )));
        }
        if let Some(why) = self.left_out.get(name) {
            return Err(Error::usage(format!(
                "--task {name} cannot be imported: {why}; import its network alone with 'ctseg import nnunet FOLDER --fold 0 --axes ras --no-mirroring'"
            )));
        }
        let known = self.tasks.keys().map(String::as_str);
        let near = nearest(name, known, MAX_SUGGESTIONS);
        Err(Error::usage(format!(
            "--task {name}: TotalSegmentator {} has no such task; expected a task such as {} ('ctseg import totalsegmentator --help' lists all)",
            self.version,
            near.join(", ")
        )))
    }

    /// A network by dataset number.
    pub(super) fn model(&self, number: u16) -> Result<&ModelEntry> {
        self.models
            .get(&number.to_string())
            .ok_or_else(|| Error::internal(format!("tasks.toml has no model {number}")))
    }
}

pub fn task_names() -> Vec<&'static str> {
    let tasks = Tasks::known().map(|known| known.tasks.keys().map(String::as_str).collect());
    tasks.unwrap_or_default()
}

impl Task {
    /// The final label of a structure.
    pub(super) fn label(&self, structure: &str) -> Option<u16> {
        let place = self.structures.iter().position(|own| own == structure)?;
        u16::try_from(place + 1).ok()
    }

    /// Maps a part's own labels to final labels.
    pub(super) fn labels_of(&self, part: &TaskPart) -> BTreeMap<String, u16> {
        let structures = match part.structures.is_empty() {
            true => &self.structures,
            false => &part.structures,
        };
        let pairs = structures.iter().enumerate();
        pairs
            .filter_map(|(place, name)| Some(((place + 1).to_string(), self.label(name)?)))
            .collect()
    }
}

impl TaskRough {
    /// The rough model's manifest entry; `known` are its structures, `own` the task's.
    pub(super) fn manifest(&self, folder: &str, own: &[String], known: &[String]) -> RoughManifest {
        let stands_for = match self.of.is_empty() {
            false => BTreeMap::from([(OTHERS.to_owned(), self.of.clone())]),
            // Structures that the rough model lacks are searched for in the whole volume.
            true => {
                let shared = own.iter().filter(|name| known.contains(name));
                shared
                    .map(|name| (name.clone(), vec![name.clone()]))
                    .collect()
            }
        };
        RoughManifest {
            folder: folder.to_owned(),
            sha256: String::new(),
            when: self.when,
            margin_mm: self.margin_mm,
            stands_for,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_complete() {
        let known = Tasks::known().unwrap();
        assert!(known.tasks.len() > 30);
        for (name, task) in &known.tasks {
            let mut given = vec![false; task.structures.len()];
            for part in &task.parts {
                known.model(part.model).unwrap();
                let labels = task.labels_of(part);
                let named = match part.structures.len() {
                    0 => task.structures.len(),
                    some => some,
                };
                assert_eq!(
                    labels.len(),
                    named,
                    "{name}: a part's structure is not the task's"
                );
                labels
                    .values()
                    .for_each(|l| given[usize::from(*l) - 1] = true);
            }
            assert!(given.iter().all(|given| *given), "{name}");
            let Some(rough) = &task.rough else { continue };
            let finder = known.task(&rough.task).unwrap();
            let own = rough.of.iter();
            assert!(own.clone().all(|s| finder.structures.contains(s)), "{name}");
            assert_eq!(rough.when == When::Always, !rough.of.is_empty(), "{name}");
        }
        let in_all: std::collections::BTreeSet<u16> = known
            .tasks
            .values()
            .flat_map(|task| task.parts.iter().map(|part| part.model))
            .collect();
        assert_eq!(in_all.len(), known.models.len(), "models without a task");
    }

    #[test]
    fn an_unsupported_task_says_why() {
        let known = Tasks::known().unwrap();
        for (task, expected) in [
            ("face", "license-academic"),
            ("coronary_arteries", "license-academic"),
            ("vertebrae_pp", "renumbers the vertebrae"),
            ("lung_vesels", "expected a task such as lung_vessels"),
        ] {
            let said = known.task(task).unwrap_err().to_string();
            assert!(said.contains(expected) && said.contains(task), "{said}");
        }
    }
}
