// Normalisation and activation in two passes over memory forward and two backward. libtorch's own kernels take five
// or more, and copy to another layout for InstanceNorm. Batch normalisation: Ioffe and Szegedy, ICML 2015; instance
// normalisation: Ulyanov et al., 2016; group normalisation: Wu and He, ECCV 2018.
#include "norm_act.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.h"
#include "shared_norm.h"

namespace ctseg {

namespace base { extern const Kernels table; }
#ifdef CTSEG_X86
namespace avx2 { extern const Kernels table; }
namespace avx512 { extern const Kernels table; }
#endif

const Kernels& kernels() {
#ifdef CTSEG_X86
  static const Kernels& best = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
                                   ? avx512::table
                               : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2::table
                                                                                               : base::table;
  return best;
#else
  return base::table;
#endif
}

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Elements per work item; independent of the number of threads, so sums are reproducible.
constexpr int64_t kPieceElements = 1 << 17;

at::MemoryFormat channels_last(const Tensor& x) {
  return x.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
}

// A tensor as groups of rows of channels: one group per batch, or one per sample.
struct Rows {
  int64_t groups, rows, channels, piece, pieces;
  int element, bytes;

  Rows(const Tensor& x, bool per_sample) {
    channels = x.size(1);
    const int64_t all = channels == 0 ? 0 : x.numel() / channels;
    groups = per_sample ? x.size(0) : 1;
    rows = groups == 0 ? 0 : all / groups;
    piece = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(channels, 1));
    pieces = (rows + piece - 1) / piece;
    element = x.scalar_type() == at::kFloat ? kFloat : kBfloat16;
    bytes = element == kFloat ? 4 : 2;
  }

  int64_t offset(int64_t group, int64_t first) const { return (group * rows + first) * channels * bytes; }

  // Calls work(group, first row, number of rows, index of the piece) for every piece, in parallel.
  template <typename Work>
  void each(const Work& work) const {
    at::parallel_for(0, groups * pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const int64_t group = index / pieces, first = index % pieces * piece;
        work(group, first, std::min(piece, rows - first), index);
      }
    });
  }
};

// Whether statistics are per sample.
bool per_sample(Norm norm) { return norm == Norm::kInstance || norm == Norm::kGroup; }

// Number of channels that share statistics.
int64_t together(const Tensor& x, const NormAct& settings) {
  if (settings.norm != Norm::kGroup) return 1;
  TORCH_CHECK(settings.groups > 0 && x.size(1) % settings.groups == 0, x.size(1), " channels cannot be split into ",
              settings.groups, " groups");
  return x.size(1) / settings.groups;
}

// The kernels read one value per channel without bounds checks.
void check_lengths(const Tensor& x, const NormAct& settings) {
  TORCH_CHECK(x.numel() > 0, "normalisation and activation of a tensor without values");
  const auto check = [&](const Tensor& values, const char* name) {
    TORCH_CHECK(values.defined() && values.numel() == x.size(1) && values.scalar_type() == at::kFloat &&
                    values.is_contiguous(),
                "a normalisation of ", x.size(1), " channels needs as many values of ", name, ", f32 side by side; found ",
                values.defined() ? values.numel() : 0);
  };
  if (settings.norm == Norm::kNone) return;
  check(settings.gamma, "gamma");
  check(settings.beta, "beta");
  if (settings.norm != Norm::kBatch) return;
  check(settings.mean, "the running mean");
  check(settings.variance, "the running variance");
}

const char* bytes_of(const Tensor& x) { return static_cast<const char*>(x.const_data_ptr()); }

// Sums of two quantities per group and channel, accumulated in a fixed order.
struct Sums {
  std::vector<double> pieces, total;
  int64_t width;

  explicit Sums(const Rows& rows)
      : pieces(rows.groups * rows.pieces * rows.channels * 2),
        total(rows.groups * rows.channels * 2),
        width(rows.channels * 2) {}

  double* piece(int64_t index) { return pieces.data() + index * width; }

  void add_up(const Rows& rows) {
    for (int64_t group = 0; group < rows.groups; ++group)
      for (int64_t index = 0; index < rows.pieces; ++index)
        for (int64_t c = 0; c < width; ++c)
          total[group * width + c] += piece(group * rows.pieces + index)[c];
  }
};

