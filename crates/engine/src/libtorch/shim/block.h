#pragma once
#include "norm_act.h"

struct CtsegLayer;

namespace ctseg {

// A convolution with its normalisation and activation.
struct Layer {
  at::Tensor weight;  // (out, in, kernel...)
  at::Tensor bias;    // (out) or undefined
  std::vector<int64_t> stride, padding;
  NormAct norm_act;
};

// Converts Rust's description; see api.h for `training`.
Layer layer_of(const CtsegLayer& from, int training);

// Applies layers in sequence to x (batch, channel, ...). With `recompute`, autograd saves only the input and
// recomputes the block in the backward pass: less memory for one more forward pass.
at::Tensor conv_block(const at::Tensor& x, const std::vector<Layer>& layers, bool recompute);

}  // namespace ctseg
