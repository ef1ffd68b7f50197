//! The parent of a run.

use serde::{Deserialize, Serialize};

use super::settings::Environment;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parent {
    /// An existing run, by its run ID.
    Run(String),
    /// The parent run of a group, by name, see [`super::parent_run`].
    Group(String),
}

impl Parent {
    /// The group of this process's Slurm job array.
    pub fn of_array(environment: Environment) -> Option<Self> {
        let array = environment("SLURM_ARRAY_JOB_ID")?;
        let cluster = environment("SLURM_CLUSTER_NAME").unwrap_or_default();
        let name = ["slurm", &cluster, &array].map(str::to_owned);
        let parts: Vec<String> = name.into_iter().filter(|part| !part.is_empty()).collect();
        Some(Self::group(&parts.join(" ")))
    }

    /// The group called `name`.
    pub fn group(name: &str) -> Self {
        // Filters do not accept quotes.
        Self::Group(name.replace(['\'', '"', '`'], "_"))
    }
}
