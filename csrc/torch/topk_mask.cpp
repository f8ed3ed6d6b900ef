// topk_mask as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../topk_mask.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace sparsetrain {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat;
    case ScalarType::Double:
      return Dtype::kDouble;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Half:
      return Dtype::kHalf;
    default:
      STD_TORCH_CHECK(false, "topk_mask: weights must be float32, float64, bfloat16 or float16");
  }
}

using Masks = std::tuple<std::vector<Tensor>, Tensor, Tensor>;

Masks topk_mask_cpu(std::vector<Tensor> weights, std::vector<Tensor> grads,
                    std::vector<Tensor> within, int64_t k, int64_t score, double alpha, double beta,
                    double gamma) {
  std::vector<Tensor> keep;
  std::vector<Segment> segments;
  for (size_t i = 0; i < weights.size(); i++) {
    const Tensor& w = weights[i];
    keep.push_back(torch::stable::new_empty(w, w.sizes(), ScalarType::Bool));
    const void* grad = grads.empty() ? nullptr : grads[i].const_data_ptr();
    const bool* candidates = within.empty() ? nullptr : within[i].const_data_ptr<bool>();
    segments.push_back({{w.const_data_ptr(), grad, candidates, dtype_of(w)},
                        keep.back().mutable_data_ptr<bool>(),
                        w.numel()});
  }

  const Score formula{ScoreKind(score), float(alpha), float(beta), float(gamma)};
  TopkMask select(segments, formula, [](int64_t n, const auto& work) {
    torch::stable::parallel_for(0, n, /*grain_size=*/1, work);
  });
  const int64_t count = weights.size();
  Tensor nan = torch::stable::new_zeros(weights[0], {count}, ScalarType::Long);
  Tensor candidates = torch::stable::new_empty(weights[0], {}, ScalarType::Long);
  *candidates.mutable_data_ptr<int64_t>() = select.run(k, nan.mutable_data_ptr<int64_t>());
  return {keep, nan, candidates};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("topk_mask", TORCH_BOX(&topk_mask_cpu)); }

}  // namespace sparsetrain
