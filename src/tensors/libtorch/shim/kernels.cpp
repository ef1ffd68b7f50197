// See kernels.h. CTSEG_ISA names the instruction set that this copy is compiled for.
#include "kernels.h"

#ifndef CTSEG_ISA
#error "CTSEG_ISA must be defined by the build"
#endif

namespace ctseg {
namespace CTSEG_ISA {
namespace {

// Partial sums are kept in f32 over this many rows, then added up in f64.
const index kBlockRows = 256;
const index kMostChannels = 64;  // of one block

struct bfloat16 {
  unsigned short bits;
};

inline float load(const float* at) { return *at; }

inline float load(const bfloat16* at) {
  unsigned int bits = (unsigned int)at->bits << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

inline void store(float* at, float value) { *at = value; }

// Rounds to nearest, ties to even; what is not a number stays so.
inline void store(bfloat16* at, float value) {
  unsigned int bits;
  __builtin_memcpy(&bits, &value, 4);
  unsigned int rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  unsigned int quiet = (bits >> 16) | 0x40u;
  at->bits = (unsigned short)(value == value ? rounded : quiet);
}

template <typename T>
void sums_of(const T* x, index rows, index channels, const float* shift, double* sum, double* square) {
  for (index first = 0; first < channels; first += kMostChannels) {
    const index width = channels - first < kMostChannels ? channels - first : kMostChannels;
    for (index row = 0; row < rows; row += kBlockRows) {
      const index end = row + kBlockRows < rows ? row + kBlockRows : rows;
      float s[kMostChannels] = {}, q[kMostChannels] = {};
      for (index r = row; r < end; ++r) {
        const T* at = x + r * channels + first;
        for (index c = 0; c < width; ++c) {
          const float d = load(at + c) - shift[first + c];
          s[c] += d;
          q[c] += d * d;
        }
      }
      for (index c = 0; c < width; ++c) {
        sum[first + c] += s[c];
        square[first + c] += q[c];
      }
    }
  }
}

template <typename T>
void apply_to(const T* x, T* out, index rows, index channels, const float* scale, const float* offset,
              float slope) {
  for (index r = 0; r < rows; ++r) {
    const T* from = x + r * channels;
    T* to = out + r * channels;
    for (index c = 0; c < channels; ++c) {
      const float v = load(from + c) * scale[c] + offset[c];
      store(to + c, v > 0.0f ? v : v * slope);
    }
  }
}

template <typename T>
void backward_sums_of(const T* x, const T* gradient, index rows, index channels, const float* scale,
                      const float* offset, const float* mean, float slope, double* sum, double* product) {
  for (index first = 0; first < channels; first += kMostChannels) {
    const index width = channels - first < kMostChannels ? channels - first : kMostChannels;
    for (index row = 0; row < rows; row += kBlockRows) {
      const index end = row + kBlockRows < rows ? row + kBlockRows : rows;
      float s[kMostChannels] = {}, p[kMostChannels] = {};
      for (index r = row; r < end; ++r) {
        const T* at = x + r * channels + first;
        const T* g = gradient + r * channels + first;
        for (index c = 0; c < width; ++c) {
          const float v = load(at + c);
          const float d = load(g + c) * (v * scale[first + c] + offset[first + c] > 0.0f ? 1.0f : slope);
          s[c] += d;
          p[c] += d * (v - mean[first + c]);
        }
      }
      for (index c = 0; c < width; ++c) {
        sum[first + c] += s[c];
        product[first + c] += p[c];
      }
    }
  }
}

template <typename T>
void backward_apply_to(const T* x, const T* gradient, T* out, index rows, index channels, const float* scale,
                       const float* offset, const float* mean, float slope, const float* a, const float* b,
                       const float* c) {
  for (index r = 0; r < rows; ++r) {
    const T* from = x + r * channels;
    const T* g = gradient + r * channels;
    T* to = out + r * channels;
    for (index i = 0; i < channels; ++i) {
      const float v = load(from + i);
      const float d = load(g + i) * (v * scale[i] + offset[i] > 0.0f ? 1.0f : slope);
      store(to + i, d * a[i] + (v - mean[i]) * b[i] + c[i]);
    }
  }
}

void sums(int element, const void* x, index rows, index channels, const float* shift, double* sum,
          double* square) {
  if (element == kFloat)
    sums_of((const float*)x, rows, channels, shift, sum, square);
  else
    sums_of((const bfloat16*)x, rows, channels, shift, sum, square);
}

void apply(int element, const void* x, void* out, index rows, index channels, const float* scale,
           const float* offset, float slope) {
  if (element == kFloat)
    apply_to((const float*)x, (float*)out, rows, channels, scale, offset, slope);
  else
    apply_to((const bfloat16*)x, (bfloat16*)out, rows, channels, scale, offset, slope);
}

void backward_sums(int element, const void* x, const void* gradient, index rows, index channels,
                   const float* scale, const float* offset, const float* mean, float slope, double* sum,
                   double* product) {
  if (element == kFloat)
    backward_sums_of((const float*)x, (const float*)gradient, rows, channels, scale, offset, mean, slope, sum,
                     product);
  else
    backward_sums_of((const bfloat16*)x, (const bfloat16*)gradient, rows, channels, scale, offset, mean,
                     slope, sum, product);
}

void backward_apply(int element, const void* x, const void* gradient, void* out, index rows, index channels,
                    const float* scale, const float* offset, const float* mean, float slope, const float* a,
                    const float* b, const float* c) {
  if (element == kFloat)
    backward_apply_to((const float*)x, (const float*)gradient, (float*)out, rows, channels, scale, offset,
                      mean, slope, a, b, c);
  else
    backward_apply_to((const bfloat16*)x, (const bfloat16*)gradient, (bfloat16*)out, rows, channels, scale,
                      offset, mean, slope, a, b, c);
}

}  // namespace

extern const Kernels table;
const Kernels table = {sums, apply, backward_sums, backward_apply};

}  // namespace CTSEG_ISA
}  // namespace ctseg