// Replaces the statistics of every `together` channels by those of all their values; all channels have equal counts.
void share(std::vector<double>& means, std::vector<double>& variances, int64_t together) {
  if (together == 1) return;
  for (size_t first = 0; first < means.size(); first += together) {
    double mean = 0.0, variance = 0.0;
    for (int64_t c = 0; c < together; ++c) mean += means[first + c] / together;
    for (int64_t c = 0; c < together; ++c) {
      const double apart = means[first + c] - mean;
      variance += (variances[first + c] + apart * apart) / together;
    }
    for (int64_t c = 0; c < together; ++c) {
      means[first + c] = mean;
      variances[first + c] = variance;
    }
  }
}

// Mean and inverse standard deviation per group and channel, (2, group, channel) f32. Updates the running statistics
// of a batch normalisation as Burn does (biased variance; PyTorch's is unbiased).
Tensor statistics(const Tensor& x, const Rows& rows, const NormAct& settings) {
  Tensor result = at::empty({2, rows.groups, rows.channels}, at::kFloat);
  const int64_t channels = rows.channels;
  // Sums of differences from the first row, so that a mean far from zero does not lose precision.
  std::vector<float> shift(rows.groups * channels);
  for (int64_t group = 0; group < rows.groups; ++group)
    for (int64_t c = 0; c < channels; ++c) {
      const char* at = bytes_of(x) + rows.offset(group, 0) + c * rows.bytes;
      shift[group * channels + c] = rows.element == kFloat
                                        ? *reinterpret_cast<const float*>(at)
                                        : static_cast<float>(*reinterpret_cast<const at::BFloat16*>(at));
    }
  Sums sums(rows);
  rows.each([&](int64_t group, int64_t first, int64_t count, int64_t index) {
    kernels().sums(rows.element, bytes_of(x) + rows.offset(group, first), count, channels,
                   shift.data() + group * channels, sums.piece(index), sums.piece(index) + channels);
  });
  sums.add_up(rows);
  const int64_t entries = rows.groups * channels;
  std::vector<double> means(entries), variances(entries);
  for (int64_t group = 0; group < rows.groups; ++group)
    for (int64_t c = 0; c < channels; ++c) {
      const double* total = sums.total.data() + group * sums.width;
      const double first = total[c] / rows.rows;
      const int64_t at = group * channels + c;
      variances[at] = std::max(total[channels + c] / rows.rows - first * first, 0.0);
      means[at] = first + shift[at];
    }
  share(means, variances, together(x, settings));
  float* mean = result.data_ptr<float>();
  float* inverse = mean + entries;
  for (int64_t at = 0; at < entries; ++at) {
    mean[at] = static_cast<float>(means[at]);
    inverse[at] = static_cast<float>(1.0 / std::sqrt(variances[at] + settings.epsilon));
    if (settings.update_statistics && settings.norm == Norm::kBatch) {
      float* running_mean = settings.mean.data_ptr<float>() + at;
      float* running_variance = settings.variance.data_ptr<float>() + at;
      *running_mean += static_cast<float>(settings.momentum * (means[at] - *running_mean));
      *running_variance += static_cast<float>(settings.momentum * (variances[at] - *running_variance));
    }
  }
  return result;
}

// scale and offset per group and channel, (2, group, channel): norm(x) = x * scale + offset.
Tensor affine(const Tensor& mean_inverse, const Tensor& gamma, const Tensor& beta) {
  Tensor scale = mean_inverse[1] * gamma;
  return at::stack({scale, beta - mean_inverse[0] * scale});
}

Tensor applied(const Tensor& x, const Rows& rows, const Tensor& scale_offset, double slope) {
  Tensor out = at::empty_like(x);
  char* to = static_cast<char*>(out.data_ptr());
  const float* scale = scale_offset.const_data_ptr<float>();
  const float* offset = scale + rows.groups * rows.channels;
  rows.each([&](int64_t group, int64_t first, int64_t count, int64_t) {
    const int64_t at = rows.offset(group, first), c = group * rows.channels;
    kernels().apply(rows.element, bytes_of(x) + at, to + at, count, rows.channels, scale + c, offset + c,
                    static_cast<float>(slope));
  });
  return out;
}

