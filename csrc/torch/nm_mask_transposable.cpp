// nm_mask_transposable as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves
// every torch >= 2.11.
#include "../nm_mask_transposable.h"

#include <torch/csrc/stable/library.h>

#include "checks.h"

namespace sparsetrain {
namespace {

constexpr int64_t kGrain = 1 << 14;  // scores that are worth a thread

template <typename T, typename Index>
void run(const Tensor& score, const Tensor& keep) {
  const auto* from = score.const_data_ptr<T>();
  bool* to = keep.mutable_data_ptr<bool>();
  const int64_t width = score.size(score.dim() - 1), strips = score.numel() / (4 * width);
  const int64_t grain = std::max<int64_t>(1, kGrain / (4 * width));
  torch::stable::parallel_for(0, strips, grain, [&](int64_t begin, int64_t end) {
    for (int64_t s = 4 * width * begin; s < 4 * width * end; s += 4 * width)
      simd<nm_mask_tiles<T, Index>>(from + s, to + s, width / 4, width);
  });
}

Tensor nm_mask_transposable_cpu(const Tensor& score) {
  Check("nm_mask_transposable", "score", score)
      .axes(2)
      .dtype({ScalarType::Float, ScalarType::Double})
      .contiguous();
  STD_TORCH_CHECK(score.size(score.dim() - 2) % 4 == 0 && score.size(score.dim() - 1) % 4 == 0,
                  "nm_mask_transposable: score must be [..., R, C] with R and C multiples of 4,"
                  " got shape ",
                  Printed{sizes_of(score)});
  Tensor keep = torch::stable::new_empty(score, score.sizes(), ScalarType::Bool);
  if (score.numel() == 0) return keep;
  if (score.scalar_type() == ScalarType::Double)
    run<double, int64_t>(score, keep);
  else
    run<float, int32_t>(score, keep);
  return keep;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("nm_mask_transposable", TORCH_BOX(&nm_mask_transposable_cpu));
}

}  // namespace sparsetrain
