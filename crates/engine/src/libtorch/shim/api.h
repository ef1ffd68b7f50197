// The C interface for Rust. Functions return 0, or 1 with `*error` set to text to be freed with free(). Tensors are
// libtorch's at::Tensor, as held by the tch crate.
#pragma once
#include <ATen/core/Tensor.h>

extern "C" {

struct CtsegLayer {
  at::Tensor* weight;
  at::Tensor* bias;  // may be null
  at::Tensor* gamma;  // these four may be null
  at::Tensor* beta;
  at::Tensor* mean;
  at::Tensor* variance;
  int norm;  // 0 none, 1 batch, 2 instance, 3 group
  int groups;  // of a group normalisation
  int dimensions;
  long long stride[3];
  long long padding[3];
  double momentum, epsilon, slope;
};

// training: 0 = inference, 1 = batch statistics, 2 = batch statistics that also update the running ones.
int ctseg_conv_block(at::Tensor* x, const CtsegLayer* layers, int count, int training, int recompute,
                     at::Tensor** result, char** error);
// Minimum and maximum of a tensor.
int ctseg_range(at::Tensor* x, double* low, double* high, char** error);
// An int8 layer for inputs of `shape` with values between low and high; free with ctseg_int8_free.
struct CtsegInt8;
int ctseg_int8_layer(const CtsegLayer* layer, const long long* shape, int axes, double low, double high,
                     CtsegInt8** result, char** error);
void ctseg_int8_free(CtsegInt8* layer);
// ctseg_conv_block in inference; layers whose entry in `int8` is null compute in the type of x.
int ctseg_int8_block(at::Tensor* x, const CtsegLayer* layers, const CtsegInt8* const* int8, int count,
                     at::Tensor** result, char** error);
// Replaces `count` sums over a share of a batch by those over the whole batch; null if the batch is not shared.
typedef void (*CtsegWhole)(double* sums, long long count, void* context);
// The loss bce_share * BCE + dice_share * soft Dice of logits (sample, structure, ...), and its gradient with respect
// to the logits times `scale`; `fused` = use our own kernels if available (CPU).
int ctseg_bce_dice(at::Tensor* logits, at::Tensor* targets, double bce_share, double dice_share, double scale,
                   int fused, CtsegWhole add_up, void* context, double* loss, at::Tensor** gradient,
                   char** error);
// Synchronises batch normalisation in training over all processes from now on; null ends it.
void ctseg_share_norms(CtsegWhole add_up, void* context);
// Backpropagates all tensors in one pass, each with its gradient, into the parameters.
int ctseg_backward(at::Tensor** tensors, at::Tensor** gradients, int count, char** error);
int ctseg_gradient_norm(at::Tensor** parameters, int count, double* norm, char** error);
int ctseg_adam(at::Tensor** parameters, at::Tensor** first, at::Tensor** second, int count, double divide_by,
               double step, double rate, double beta1, double beta2, double epsilon, double weight_decay,
               int decoupled, char** error);
int ctseg_sgd(at::Tensor** parameters, at::Tensor** velocity, int count, double divide_by, int first_step,
              double rate, double momentum, double weight_decay, int nesterov, char** error);
int ctseg_rmsprop(at::Tensor** parameters, at::Tensor** square, int count, double divide_by, double rate,
                  double alpha, double epsilon, double weight_decay, char** error);

// Enables the caching allocator for CPU tensors, see allocator.cpp.
void ctseg_use_caching_allocator(void);
void ctseg_limit_memory(unsigned long long bytes);  // 0 = none
// Limits the cache: held memory may exceed the peak use by 1/share; 4 by default.
void ctseg_spare_memory(unsigned long long share);
void ctseg_allocator_figures(unsigned long long* in_use, unsigned long long* peak, unsigned long long* held);
void ctseg_reset_peak(void);
void ctseg_release_free(void);  // returns cached memory to the system

// Peak memory of tensors on a CUDA device since the last reset, in bytes.
int ctseg_cuda_peak(int device, int reset, unsigned long long* bytes, char** error);
int ctseg_cuda_empty_cache(char** error);

// A copy of `tensor` in page-locked memory.
int ctseg_pinned(at::Tensor* tensor, at::Tensor** result, char** error);
// Whether cuDNN supports bf16 on the current GPU.
int ctseg_cuda_has_bf16(void);
}
