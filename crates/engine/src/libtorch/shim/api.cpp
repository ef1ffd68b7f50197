#include "api.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "block.h"
#include "guard.h"

namespace {

constexpr int kMostDimensions = sizeof(CtsegLayer::stride) / sizeof(CtsegLayer::stride[0]);

at::Tensor given(const at::Tensor* tensor) { return tensor ? *tensor : at::Tensor(); }

}  // namespace

ctseg::Layer ctseg::layer_of(const CtsegLayer& from, int training) {
  TORCH_CHECK(from.weight, "a layer without weights");
  TORCH_CHECK(from.dimensions > 0 && from.dimensions <= kMostDimensions, "a layer of ", from.dimensions,
              " dimensions; expected 1 to ", kMostDimensions);
  ctseg::Layer layer;
  layer.weight = given(from.weight);
  layer.bias = given(from.bias);
  layer.stride.assign(from.stride, from.stride + from.dimensions);
  layer.padding.assign(from.padding, from.padding + from.dimensions);
  ctseg::NormAct& norm_act = layer.norm_act;
  norm_act.norm = static_cast<ctseg::Norm>(from.norm);
  norm_act.groups = from.groups;
  norm_act.gamma = given(from.gamma);
  norm_act.beta = given(from.beta);
  norm_act.mean = given(from.mean);
  norm_act.variance = given(from.variance);
  norm_act.momentum = from.momentum;
  norm_act.epsilon = from.epsilon;
  norm_act.slope = from.slope;
  norm_act.training = training != 0;
  norm_act.update_statistics = training == 2;
  return layer;
}

extern "C" int ctseg_conv_block(at::Tensor* x, const CtsegLayer* layers, int count, int training,
                                int recompute, at::Tensor** result, char** error) {
  return ctseg::guarded(error, [&] {
    std::vector<ctseg::Layer> all;
    for (int i = 0; i < count; ++i) all.push_back(ctseg::layer_of(layers[i], training));
    *result = new at::Tensor(ctseg::conv_block(*x, all, recompute != 0));
  });
}

namespace {

// CUDA's allocator; null before CUDA is used.
c10::DeviceAllocator* cuda_allocator() {
  return at::hasCUDA() ? dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA)) : nullptr;
}

}  // namespace

extern "C" int ctseg_cuda_empty_cache(char** error) {
  return ctseg::guarded(error, [&] {
    if (auto* allocator = cuda_allocator()) allocator->emptyCache();
  });
}

extern "C" int ctseg_cuda_peak(int device, int reset, unsigned long long* bytes, char** error) {
  return ctseg::guarded(error, [&] {
    auto* allocator = cuda_allocator();
    *bytes = 0;
    if (!allocator) return;
    const auto index = static_cast<c10::DeviceIndex>(device);
    *bytes = allocator->getDeviceStats(index).allocated_bytes[0].peak;
    if (reset) allocator->resetPeakStats(index);
  });
}

extern "C" int ctseg_pinned(at::Tensor* tensor, at::Tensor** result, char** error) {
  return ctseg::guarded(error, [&] { *result = new at::Tensor(tensor->pin_memory()); });
}

extern "C" int ctseg_cuda_has_bf16(void) {
  try {
    return at::hasCUDA() && at::detail::getCUDAHooks().supportsBFloat16ConvolutionWithCuDNNv8();
  } catch (...) {
    return 0;
  }
}

// Kernels and hooks register themselves when libtorch_cuda.so is loaded.
extern "C" int ctseg_knows_cuda(void) {
  try {
    const auto add = c10::Dispatcher::singleton().findSchema({"aten::add", "Tensor"});
    return add && add->hasKernelForDispatchKey(c10::DispatchKey::CUDA) && at::detail::getCUDAHooks().hasCUDART();
  } catch (...) {
    return 0;
  }
}
