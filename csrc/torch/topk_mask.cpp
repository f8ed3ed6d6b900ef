// topk_mask as PyTorch ops on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../topk_mask.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "dtype_of.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace sparsetrain {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 4;  // tiles that are worth a thread

// A mask of w, in large pages where that helps: new memory costs more in page faults than all of
// the selection.
Tensor new_mask(const Tensor& w) {
  AtenTensorHandle handle;  // straight from the C interface, without a dispatch by name a tensor
  std::vector<int64_t> strides(w.dim());
  int64_t step = 1;
  for (int64_t axis = w.dim(); axis-- > 0; step *= std::max<int64_t>(w.size(axis), 1))
    strides[axis] = step;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(w.dim(), w.sizes().data(), strides.data(),
                                                         aoti_torch_dtype_bool(),
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  Tensor keep(handle);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(keep.mutable_data_ptr()),
             end = begin + keep.numel();
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return keep;
}

auto selector(const Segment* segments, int64_t count, const Score& score) {
  return TopkMask(segments, count, score, [](int64_t n, const auto& work) {
    torch::stable::parallel_for(0, n, kGrain, work);
  });
}

using Masks = std::tuple<std::vector<Tensor>, Tensor, Tensor>;

Masks topk_mask_cpu(std::vector<Tensor> weights, std::vector<Tensor> grads,
                    std::vector<Tensor> within, int64_t k, int64_t score, double alpha, double beta,
                    double gamma) {
  std::vector<Tensor> keep;
  std::vector<Segment> segments;
  for (size_t i = 0; i < weights.size(); i++) {
    const Tensor& w = weights[i];
    keep.push_back(new_mask(w));
    const void* grad = grads.empty() ? nullptr : grads[i].const_data_ptr();
    const bool* candidates = within.empty() ? nullptr : within[i].const_data_ptr<bool>();
    segments.push_back({{w.const_data_ptr(), grad, candidates, dtype_of(w, "topk_mask: weights")},
                        static_cast<uint8_t*>(keep.back().mutable_data_ptr()),
                        MaskKind::kBytes,
                        w.numel()});
  }

  const int64_t count = weights.size();
  const Score formula{ScoreKind(score), float(alpha), float(beta), float(gamma)};
  Tensor nan = torch::stable::new_zeros(weights[0], {count}, ScalarType::Long);
  Tensor candidates = torch::stable::new_empty(weights[0], {}, ScalarType::Long);
  Warm nothing;
  *candidates.mutable_data_ptr<int64_t>() =
      selector(segments.data(), count, formula).run(k, nan.mutable_data_ptr<int64_t>(), nothing);
  return {keep, nan, candidates};
}

// A row of the table, by which a plan passes its tensors.
struct Row {
  int64_t weight, grad, within, keep, numel, dtype;
};

// k, [groups]: of all rows together, or of each.
std::tuple<Tensor, Tensor> topk_mask_table_cpu(Tensor table, Tensor k, Tensor warm, int64_t score,
                                               double alpha, double beta, double gamma, bool bits,
                                               bool radix) {
  const int64_t count = table.size(0), groups = k.numel(), each = groups == 1 ? count : 1;
  const auto* rows = static_cast<const Row*>(table.const_data_ptr());
  std::vector<Segment> segments;
  for (int64_t i = 0; i < count; i++)
    segments.push_back({{reinterpret_cast<const void*>(rows[i].weight),
                         reinterpret_cast<const void*>(rows[i].grad),
                         reinterpret_cast<const bool*>(rows[i].within), Dtype(rows[i].dtype)},
                        reinterpret_cast<uint8_t*>(rows[i].keep),
                        bits ? MaskKind::kBits : MaskKind::kBytes,
                        rows[i].numel});

  const Score formula{ScoreKind(score), float(alpha), float(beta), float(gamma)};
  Tensor nan = torch::stable::new_zeros(table, {count}, ScalarType::Long);
  Tensor candidates = torch::stable::new_empty(table, {groups}, ScalarType::Long);
  const auto* wanted = k.const_data_ptr<int64_t>();
  auto* bad = nan.mutable_data_ptr<int64_t>();
  auto* found = candidates.mutable_data_ptr<int64_t>();
  auto* last = static_cast<Warm*>(warm.mutable_data_ptr());
  for (int64_t i = 0; i < groups; i++) {
    auto select = selector(segments.data() + i * each, each, formula);
    found[i] = radix ? select.run_radix(wanted[i], bad + i * each)
                     : select.run(wanted[i], bad + i * each, last[i]);
  }
  return {nan, candidates};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("topk_mask", TORCH_BOX(&topk_mask_cpu));
  m.impl("topk_mask_table", TORCH_BOX(&topk_mask_table_cpu));
}

}  // namespace sparsetrain
