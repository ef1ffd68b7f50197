//! All-reduce of gradients over the processes that share a batch.

use crate::batch::Batch;
use crate::distributed::process_group::ProcessGroup;
use ctseg_base::Result;

static ALONE: ProcessGroup = ProcessGroup::single();

/// The group that shares `batch`; only this process if every process holds the whole batch.
pub(crate) fn sharing_group<'a>(group: &'a ProcessGroup, batch: &Batch) -> &'a ProcessGroup {
    match batch.is_whole() {
        true => &ALONE,
        false => group,
    }
}

/// Turns `gradients` of this process's share of `batch` into those of the whole batch.
pub(crate) fn all_reduce_gradients(
    group: &ProcessGroup,
    batch: &Batch,
    gradients: &mut [f32],
) -> Result<()> {
    group.all_reduce_f32(gradients)?;
    let share = gradient_scale(group, batch);
    if share != 1.0 {
        for value in gradients {
            *value *= share;
        }
    }
    Ok(())
}

/// Factor for sums over the processes: their mean if each holds the whole batch.
pub(crate) fn gradient_scale(group: &ProcessGroup, batch: &Batch) -> f32 {
    match batch.is_whole() {
        true => 1.0 / group.size() as f32,
        false => 1.0,
    }
}
