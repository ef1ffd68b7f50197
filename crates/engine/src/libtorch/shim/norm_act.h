#pragma once
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace ctseg {

enum class Norm { kNone = 0, kBatch = 1, kInstance = 2, kGroup = 3 };

// A normalisation and the following activation.
struct NormAct {
  Norm norm = Norm::kNone;
  int64_t groups = 0;         // of a group normalisation
  at::Tensor gamma, beta;     // (channel), f32
  at::Tensor mean, variance;  // running statistics of a batch normalisation (channel), f32
  double momentum = 0.1;      // weight of the new batch in the running statistics
  double epsilon = 1e-5;
  double slope = 1.0;  // for negative values: 0 = ReLU, 0.01 = LeakyReLU, 1 = no activation
  bool training = false;
  bool update_statistics = false;  // the running ones

  static NormAct none() { return NormAct(); }
};

// act(norm(x)) of x (batch, channel, ...), recorded by autograd if enabled.
at::Tensor norm_act(const at::Tensor& x, const NormAct& settings);

// Same in int8, round(y / scale) + zero_point, without a graph; x must be f32 or bf16 on the CPU.
at::Tensor quantised(const at::Tensor& x, const NormAct& settings, double scale, int64_t zero_point);

}  // namespace ctseg
