// Synchronised batch normalisation over several processes (PyTorch's SyncBatchNorm): statistics come from sums over
// all shares of the batch, and so does the part of the gradient that flows through them.
#include "shared_norm.h"

#include <vector>

#include "api.h"

namespace ctseg {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Set during a training step; the backward pass may run on one of libtorch's threads.
CtsegWhole add_up = nullptr;
void* add_up_context = nullptr;

std::vector<int64_t> all_but_channels(const Tensor& x) {
  std::vector<int64_t> axes = {0};
  for (int64_t axis = 2; axis < x.dim(); ++axis) axes.push_back(axis);
  return axes;
}

// Reshapes one value per channel for broadcasting with x.
Tensor beside(const Tensor& values, const Tensor& x) {
  std::vector<int64_t> shape(x.dim(), 1);
  shape[1] = x.size(1);
  return values.view(shape);
}

// Means over the whole batch, from `sums` (any, channel) over this share of `count` values.
Tensor means(const Tensor& sums, int64_t count) {
  const Tensor here = sums.to(at::kDouble).cpu().contiguous();
  std::vector<double> values(here.const_data_ptr<double>(), here.const_data_ptr<double>() + here.numel());
  values.push_back(static_cast<double>(count));
  TORCH_CHECK(add_up, "a shared normalisation outside of its training step");
  add_up(values.data(), static_cast<long long>(values.size()), add_up_context);
  const double all = values.back();
  values.pop_back();
  return (at::tensor(values, at::kDouble).view(sums.sizes()) / all).to(at::kFloat).to(sums.device());
}

class SharedBatchNorm : public torch::autograd::Function<SharedBatchNorm> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                        const NormAct* settings) {
    const auto axes = all_but_channels(x);
    const Tensor wide = x.to(at::kFloat);
    const int64_t own = x.numel() / std::max<int64_t>(x.size(1), 1);
    const Tensor mean = means(wide.sum(axes, false, at::kDouble), own);
    const Tensor apart = wide - beside(mean, x);
    const Tensor variance = means(apart.square().sum(axes, false, at::kDouble), own);
    const Tensor inverse = (variance + settings->epsilon).rsqrt();
    if (settings->update_statistics) {
      // With the biased variance, as elsewhere.
      Tensor(settings->mean).lerp_(mean, settings->momentum);
      Tensor(settings->variance).lerp_(variance, settings->momentum);
    }
    const Tensor normed = apart * beside(inverse, x);
    context->save_for_backward({normed, inverse, gamma});
    return (normed * beside(gamma, x) + beside(beta, x)).to(x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &normed = saved[0], &inverse = saved[1], &gamma = saved[2];
    const Tensor gradient = gradients[0].to(at::kFloat);
    const auto axes = all_but_channels(gradient);
    const Tensor own = at::stack({gradient.sum(axes, false, at::kDouble), (gradient * normed).sum(axes, false, at::kDouble)});
    const Tensor mean = means(own, gradient.numel() / std::max<int64_t>(gradient.size(1), 1));
    const Tensor through = gradient - beside(mean[0], gradient) - normed * beside(mean[1], gradient);
    const Tensor for_x = (through * beside(inverse * gamma, gradient)).to(gradients[0].scalar_type());
    // Of this share only: gradients of weights are all-reduced afterwards.
    return {for_x, own[1].to(at::kFloat), own[0].to(at::kFloat), Tensor()};
  }
};

}  // namespace

bool norms_are_shared() { return add_up != nullptr; }

Tensor shared_batch_norm(const Tensor& x, const NormAct& settings) {
  return SharedBatchNorm::apply(x, settings.gamma, settings.beta, &settings);
}

}  // namespace ctseg

extern "C" void ctseg_share_norms(CtsegWhole add_up, void* context) {
  ctseg::add_up = add_up;
  ctseg::add_up_context = context;
}
