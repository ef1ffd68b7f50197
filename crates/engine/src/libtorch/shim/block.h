#pragma once
#include "norm_act.h"

struct CtsegLayer;

namespace ctseg {

// A convolution with what follows it.
struct Layer {
  at::Tensor weight;  // (out, in, kernel...)
  at::Tensor bias;    // (out) or undefined
  std::vector<int64_t> stride, padding;
  NormAct norm_act;
};

// As Rust describes it; see api.h for `training`.
Layer layer_of(const CtsegLayer& from, int training);

// Layers one after the other on x (batch, channel, ...). With `recompute`, autograd keeps the input alone
// and computes the block again on the way back: less memory, one forward pass more.
at::Tensor conv_block(const at::Tensor& x, const std::vector<Layer>& layers, bool recompute);

}  // namespace ctseg
