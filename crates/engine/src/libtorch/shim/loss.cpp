// Binary cross-entropy and soft Dice on logits in two passes over memory: one for the loss, one for its gradient. The
// formulas are those of src/losses/.
#include "api.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Parallel.h>

#include <vector>

#include "guard.h"
#include "kernels.h"

namespace {

using at::Tensor;

constexpr int64_t kPiece = 1 << 16;
constexpr double kSmooth = 1.0;  // as in src/losses/dice.rs

// Calls work(plane, offset, count, piece) for every piece of every (sample, structure) plane.
template <typename Work>
void each_piece(int64_t planes, int64_t size, const Work& work) {
  const int64_t pieces = (size + kPiece - 1) / kPiece;
  at::parallel_for(0, planes * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index % pieces * kPiece;
      work(index / pieces, index / pieces * size + first, std::min(kPiece, size - first), index);
    }
  });
}

}  // namespace

namespace {

// All-reduce over the processes that share a batch, see CtsegWhole in api.h.
struct Whole {
  CtsegWhole add_up;
  void* context;

  bool is_shared() const { return add_up != nullptr; }

  void operator()(std::vector<double>& sums) const {
    if (is_shared()) add_up(sums.data(), static_cast<long long>(sums.size()), context);
  }
};

// Results from the sums over the whole batch: the loss, and the coefficients of the gradient.
struct Verdict {
  double loss = 0.0, factor = 0.0;
  std::vector<float> a, b;
};

// sums: per structure cross-entropy, overlap, probabilities and targets; then the number of elements.
Verdict verdict(const std::vector<double>& sums, int64_t structures, double bce_share, double dice_share,
                double scale) {
  Verdict verdict;
  double cross = 0.0, dice = 0.0;
  for (int64_t k = 0; k < structures; ++k) {
    const double* s = sums.data() + k * 4;
    const double above = 2.0 * s[1] + kSmooth, below = s[2] + s[3] + kSmooth;
    cross += s[0];
    dice += above / below;
    const double share = scale * dice_share / structures;
    verdict.a.push_back(static_cast<float>(-share * 2.0 / below));
    verdict.b.push_back(static_cast<float>(share * above / (below * below)));
  }
  const double elements = sums.back();
  verdict.loss = bce_share * cross / elements + dice_share * (1.0 - dice / structures);
  verdict.factor = scale * bce_share / elements;
  return verdict;
}

// Same with libtorch's own operations, on any device, for a share of a batch.
double composite_share(const Tensor& x, const Tensor& t, double bce_share, double dice_share, double scale,
                       const Whole& whole, Tensor* gradient) {
  std::vector<int64_t> others, shape(x.dim(), 1);
  shape[1] = x.size(1);
  for (int64_t axis = 0; axis < x.dim(); ++axis)
    if (axis != 1) others.push_back(axis);
  const Tensor p = x.sigmoid();
  const Tensor cross = at::binary_cross_entropy_with_logits(x, t, {}, {}, at::Reduction::None);
  const Tensor own = at::stack({cross.sum(others), (p * t).sum(others), p.sum(others), t.sum(others)}, 1)
                         .to(at::kDouble)
                         .cpu()
                         .contiguous();
  std::vector<double> sums(own.const_data_ptr<double>(), own.const_data_ptr<double>() + own.numel());
  sums.push_back(static_cast<double>(x.numel()));
  whole(sums);
  const Verdict all = verdict(sums, x.size(1), bce_share, dice_share, scale);
  const Tensor a = at::tensor(all.a, x.options()).view(shape), b = at::tensor(all.b, x.options()).view(shape);
  *gradient = (p - t) * all.factor + p * (1.0 - p) * (a * t + b);
  return all.loss;
}

// Same for a whole batch; only the loss is copied to the CPU.
double composite(const Tensor& x, const Tensor& t, double bce_share, double dice_share, double scale,
                 Tensor* gradient) {
  std::vector<int64_t> others, shape(x.dim(), 1);
  shape[1] = x.size(1);
  for (int64_t axis = 0; axis < x.dim(); ++axis)
    if (axis != 1) others.push_back(axis);
  const Tensor p = x.sigmoid();
  const Tensor above = (p * t).sum(others) * 2.0 + kSmooth;
  const Tensor below = p.sum(others) + t.sum(others) + kSmooth;
  const Tensor cross = at::binary_cross_entropy_with_logits(x, t);
  const Tensor dice = 1.0 - (above / below).mean();
  const double share = scale * dice_share / static_cast<double>(x.size(1));
  const Tensor a = (below.reciprocal() * (-2.0 * share)).view(shape);
  const Tensor b = (above / below.square() * share).view(shape);
  *gradient = (p - t) * (scale * bce_share / static_cast<double>(x.numel())) + p * (1.0 - p) * (a * t + b);
  return (cross * bce_share + dice * dice_share).item<double>();
}

}  // namespace

extern "C" int ctseg_bce_dice(Tensor* logits, Tensor* targets, double bce_share, double dice_share, double scale,
                              int fused, CtsegWhole add_up, void* context, double* loss, Tensor** gradient,
                              char** error) {
  return ctseg::guarded(error, [&] {
    at::NoGradGuard no_grad;
    const Whole whole{add_up, context};
    TORCH_CHECK(logits->scalar_type() == at::kFloat && targets->scalar_type() == at::kFloat &&
                    logits->sizes() == targets->sizes() && logits->dim() >= 2,
                "logits and targets must be f32 and of one shape");
    if (!fused || !logits->device().is_cpu()) {
      Tensor out;
      const Tensor x = logits->detach();
      *loss = whole.is_shared()
                  ? composite_share(x, *targets, bce_share, dice_share, scale, whole, &out)
                  : composite(x, *targets, bce_share, dice_share, scale, &out);
      *gradient = new Tensor(out);
      return;
    }
    const Tensor x = logits->contiguous(), t = targets->contiguous();
    const int64_t structures = x.size(1), planes = x.size(0) * structures;
    const int64_t size = planes == 0 ? 0 : x.numel() / planes, pieces = (size + kPiece - 1) / kPiece;
    const float *from = x.const_data_ptr<float>(), *to = t.const_data_ptr<float>();
    std::vector<double> sums(planes * pieces * 4);
    each_piece(planes, size, [&](int64_t, int64_t offset, int64_t count, int64_t piece) {
      ctseg::kernels().loss_sums(from + offset, to + offset, count, sums.data() + piece * 4);
    });
    std::vector<double> per_structure(structures * 4);  // summed in a fixed order
    for (int64_t piece = 0; piece < planes * pieces; ++piece)
      for (int i = 0; i < 4; ++i) per_structure[piece / pieces % structures * 4 + i] += sums[piece * 4 + i];
    per_structure.push_back(static_cast<double>(x.numel()));
    whole(per_structure);
    const Verdict all = verdict(per_structure, structures, bce_share, dice_share, scale);
    *loss = all.loss;
    Tensor out = at::empty_like(x);
    float* result = out.data_ptr<float>();
    const float factor = static_cast<float>(all.factor);
    each_piece(planes, size, [&](int64_t plane, int64_t offset, int64_t count, int64_t) {
      const int64_t k = plane % structures;
      ctseg::kernels().loss_gradient(from + offset, to + offset, result + offset, count, factor, all.a[k],
                                     all.b[k]);
    });
    *gradient = new Tensor(out);
  });
}