class FusedNormAct : public torch::autograd::Function<FusedNormAct> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& gamma, const Tensor& beta,
                        const NormAct* settings) {
    const Tensor x = input.contiguous(channels_last(input));
    const Rows rows(x, per_sample(settings->norm));
    const Tensor mean_inverse = statistics(x, rows, *settings);
    const Tensor scale_offset = affine(mean_inverse, gamma, beta);
    context->save_for_backward({x, mean_inverse, scale_offset});
    context->saved_data["per_sample"] = per_sample(settings->norm);
    context->saved_data["together"] = together(x, *settings);
    context->saved_data["slope"] = settings->slope;
    return applied(x, rows, scale_offset, settings->slope);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &mean_inverse = saved[1], &scale_offset = saved[2];
    const Tensor gradient = gradients[0].to(x.scalar_type()).contiguous(channels_last(x));
    const float slope = static_cast<float>(context->saved_data["slope"].toDouble());
    const Rows rows(x, context->saved_data["per_sample"].toBool());
    const int64_t channels = rows.channels, entries = rows.groups * channels;
    const float *mean = mean_inverse.const_data_ptr<float>(), *inverse = mean + entries;
    const float *scale = scale_offset.const_data_ptr<float>(), *offset = scale + entries;
    Sums sums(rows);
    rows.each([&](int64_t group, int64_t first, int64_t count, int64_t index) {
      const int64_t at = rows.offset(group, first), c = group * channels;
      kernels().backward_sums(rows.element, bytes_of(x) + at, bytes_of(gradient) + at, count, channels,
                              scale + c, offset + c, mean + c, slope, sums.piece(index),
                              sums.piece(index) + channels);
    });
    sums.add_up(rows);
    Tensor for_gamma = at::zeros({channels}, at::kFloat), for_beta = at::zeros({channels}, at::kFloat);
    std::vector<float> b(entries), c0(entries);
    std::vector<double> scaled_sum(entries), scaled_product(entries);
    for (int64_t group = 0; group < rows.groups; ++group)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = group * channels + c;
        const double sum = sums.total[group * sums.width + c];
        const double product = sums.total[group * sums.width + channels + c] * inverse[at];
        for_beta.data_ptr<float>()[c] += static_cast<float>(sum);
        for_gamma.data_ptr<float>()[c] += static_cast<float>(product);
        scaled_sum[at] = scale[at] * sum;
        scaled_product[at] = scale[at] * product;
      }
    // The gradient through the statistics, which channels may share.
    const int64_t shared = context->saved_data["together"].toInt();
    const double count = static_cast<double>(rows.rows) * static_cast<double>(shared);
    for (int64_t first = 0; first < entries; first += shared) {
      double sum = 0.0, product = 0.0;
      for (int64_t at = first; at < first + shared; ++at) {
        sum += scaled_sum[at];
        product += scaled_product[at];
      }
      for (int64_t at = first; at < first + shared; ++at) {
        b[at] = static_cast<float>(-inverse[at] * product / count);
        c0[at] = static_cast<float>(-sum / count);
      }
    }
    Tensor for_x = at::empty_like(x);
    char* to = static_cast<char*>(for_x.data_ptr());
    rows.each([&](int64_t group, int64_t first, int64_t count, int64_t) {
      const int64_t at = rows.offset(group, first), c = group * channels;
      kernels().backward_apply(rows.element, bytes_of(x) + at, bytes_of(gradient) + at, to + at, count,
                               channels, scale + c, offset + c, mean + c, slope, scale + c, b.data() + c,
                               c0.data() + c);
    });
    return {for_x, for_gamma, for_beta, Tensor()};
  }
};

