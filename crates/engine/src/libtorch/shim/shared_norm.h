#pragma once
#include "norm_act.h"

namespace ctseg {

// Whether batch normalisation in training is synchronised, see ctseg_share_norms in api.h.
bool norms_are_shared();

// Batch normalisation (without activation) of x (batch, channel, ...) with statistics over all processes that share
// the batch, on any device; updates the running statistics.
at::Tensor shared_batch_norm(const at::Tensor& x, const NormAct& settings);

}  // namespace ctseg
