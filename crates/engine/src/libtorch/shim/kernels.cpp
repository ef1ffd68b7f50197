// See kernels.h. CTSEG_ISA is the instruction set of this copy.
#include "kernels.h"

#ifndef CTSEG_ISA
#error "CTSEG_ISA must be defined by the build"
#endif

namespace ctseg {
namespace CTSEG_ISA {
namespace {

// Partial sums are accumulated in f32 over this many rows, then in f64.
const index kBlockRows = 256;
const index kMostChannels = 64;  // per block

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

// Rounds to nearest, ties to even; NaN stays NaN.
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
void quantise_to(const T* x, unsigned char* out, index rows, index channels, const float* scale, const float* offset,
                 float slope, float inverse, float zero) {
  for (index r = 0; r < rows; ++r) {
    const T* from = x + r * channels;
    unsigned char* to = out + r * channels;
    for (index c = 0; c < channels; ++c) {
      const float v = load(from + c) * scale[c] + offset[c];
      float q = (v > 0.0f ? v : v * slope) * inverse + (zero + 0.5f);
      q = q > 0.0f ? q : 0.0f;  // NaN becomes 0
      q = q < 255.0f ? q : 255.0f;
      to[c] = (unsigned char)(int)q;
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

// e^v for v <= 0 (Cody and Waite's reduction, a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2]); relative error
// below 2e-7, and 0 below -87.
inline float exponential(float v) {
  const float low = v < -87.0f ? -87.0f : v;
  const float k = __builtin_floorf(low * 1.44269504f + 0.5f);
  const float r = (low - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int bits = ((int)k + 127) << 23;
  float power;
  __builtin_memcpy(&power, &bits, 4);
  return v < -87.0f ? 0.0f : p * power;
}

// ln(1 + e) for e in [0, 1]: 2 artanh(e / (2 + e)) by its series.
inline float log1p_of(float e) {
  const float s = e / (2.0f + e), q = s * s;
  float p = 2.0f / 15.0f;
  p = p * q + 2.0f / 13.0f;
  p = p * q + 2.0f / 11.0f;
  p = p * q + 2.0f / 9.0f;
  p = p * q + 2.0f / 7.0f;
  p = p * q + 2.0f / 5.0f;
  p = p * q + 2.0f / 3.0f;
  p = p * q + 2.0f;
  return p * s;
}

inline float magnitude(float v) { return v < 0.0f ? -v : v; }

// From e = e^-|x|, which cannot overflow.
inline float sigmoid_from(float x, float e) { return (x < 0.0f ? e : 1.0f) / (1.0f + e); }

const int kLanes = 16;

void loss_sums(const float* x, const float* t, index count, double* sums) {
  for (index begin = 0; begin < count; begin += kBlockRows * kLanes) {
    const index end = begin + kBlockRows * kLanes < count ? begin + kBlockRows * kLanes : count;
    float cross[kLanes] = {}, both[kLanes] = {}, sigmoids[kLanes] = {}, targets[kLanes] = {};
    index i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) {
        const float v = x[i + lane], target = t[i + lane], e = exponential(-magnitude(v));
        const float p = sigmoid_from(v, e);
        cross[lane] += (v > 0.0f ? v : 0.0f) - v * target + log1p_of(e);
        both[lane] += p * target;
        sigmoids[lane] += p;
        targets[lane] += target;
      }
    for (; i < end; ++i) {
      const float v = x[i], target = t[i], e = exponential(-magnitude(v)), p = sigmoid_from(v, e);
      cross[0] += (v > 0.0f ? v : 0.0f) - v * target + log1p_of(e);
      both[0] += p * target;
      sigmoids[0] += p;
      targets[0] += target;
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      sums[0] += cross[lane];
      sums[1] += both[lane];
      sums[2] += sigmoids[lane];
      sums[3] += targets[lane];
    }
  }
}

void loss_gradient(const float* x, const float* t, float* out, index count, float cross, float a, float b) {
  for (index i = 0; i < count; ++i) {
    const float e = exponential(-magnitude(x[i])), p = sigmoid_from(x[i], e);
    out[i] = cross * (p - t[i]) + p * (1.0f - p) * (a * t[i] + b);
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

void quantise(int element, const void* x, unsigned char* out, index rows, index channels, const float* scale,
              const float* offset, float slope, float inverse, float zero) {
  if (element == kFloat)
    quantise_to((const float*)x, out, rows, channels, scale, offset, slope, inverse, zero);
  else
    quantise_to((const bfloat16*)x, out, rows, channels, scale, offset, slope, inverse, zero);
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
const Kernels table = {sums, apply, quantise, backward_sums, backward_apply, loss_sums, loss_gradient};

}  // namespace CTSEG_ISA
}  // namespace ctseg