// For devices and types without kernels of our own.
Tensor by_libtorch(const Tensor& x, const NormAct& s) {
  Tensor y = x;
  if (s.norm == Norm::kBatch && s.training) {
    // A momentum of 1 makes the call return the batch's statistics.
    Tensor mean = at::zeros_like(s.mean), variance = at::zeros_like(s.variance);
    y = at::batch_norm(x, s.gamma, s.beta, mean, variance, true, 1.0, s.epsilon, true);
    if (s.update_statistics) {
      at::NoGradGuard no_grad;
      const double count = static_cast<double>(x.numel()) / static_cast<double>(x.size(1));
      const Tensor biased = count > 1 ? variance * ((count - 1) / count) : at::zeros_like(variance);
      Tensor(s.mean).lerp_(mean, s.momentum);
      Tensor(s.variance).lerp_(biased, s.momentum);
    }
  } else if (s.norm == Norm::kBatch) {
    y = at::batch_norm(x, s.gamma, s.beta, s.mean, s.variance, false, s.momentum, s.epsilon, true);
  } else if (s.norm == Norm::kInstance) {
    y = at::instance_norm(x, s.gamma, s.beta, {}, {}, true, 0.0, s.epsilon, true)
            .contiguous(channels_last(x));
  } else if (s.norm == Norm::kGroup) {
    // Its kernels need all tensors in the same type.
    y = at::group_norm(x.to(at::kFloat).contiguous(), s.groups, s.gamma, s.beta, s.epsilon, true)
            .to(x.scalar_type())
            .contiguous(channels_last(x));
  }
  if (s.slope == 1.0) return y;
  return s.slope == 0.0 ? at::relu(y) : at::leaky_relu(y, s.slope);
}

}  // namespace

namespace {

// The scale and offset for `applied`, without a graph, per group and channel.
Tensor fixed_affine(const Tensor& y, const Rows& rows, const NormAct& settings) {
  if (settings.norm == Norm::kNone) {
    const Tensor one = at::ones({rows.groups, rows.channels}, at::kFloat);
    return at::stack({one, at::zeros_like(one)});
  }
  const bool from_batch = settings.training || per_sample(settings.norm);
  const Tensor mean_inverse =
      from_batch ? statistics(y, rows, settings)
                 : at::stack({settings.mean, (settings.variance + settings.epsilon).rsqrt()}).unsqueeze(1);
  return affine(mean_inverse, settings.gamma, settings.beta);
}

}  // namespace

Tensor norm_act(const Tensor& x, const NormAct& settings) {
  if (settings.norm == Norm::kBatch && settings.training && norms_are_shared()) {
    NormAct activation = NormAct::none();
    activation.slope = settings.slope;
    return by_libtorch(shared_batch_norm(x, settings), activation);
  }
  const bool ours = x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
  if (!ours || settings.norm == Norm::kNone) return by_libtorch(x, settings);
  check_lengths(x, settings);
  if (settings.training && at::GradMode::is_enabled())
    return FusedNormAct::apply(x, settings.gamma, settings.beta, &settings);
  const Tensor y = x.contiguous(channels_last(x));
  const Rows rows(y, per_sample(settings.norm));
  return applied(y, rows, fixed_affine(y, rows, settings), settings.slope);
}

Tensor quantised(const Tensor& x, const NormAct& settings, double scale, int64_t zero_point) {
  TORCH_CHECK(x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
              "8-bit integers are made of f32 and bf16 on the CPU");
  check_lengths(x, settings);
  const Tensor y = x.contiguous(channels_last(x));
  const Rows rows(y, per_sample(settings.norm));
  const Tensor scale_offset = fixed_affine(y, rows, settings);
  Tensor out = at::empty_like(y, y.options().dtype(at::kByte));
  unsigned char* to = out.data_ptr<unsigned char>();
  const float* factor = scale_offset.const_data_ptr<float>();
  const float* offset = factor + rows.groups * rows.channels;
  rows.each([&](int64_t group, int64_t first, int64_t count, int64_t) {
    const int64_t at = rows.offset(group, first), c = group * rows.channels;
    kernels().quantise(rows.element, bytes_of(y) + at, to + at / rows.bytes, count, rows.channels, factor + c,
                       offset + c, static_cast<float>(settings.slope), static_cast<float>(1.0 / scale),
                       static_cast<float>(zero_point));
  });
  return out;
}

}  // namespace ctseg
