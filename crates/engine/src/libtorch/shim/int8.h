#pragma once
#include "block.h"

namespace ctseg {

// An int8 convolution: symmetric weights per output channel; inputs as round(x / scale) + zero_point in 0..255.
struct Int8Layer {
  at::Tensor weight;       // in oneDNN's layout
  at::Tensor weight_scale, weight_zero;  // per output channel
  at::Tensor bias;         // f32 or undefined
  double scale;
  int64_t zero_point;
};

// `low` and `high`: range of the layer's inputs; values outside are clipped. `shape`: of such an input.
Int8Layer int8_layer(const Layer& layer, double low, double high, at::IntArrayRef shape);

// conv_block in inference. Layers whose entry in `int8` is null compute in the type of x.
at::Tensor int8_block(const at::Tensor& x, const std::vector<Layer>& layers,
                      const std::vector<const Int8Layer*>& int8);

}  // namespace ctseg

// The handle that Rust holds.
struct CtsegInt8 {
  ctseg::Int8Layer layer;
};
