// Loops over rows of channels (channels-last memory), compiled once per instruction set.
// kernels.cpp must not include standard or libtorch headers: the linker could keep the AVX-512 copy of an inline
// function for all machines.
#pragma once

namespace ctseg {

typedef long long index;

// Element types by number: 0 = float, 1 = bfloat16.
enum Element { kFloat = 0, kBfloat16 = 1 };

struct Kernels {
  // Adds to sum and square (each `channels` long) the sums over rows of (x - shift) and (x - shift)^2.
  void (*sums)(int element, const void* x, index rows, index channels, const float* shift, double* sum,
               double* square);
  // out = act(x * scale + offset); negative values are multiplied by slope (1 = no activation).
  void (*apply)(int element, const void* x, void* out, index rows, index channels, const float* scale,
                const float* offset, float slope);
  // out = round(act(x * scale + offset) * inverse + zero) between 0 and 255.
  void (*quantise)(int element, const void* x, unsigned char* out, index rows, index channels, const float* scale,
                   const float* offset, float slope, float inverse, float zero);
  // With d = gradient * act'(x * scale + offset): adds to sum the sums of d, to product those of
  // d * (x - mean).
  void (*backward_sums)(int element, const void* x, const void* gradient, index rows, index channels,
                        const float* scale, const float* offset, const float* mean, float slope, double* sum,
                        double* product);
  // out = d * a + (x - mean) * b + c, d as above.
  void (*backward_apply)(int element, const void* x, const void* gradient, void* out, index rows,
                         index channels, const float* scale, const float* offset, const float* mean,
                         float slope, const float* a, const float* b, const float* c);
  // Adds to sums (4 long) those over elements of: binary cross-entropy of logit x against target t,
  // sigmoid(x) * t, sigmoid(x), t.
  void (*loss_sums)(const float* x, const float* t, index count, double* sums);
  // out = cross * (sigmoid(x) - t) + sigmoid'(x) * (a * t + b).
  void (*loss_gradient)(const float* x, const float* t, float* out, index count, float cross, float a, float b);
};

const Kernels& kernels();  // the best version for this CPU

}  // namespace ctseg
