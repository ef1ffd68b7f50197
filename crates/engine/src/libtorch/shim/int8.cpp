// Post-training int8 convolutions with oneDNN (Jacob et al., "Quantization and Training of Neural Networks for
// Efficient Integer-Arithmetic-Only Inference", CVPR 2018): values stay integers between consecutive convolutions;
// normalisations compute in f32 and write integers.
#include "int8.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "api.h"
#include "guard.h"

namespace ctseg {
namespace {

using at::Tensor;

Tensor packed(const Tensor& weight, const Tensor& scale, double x_scale, int64_t x_zero, const Layer& layer,
              at::IntArrayRef shape) {
  using Signature = Tensor(Tensor, Tensor, double, int64_t, torch::List<int64_t>, torch::List<int64_t>,
                           torch::List<int64_t>, int64_t, std::optional<torch::List<int64_t>>);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("onednn::qconv_prepack", "").typed<Signature>();
  const auto list = [](at::IntArrayRef values) { return torch::List<int64_t>(values); };
  const std::vector<int64_t> dilation(layer.stride.size(), 1);
  return op.call(weight, scale, x_scale, x_zero, list(layer.stride), list(layer.padding), list(dilation), 1,
                 list(shape));
}

// An int8 convolution of `x` into `type`; `scale` and `zero_point` of the result if it is int8 too.
Tensor convolution(const Tensor& x, const Layer& layer, const Int8Layer& int8, at::ScalarType type, double scale,
                   int64_t zero_point, bool relu) {
  using Signature = Tensor(Tensor, double, int64_t, Tensor, Tensor, Tensor, std::optional<Tensor>,
                           torch::List<int64_t>, torch::List<int64_t>, torch::List<int64_t>, int64_t, double,
                           int64_t, std::optional<at::ScalarType>, std::string_view,
                           torch::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto flat =
      c10::Dispatcher::singleton().findSchemaOrThrow("onednn::qconv2d_pointwise", "").typed<Signature>();
  static const auto deep =
      c10::Dispatcher::singleton().findSchemaOrThrow("onednn::qconv3d_pointwise", "").typed<Signature>();
  const auto list = [](at::IntArrayRef values) { return torch::List<int64_t>(values); };
  const std::vector<int64_t> dilation(layer.stride.size(), 1);
  const auto& op = layer.stride.size() == 2 ? flat : deep;
  return op.call(x, int8.scale, int8.zero_point, int8.weight, int8.weight_scale, int8.weight_zero,
                 int8.bias.defined() ? std::optional<Tensor>(int8.bias) : std::nullopt, list(layer.stride),
                 list(layer.padding), list(dilation), 1, scale, zero_point, type, relu ? "relu" : "none",
                 torch::List<std::optional<at::Scalar>>(), std::string_view(""));
}

}  // namespace

Int8Layer int8_layer(const Layer& layer, double low, double high, at::IntArrayRef shape) {
  at::NoGradGuard no_grad;
  Int8Layer result;
  // Zero must be exact because of padding.
  low = std::min(low, 0.0);
  high = std::max(high, low + 1e-6);
  high = std::max(high, 0.0);
  result.scale = (high - low) / 255.0;
  result.zero_point = std::clamp<int64_t>(std::llround(-low / result.scale), 0, 255);
  const Tensor weight = layer.weight.to(at::kFloat).contiguous();
  const int64_t out = weight.size(0);
  std::vector<int64_t> per_channel(weight.dim(), 1);
  per_channel[0] = out;
  const Tensor largest = weight.view({out, -1}).abs().amax(1);
  result.weight_scale = (largest / 127.0).clamp_min(1e-12).contiguous();
  result.weight_zero = at::zeros({out}, at::kInt);
  const Tensor rounded = (weight / result.weight_scale.view(per_channel)).round().clamp(-127, 127).to(at::kChar);
  result.weight = packed(rounded, result.weight_scale, result.scale, result.zero_point, layer, shape);
  if (layer.bias.defined()) result.bias = layer.bias.to(at::kFloat).contiguous();
  return result;
}

Tensor int8_block(const Tensor& x, const std::vector<Layer>& layers, const std::vector<const Int8Layer*>& int8) {
  at::NoGradGuard no_grad;
  const auto type = x.scalar_type();
  Tensor y = x;
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const Int8Layer* own = int8[i];
    const Int8Layer* next = i + 1 < layers.size() ? int8[i + 1] : nullptr;
    const double scale = next ? next->scale : 1.0;
    const int64_t zero_point = next ? next->zero_point : 0;
    if (!own) {
      y = conv_block(y, {layer}, false);
      if (next) y = quantised(y, NormAct::none(), scale, zero_point);
      continue;
    }
    if (i == 0) y = quantised(y, NormAct::none(), own->scale, own->zero_point);
    const NormAct& after = layer.norm_act;
    const bool fused = after.norm == Norm::kNone && (after.slope == 0.0 || after.slope == 1.0);
    if (fused) {
      y = convolution(y, layer, *own, next ? at::kByte : type, scale, zero_point, after.slope == 0.0);
    } else {
      y = convolution(y, layer, *own, type, 1.0, 0, false);
      y = next ? quantised(y, after, scale, zero_point) : norm_act(y, after);
    }
  }
  return y;
}

}  // namespace ctseg

extern "C" int ctseg_range(at::Tensor* x, double* low, double* high, char** error) {
  return ctseg::guarded(error, [&] {
    at::NoGradGuard no_grad;
    const auto [least, most] = at::aminmax(x->detach());
    *low = least.item<double>();
    *high = most.item<double>();
  });
}

extern "C" int ctseg_int8_layer(const CtsegLayer* layer, const long long* shape, int axes, double low, double high,
                                CtsegInt8** result, char** error) {
  return ctseg::guarded(error, [&] {
    const std::vector<int64_t> sizes(shape, shape + axes);
    *result = new CtsegInt8{ctseg::int8_layer(ctseg::layer_of(*layer, 0), low, high, sizes)};
  });
}

extern "C" int ctseg_int8_block(at::Tensor* x, const CtsegLayer* layers, const CtsegInt8* const* int8, int count,
                                at::Tensor** result, char** error) {
  return ctseg::guarded(error, [&] {
    std::vector<ctseg::Layer> all;
    std::vector<const ctseg::Int8Layer*> partners;
    for (int i = 0; i < count; ++i) {
      all.push_back(ctseg::layer_of(layers[i], 0));
      partners.push_back(int8[i] ? &int8[i]->layer : nullptr);
    }
    *result = new at::Tensor(ctseg::int8_block(*x, all, partners));
  });
}

extern "C" void ctseg_int8_free(CtsegInt8* layer) { delete layer; }
