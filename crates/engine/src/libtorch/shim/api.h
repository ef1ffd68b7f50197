// What Rust calls. Functions return 0, or 1 with `*error` set to text to be freed with free().
// Tensors are libtorch's at::Tensor, as the tch crate holds them.
#pragma once
#include <ATen/core/Tensor.h>

extern "C" {

struct CtsegLayer {
  at::Tensor* weight;
  at::Tensor* bias;  // or null
  at::Tensor* gamma;  // these four or null
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

// training: 0 = inference, 1 = training, 2 = training that updates running statistics too.
int ctseg_conv_block(at::Tensor* x, const CtsegLayer* layers, int count, int training, int recompute,
                     at::Tensor** result, char** error);
// The least and the largest value of a tensor.
int ctseg_range(at::Tensor* x, double* low, double* high, char** error);
// A layer in 8-bit integers for inputs of `shape` whose values lie between low and high; to be freed.
struct CtsegInt8;
int ctseg_int8_layer(const CtsegLayer* layer, const long long* shape, int axes, double low, double high,
                     CtsegInt8** result, char** error);
void ctseg_int8_free(CtsegInt8* layer);
// As ctseg_conv_block in inference; layers whose place in `int8` is null compute in x's own type.
int ctseg_int8_block(at::Tensor* x, const CtsegLayer* layers, const CtsegInt8* const* int8, int count,
                     at::Tensor** result, char** error);
// Replaces `count` sums over a share of a batch by those over the whole batch; null where there is no other share.
typedef void (*CtsegWhole)(double* sums, long long count, void* context);
// The loss bce_share * BCE + dice_share * soft Dice of logits (sample, structure, ...), and its gradient by
// them times `scale`; `fused` = with kernels of our own where there are some (CPU).
int ctseg_bce_dice(at::Tensor* logits, at::Tensor* targets, double bce_share, double dice_share, double scale,
                   int fused, CtsegWhole add_up, void* context, double* loss, at::Tensor** gradient,
                   char** error);
// From here on batch normalisations in training see the batch of all processes; null ends it.
void ctseg_share_norms(CtsegWhole add_up, void* context);
// Follows tensors back through their graph at once, each with its gradient, into the parameters.
int ctseg_backward(at::Tensor** tensors, at::Tensor** gradients, int count, char** error);
int ctseg_gradient_norm(at::Tensor** parameters, int count, double* norm, char** error);
int ctseg_adam(at::Tensor** parameters, at::Tensor** first, at::Tensor** second, int count, double divide_by,
               double step, double rate, double beta1, double beta2, double epsilon, double weight_decay,
               int decoupled, char** error);
int ctseg_sgd(at::Tensor** parameters, at::Tensor** velocity, int count, double divide_by, int first_step,
              double rate, double momentum, double weight_decay, int nesterov, char** error);
int ctseg_rmsprop(at::Tensor** parameters, at::Tensor** square, int count, double divide_by, double rate,
                  double alpha, double epsilon, double weight_decay, char** error);

// Keeps freed tensor memory of the CPU for the next tensor, see allocator.cpp.
void ctseg_use_caching_allocator(void);
void ctseg_limit_memory(unsigned long long bytes);  // 0 = none
// Freed memory that is kept: what is held may exceed the most that was in use by one part in so many; 4 at first.
void ctseg_spare_memory(unsigned long long share);
void ctseg_allocator_figures(unsigned long long* in_use, unsigned long long* peak, unsigned long long* held);
void ctseg_reset_peak(void);
void ctseg_release_free(void);  // gives what is kept back to the system

// Most memory of a CUDA device that tensors held since the last reset, in bytes.
int ctseg_cuda_peak(int device, int reset, unsigned long long* bytes, char** error);
int ctseg_cuda_empty_cache(char** error);

// `tensor` in page-locked memory.
int ctseg_pinned(at::Tensor* tensor, at::Tensor** result, char** error);
// Whether cuDNN computes in bf16 on the current GPU.
int ctseg_cuda_has_bf16(void);
}
