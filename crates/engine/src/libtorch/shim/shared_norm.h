#pragma once
#include "norm_act.h"

namespace ctseg {

// Whether batch normalisations in training see the batch of all processes, see ctseg_share_norms in api.h.
bool norms_are_shared();

// Batch normalisation (without activation) of x (batch, channel, ...) by the statistics of the batch that several
// processes share, on any device; updates the running ones.
at::Tensor shared_batch_norm(const at::Tensor& x, const NormAct& settings);

}  // namespace ctseg
