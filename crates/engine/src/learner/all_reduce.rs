//! What several processes do with a batch that they share.

use crate::batch::Batch;
use crate::distributed::process_group::Team;
use ctseg_base::Result;

static ALONE: Team = Team::alone();

/// Who has a share of `batch`: nobody else where every process has all of it.
pub(crate) fn shared_by<'a>(team: &'a Team, batch: &Batch) -> &'a Team {
    match batch.is_whole() {
        true => &ALONE,
        false => team,
    }
}

/// `gradients` of this process's share of `batch` as those of all of it.
pub(crate) fn add_up(team: &Team, batch: &Batch, gradients: &mut [f32]) -> Result<()> {
    team.sum_f32(gradients)?;
    let share = share_of(team, batch);
    if share != 1.0 {
        for value in gradients {
            *value *= share;
        }
    }
    Ok(())
}

/// What sums over the processes are multiplied by: where each had the whole batch, it is their mean that counts.
pub(crate) fn share_of(team: &Team, batch: &Batch) -> f32 {
    match batch.is_whole() {
        true => 1.0 / team.size() as f32,
        false => 1.0,
    }
}
