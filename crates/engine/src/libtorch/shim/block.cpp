#include "block.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace ctseg {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// oneDNN's fused bf16 convolutions need these instructions; libtorch's other convolutions do not.
bool cpu_fuses(at::ScalarType type) {
#ifdef CTSEG_X86
  return type == at::kFloat || (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                                __builtin_cpu_supports("avx512dq"));
#else
  return type == at::kFloat;
#endif
}

// oneDNN's fused convolution with bias and activation, without autograd; undefined if not applicable.
Tensor fused_convolution(const Tensor& x, const Layer& layer, const Tensor& weight, const Tensor& bias) {
  const double slope = layer.norm_act.slope;
  const bool usable = layer.norm_act.norm == Norm::kNone && !at::GradMode::is_enabled() && x.device().is_cpu() &&
                      (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) &&
                      cpu_fuses(x.scalar_type()) && at::globalContext().userEnabledMkldnn();
  if (!usable) return Tensor();
  using Signature = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, at::IntArrayRef,
                           at::IntArrayRef, at::IntArrayRef, int64_t, std::string_view,
                           torch::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto handle = c10::Dispatcher::singleton().findSchema({"mkldnn::_convolution_pointwise", ""});
  if (!handle) return Tensor();
  static const auto op = handle->typed<Signature>();
  const std::vector<int64_t> dilation(layer.stride.size(), 1);
  torch::List<std::optional<at::Scalar>> scalars;
  std::string_view activation = slope == 1.0 ? "none" : slope == 0.0 ? "relu" : "leaky_relu";
  if (activation == "leaky_relu") scalars.push_back(at::Scalar(slope));
  return op.call(x, weight, bias.defined() ? std::optional<Tensor>(bias) : std::nullopt, layer.padding,
                 layer.stride, dilation, 1, activation, scalars, std::nullopt);
}

Tensor one_layer(const Tensor& x, const Layer& layer) {
  const auto type = x.scalar_type();
  const Tensor weight = layer.weight.to(type);
  const Tensor bias = layer.bias.defined() ? layer.bias.to(type) : layer.bias;
  const Tensor fused = fused_convolution(x, layer, weight, bias);
  if (fused.defined()) return fused;
  const std::vector<int64_t> dilation(layer.stride.size(), 1), no_padding(layer.stride.size(), 0);
  const Tensor y = at::convolution(x, weight, bias.defined() ? std::optional<Tensor>(bias) : std::nullopt,
                                   layer.stride, layer.padding, dilation, false, no_padding, 1);
  return norm_act(y, layer.norm_act);
}

Tensor all_layers(const Tensor& x, const std::vector<Layer>& layers) {
  Tensor y = x;
  for (const Layer& layer : layers) y = one_layer(y, layer);
  return y;
}

// Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static Tensor forward(AutogradContext* context, at::TensorList inputs, const std::vector<Layer>* layers) {
    // inputs: x, then each layer's weight, bias, gamma, beta where they are defined
    context->save_for_backward(inputs.vec());
    std::vector<Layer>* kept = new std::vector<Layer>(*layers);
    for (Layer& layer : *kept) {
      layer.norm_act.update_statistics = false;  // already updated with this batch
      layer.weight = layer.bias = layer.norm_act.gamma = layer.norm_act.beta = Tensor();
    }
    context->saved_data["layers"] = c10::IValue::make_capsule(
        c10::make_intrusive<Kept>(std::unique_ptr<std::vector<Layer>>(kept), *layers));
    at::AutoDispatchBelowADInplaceOrView below;
    at::NoGradGuard no_grad;
    return all_layers(inputs[0], *layers);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto kept = context->saved_data["layers"].toCapsule();
    const Kept& shapes = static_cast<const Kept&>(*kept);
    at::AutoGradMode grad(true);
    variable_list inputs;
    for (size_t i = 0; i < saved.size(); ++i) {
      Tensor leaf = saved[i].detach();
      leaf.set_requires_grad(context->needs_input_grad(i));
      inputs.push_back(leaf);
    }
    std::vector<Layer> layers = *shapes.layers;
    size_t next = 1;
    for (size_t i = 0; i < layers.size(); ++i) {
      layers[i].weight = inputs[next++];
      if (shapes.has_bias[i]) layers[i].bias = inputs[next++];
      if (layers[i].norm_act.norm != Norm::kNone) {
        layers[i].norm_act.gamma = inputs[next++];
        layers[i].norm_act.beta = inputs[next++];
      }
    }
    const Tensor y = all_layers(inputs[0], layers);
    variable_list wanted;
    for (const Tensor& input : inputs)
      if (input.requires_grad()) wanted.push_back(input);
    const variable_list found = torch::autograd::grad({y}, wanted, {gradients[0].to(y.scalar_type())});
    variable_list result;
    size_t at = 0;
    for (const Tensor& input : inputs) result.push_back(input.requires_grad() ? found[at++] : Tensor());
    result.push_back(Tensor());  // for `layers`
    return result;
  }

 private:
  struct Kept : torch::CustomClassHolder {
    std::unique_ptr<std::vector<Layer>> layers;
    std::vector<bool> has_bias;
    Kept(std::unique_ptr<std::vector<Layer>> stripped, const std::vector<Layer>& whole)
        : layers(std::move(stripped)) {
      for (const Layer& layer : whole) has_bias.push_back(layer.bias.defined());
    }
  };
};

}  // namespace

Tensor conv_block(const Tensor& x, const std::vector<Layer>& layers, bool recompute) {
  if (!recompute || !at::GradMode::is_enabled()) return all_layers(x, layers);
  variable_list inputs = {x};
  for (const Layer& layer : layers) {
    inputs.push_back(layer.weight);
    if (layer.bias.defined()) inputs.push_back(layer.bias);
    if (layer.norm_act.norm != Norm::kNone) {
      inputs.push_back(layer.norm_act.gamma);
      inputs.push_back(layer.norm_act.beta);
    }
  }
  return Recomputed::apply(at::TensorList(inputs), &layers);
}

}  // namespace ctseg
