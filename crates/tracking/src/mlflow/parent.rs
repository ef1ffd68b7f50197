//! The parent run that child runs are shown below.

use serde::{Deserialize, Serialize};

use super::settings::Environment;

/// What a run lies below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Above {
    /// A run of the server's, by its number there.
    Run(String),
    /// The run of a group, by the group's name.
    Group(String),
}

impl Above {
    /// The array of jobs that this process belongs to.
    pub fn of_array(environment: Environment) -> Option<Self> {
        let array = environment("SLURM_ARRAY_JOB_ID")?;
        let cluster = environment("SLURM_CLUSTER_NAME").unwrap_or_default();
        let name = ["slurm", &cluster, &array].map(str::to_owned);
        let parts: Vec<String> = name.into_iter().filter(|part| !part.is_empty()).collect();
        Some(Self::group(&parts.join(" ")))
    }

    /// The group called `name`.
    pub fn group(name: &str) -> Self {
        // Filters take no quotes.
        Self::Group(name.replace(['\'', '"', '`'], "_"))
    }
}
