// Optimiser steps over all parameters at once, in place, with libtorch's fused or foreach kernels.
#include "api.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include "guard.h"

using at::Tensor;

namespace {

std::vector<Tensor> tensors(Tensor** pointers, int count) {
  std::vector<Tensor> result;
  result.reserve(count);
  for (int i = 0; i < count; ++i) result.push_back(*pointers[i]);
  return result;
}

// Gradients in the memory layout of their parameters, as the fused kernels require.
std::vector<Tensor> gradients(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> result;
  result.reserve(parameters.size());
  for (const Tensor& parameter : parameters) {
    const Tensor& gradient = parameter.grad();
    if (!gradient.defined())
      result.push_back(at::zeros_like(parameter));
    else if (gradient.strides() == parameter.strides())
      result.push_back(gradient);
    else
      result.push_back(at::empty_like(parameter).copy_(gradient));
  }
  return result;
}

std::vector<Tensor> without_graph(std::vector<Tensor> parameters) {
  for (Tensor& parameter : parameters) parameter = parameter.detach();
  return parameters;
}

}  // namespace

extern "C" int ctseg_backward(Tensor** roots, Tensor** gradients, int count, char** error) {
  return ctseg::guarded(
      error, [&] { torch::autograd::backward(tensors(roots, count), tensors(gradients, count)); });
}

extern "C" int ctseg_gradient_norm(Tensor** parameters, int count, double* norm, char** error) {
  return ctseg::guarded(error, [&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> present;
    for (int i = 0; i < count; ++i)
      if (parameters[i]->grad().defined()) present.push_back(parameters[i]->grad());
    *norm = present.empty() ? 0.0 : at::stack(at::_foreach_norm(present, 2)).norm().item<double>();
  });
}

extern "C" int ctseg_adam(Tensor** parameters, Tensor** first, Tensor** second, int count, double divide_by,
                          double step, double rate, double beta1, double beta2, double epsilon,
                          double weight_decay, int decoupled, char** error) {
  return ctseg::guarded(error, [&] {
    at::NoGradGuard no_grad;
    TORCH_CHECK(count > 0, "an optimiser without parameters");
    const auto whole = tensors(parameters, count);
    auto gradient = gradients(whole);
    auto weights = without_graph(whole);
    auto m = tensors(first, count), v = tensors(second, count);
    const auto options = at::TensorOptions().dtype(at::kFloat).device(weights[0].device());
    const std::vector<Tensor> steps(count, at::full({}, step, options));
    const Tensor scale = at::full({}, divide_by, options);
    if (decoupled)
      at::_fused_adamw_(weights, gradient, m, v, {}, steps, rate, beta1, beta2, weight_decay, epsilon, false,
                        false, scale);
    else
      at::_fused_adam_(weights, gradient, m, v, {}, steps, rate, beta1, beta2, weight_decay, epsilon, false,
                       false, scale);
  });
}

extern "C" int ctseg_sgd(Tensor** parameters, Tensor** velocity, int count, double divide_by, int first_step,
                         double rate, double momentum, double weight_decay, int nesterov, char** error) {
  return ctseg::guarded(error, [&] {
    at::NoGradGuard no_grad;
    TORCH_CHECK(count > 0, "an optimiser without parameters");
    const auto whole = tensors(parameters, count);
    auto gradient = gradients(whole);
    auto weights = without_graph(whole);
    auto buffers = tensors(velocity, count);
    const auto options = at::TensorOptions().dtype(at::kFloat).device(weights[0].device());
    // Without momentum there is no buffer; the CUDA kernels require that none is passed.
    const bool plain = momentum == 0.0;
    at::_fused_sgd_(weights, gradient, plain ? std::vector<Tensor>() : buffers, weight_decay, momentum, rate, 0.0,
                    nesterov != 0 && !plain, false, first_step != 0 && !plain,
                    at::full({}, divide_by, options));
  });
}

// libtorch has no fused kernel for this one.
extern "C" int ctseg_rmsprop(Tensor** parameters, Tensor** square, int count, double divide_by, double rate,
                             double alpha, double epsilon, double weight_decay, char** error) {
  return ctseg::guarded(error, [&] {
    at::NoGradGuard no_grad;
    const auto whole = tensors(parameters, count);
    auto weights = without_graph(whole);
    auto squares = tensors(square, count);
    auto gradient = at::_foreach_div(gradients(whole), divide_by);
    if (weight_decay != 0.0) at::_foreach_add_(gradient, weights, weight_decay);
    at::_foreach_mul_(squares, alpha);
    at::_foreach_addcmul_(squares, gradient, gradient, 1.0 - alpha);
    auto divisor = at::_foreach_sqrt(squares);
    at::_foreach_add_(divisor, epsilon);
    at::_foreach_addcdiv_(weights, gradient, divisor, -rate);
  });
}
