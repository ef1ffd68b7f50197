#pragma once
#include "block.h"

namespace ctseg {

// A convolution in 8-bit integers: weights per output channel, symmetric; inputs as
// round(x / scale) + zero_point in 0..255.
struct Int8Layer {
  at::Tensor weight;       // in oneDNN's own layout
  at::Tensor weight_scale, weight_zero;  // per output channel
  at::Tensor bias;         // f32 or undefined
  double scale;
  int64_t zero_point;
};

// `low` and `high`: the values that the layer's inputs take; what lies outside is clipped. `shape`: of such an input.
Int8Layer int8_layer(const Layer& layer, double low, double high, at::IntArrayRef shape);

// As conv_block in inference. Layers without a partner in `int8` (null) compute in x's own type.
at::Tensor int8_block(const at::Tensor& x, const std::vector<Layer>& layers,
                      const std::vector<const Int8Layer*>& int8);

}  // namespace ctseg

// What Rust holds.
struct CtsegInt8 {
  ctseg::Int8Layer layer;
};
