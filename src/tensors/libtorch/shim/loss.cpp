// Binary cross-entropy and soft Dice on logits in two passes over memory: one for the loss, one for its
// gradient. The formulas are those of src/tensors/losses/, which hold for every engine.
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
constexpr double kSmooth = 1.0;  // as in src/tensors/losses/dice.rs

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

// The same by libtorch's own operations, on any device.
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
                              int fused, double* loss, Tensor** gradient, char** error) {
  return ctseg::guarded(error, [&] {
    at::NoGradGuard no_grad;
    TORCH_CHECK(logits->scalar_type() == at::kFloat && targets->scalar_type() == at::kFloat &&
                    logits->sizes() == targets->sizes() && logits->dim() >= 2,
                "logits and targets must be f32 and of one shape");
    if (!fused || !logits->device().is_cpu()) {
      Tensor out;
      *loss = composite(logits->detach(), *targets, bce_share, dice_share, scale, &out);
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
    std::vector<double> per_structure(structures * 4);  // added up in a fixed order
    for (int64_t piece = 0; piece < planes * pieces; ++piece)
      for (int i = 0; i < 4; ++i) per_structure[piece / pieces % structures * 4 + i] += sums[piece * 4 + i];
    double cross = 0.0, dice = 0.0;
    std::vector<float> a(structures), b(structures);
    for (int64_t k = 0; k < structures; ++k) {
      const double* s = per_structure.data() + k * 4;
      const double above = 2.0 * s[1] + kSmooth, below = s[2] + s[3] + kSmooth;
      cross += s[0];
      dice += above / below;
      const double share = scale * dice_share / structures;
      a[k] = static_cast<float>(-share * 2.0 / below);
      b[k] = static_cast<float>(share * above / (below * below));
    }
    const double elements = static_cast<double>(x.numel());
    *loss = bce_share * cross / elements + dice_share * (1.0 - dice / structures);
    Tensor out = at::empty_like(x);
    float* result = out.data_ptr<float>();
    const float factor = static_cast<float>(scale * bce_share / elements);
    each_piece(planes, size, [&](int64_t plane, int64_t offset, int64_t count, int64_t) {
      const int64_t k = plane % structures;
      ctseg::kernels().loss_gradient(from + offset, to + offset, result + offset, count, factor, a[k], b[k]);
    });
    *gradient = new Tensor(out);
  });
}
