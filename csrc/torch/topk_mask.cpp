// topk_mask as PyTorch ops on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../topk_mask.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "topk_mask.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace sparsetrain {
namespace {

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

// masks: one for each weight, whose memory is written.
std::vector<Segment> segments_of(const TopkLists& lists, const std::vector<Tensor>& masks,
                                 MaskKind kind) {
  std::vector<Segment> segments;
  for (size_t i = 0; i < lists.weights.size(); i++) {
    const Tensor& w = lists.weights[i];
    const void* grad = lists.grads.empty() ? nullptr : lists.grads[i].const_data_ptr();
    const bool* candidates =
        lists.within.empty() ? nullptr : lists.within[i].const_data_ptr<bool>();
    segments.push_back({{w.const_data_ptr(), grad, candidates, dtype_of(w)},
                        static_cast<uint8_t*>(masks[i].mutable_data_ptr()),
                        kind,
                        w.numel()});
  }
  return segments;
}

Score formula_of(const TopkLists& lists) {
  return {ScoreKind(lists.score), float(lists.alpha), float(lists.beta), float(lists.gamma)};
}

using Masks = std::tuple<std::vector<Tensor>, Tensor, Tensor>;

Masks topk_mask_cpu(std::vector<Tensor> weights, std::vector<Tensor> grads,
                    std::vector<Tensor> within, int64_t k, int64_t score, double alpha, double beta,
                    double gamma) {
  const TopkLists lists{"topk_mask", weights, grads, within, score, alpha, beta, gamma};
  lists.check();
  check_k(lists.op, k);
  std::vector<Tensor> keep;
  for (const Tensor& w : weights) keep.push_back(new_mask(w));
  const std::vector<Segment> segments = segments_of(lists, keep, MaskKind::kBytes);

  const int64_t count = weights.size();
  Tensor nan = torch::stable::new_zeros(weights[0], {count}, ScalarType::Long);
  Tensor candidates = torch::stable::new_empty(weights[0], {}, ScalarType::Long);
  Warm nothing;
  *candidates.mutable_data_ptr<int64_t>() = selector(segments.data(), count, formula_of(lists))
                                                .run(k, nan.mutable_data_ptr<int64_t>(), nothing);
  return {keep, nan, candidates};
}

// What a plan remembers, of each group: a guess, so that nonsense is as good as nothing.
std::vector<Warm> warm_of(const char* op, const Tensor& warm, int64_t groups) {
  constexpr int64_t numbers = sizeof(Warm) / sizeof(double);
  Check(op, "warm", warm).dtype({ScalarType::Double}).shape({groups, numbers}).contiguous();
  const auto* from = static_cast<const Warm*>(warm.const_data_ptr());
  std::vector<Warm> found(from, from + groups);
  for (Warm& w : found)
    if (!(std::isfinite(w.key) && std::isfinite(w.k) && std::isfinite(w.density) &&
          std::isfinite(w.half) && w.half >= 0))
      w = Warm();
  return found;
}

void check_masks(const TopkLists& lists, const std::vector<Tensor>& keep, bool bits) {
  check_length({lists.op, "keep"}, keep, lists.weights.size());
  for (size_t i = 0; i < keep.size(); i++) {
    const Tensor& w = lists.weights[i];
    const Check mask({lists.op, "keep", int64_t(i)}, keep[i]);
    if (bits)
      mask.dtype({ScalarType::Byte}).on(w).shape({(w.numel() + 7) / 8}).contiguous();
    else
      mask.dtype({ScalarType::Bool}).like(w);
  }
}

// k, [groups]: of all tensors together, or of each. keep: where the masks are written.
std::tuple<Tensor, Tensor> topk_mask_into_cpu(std::vector<Tensor> weights,
                                              std::vector<Tensor> grads, std::vector<Tensor> within,
                                              std::vector<Tensor> keep, std::vector<int64_t> k,
                                              Tensor warm, int64_t score, double alpha, double beta,
                                              double gamma, bool bits, bool radix) {
  const TopkLists lists{"topk_mask_into", weights, grads, within, score, alpha, beta, gamma};
  lists.check();
  check_masks(lists, keep, bits);
  const int64_t count = weights.size(), groups = k.size(), each = groups == 1 ? count : 1;
  STD_TORCH_CHECK(groups == 1 || groups == count, lists.op, ": k must be 1 or ", count,
                  " in number, got ", groups);
  for (const int64_t wanted : k) check_k(lists.op, wanted);
  std::vector<Warm> last = warm_of(lists.op, warm, groups);
  const auto segments = segments_of(lists, keep, bits ? MaskKind::kBits : MaskKind::kBytes);
  Tensor nan = torch::stable::new_zeros(weights[0], {count}, ScalarType::Long);
  Tensor candidates = torch::stable::new_empty(weights[0], {groups}, ScalarType::Long);
  auto* bad = nan.mutable_data_ptr<int64_t>();
  auto* found = candidates.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < groups; i++) {
    auto select = selector(segments.data() + i * each, each, formula_of(lists));
    found[i] =
        radix ? select.run_radix(k[i], bad + i * each) : select.run(k[i], bad + i * each, last[i]);
  }
  std::copy(last.begin(), last.end(), static_cast<Warm*>(warm.mutable_data_ptr()));
  return {nan, candidates};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("topk_mask", TORCH_BOX(&topk_mask_cpu));
  m.impl("topk_mask_into", TORCH_BOX(&topk_mask_into_cpu));
}

}  // namespace sparsetrain
