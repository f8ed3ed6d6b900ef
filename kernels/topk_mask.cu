// topk_mask as a PyTorch op on CUDA; the kernels are in topk_mask.cuh and topk_radix.cuh. Built on
// torch's stable ABI: one binary serves every torch >= 2.11.
#include "../csrc/torch/topk_mask.h"
#include "tensors.cuh"
#include "topk_radix.cuh"

namespace sparsetrain {
namespace {

using Masks = std::tuple<std::vector<Tensor>, Tensor, Tensor>;

std::vector<Part> parts_of(const std::vector<Tensor>& weights, const std::vector<Tensor>& grads,
                           const std::vector<Tensor>& within, const std::vector<Tensor>& keep,
                           ScoreKind kind) {
  std::vector<Part> parts;
  int64_t base = 0;
  for (size_t i = 0; i < weights.size(); i++) {
    const int64_t numel = weights[i].numel();
    if (numel == 0) continue;
    const bool both = kind == ScoreKind::kSnip || kind == ScoreKind::kBlend;
    const void* x = (kind == ScoreKind::kGradient ? grads : weights)[i].const_data_ptr();
    const void* y = both ? grads[i].const_data_ptr() : nullptr;
    const bool* in = within.empty() ? nullptr : within[i].const_data_ptr<bool>();
    bool* out = keep[i].mutable_data_ptr<bool>();
    const bool aligned = is_aligned(x) && is_aligned(y) && is_aligned(in) && is_aligned(out);
    parts.push_back({x, y, in, out, numel, base, 0, int32_t(i), dtype_of(weights[i]), aligned});
    base += numel;
  }
  return parts;
}

int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Device memory for all that the job points to, which lives as long as the result.
Tensor scratch_for(Job& job, const std::vector<Part>& parts, const Tensor& like) {
  const int64_t state = rounded(sizeof(State)), entries = rounded(8 * job.capacity);
  const int64_t ties = rounded(4 * job.chunks), table = rounded(sizeof(Part) * parts.size());
  Tensor scratch =
      torch::stable::new_empty(like, {state + entries + ties + table}, ScalarType::Byte);
  auto* at = static_cast<char*>(scratch.mutable_data_ptr());
  job.state = reinterpret_cast<State*>(at);
  job.entries = reinterpret_cast<uint64_t*>(at + state);
  job.ties = reinterpret_cast<int32_t*>(at + state + entries);
  job.parts = reinterpret_cast<Part*>(at + state + entries + ties);
  return scratch;
}

void run(const Job& job, int64_t wide, cudaStream_t stream) {
  const auto launch = [&](auto* kernel, int64_t blocks, const Job& job) {
    kernel<<<unsigned(blocks), kThreads, 0, stream>>>(job);
    check_launch("topk_mask");
  };
  switch (job.score.kind) {
    case ScoreKind::kMagnitude:
    case ScoreKind::kGradient:
      return launch_topk_mask<Formula::kOne>(job, wide, launch);
    case ScoreKind::kSnip:
      return launch_topk_mask<Formula::kProduct>(job, wide, launch);
    case ScoreKind::kBlend:
      return launch_topk_mask<Formula::kBlend>(job, wide, launch);
  }
}

Masks topk_mask_cuda(std::vector<Tensor> weights, std::vector<Tensor> grads,
                     std::vector<Tensor> within, int64_t k, int64_t score, double alpha,
                     double beta, double gamma) {
  const TopkLists lists{"topk_mask", weights, grads, within, score, alpha, beta, gamma};
  lists.check();
  check_k(lists.op, k);
  const Device device(weights[0]);
  std::vector<Tensor> keep;
  for (const Tensor& w : weights)
    keep.push_back(torch::stable::new_empty(w, w.sizes(), ScalarType::Bool));
  Tensor nan = torch::stable::new_zeros(weights[0], {int64_t(weights.size())}, ScalarType::Long);
  Tensor candidates = torch::stable::new_zeros(weights[0], {}, ScalarType::Long);

  Job job{};
  job.score = {ScoreKind(score), float(alpha), float(beta), float(gamma)};
  std::vector<Part> parts = parts_of(weights, grads, within, keep, job.score.kind);
  if (parts.empty()) return {keep, nan, candidates};
  job.numel = parts.back().base + parts.back().numel;
  job.k = k;
  plan(job);
  job.count = int32_t(parts.size());
  job.chunks = number_chunks(parts, job.chunk);
  job.nan = reinterpret_cast<unsigned long long*>(nan.mutable_data_ptr<int64_t>());
  job.candidates = reinterpret_cast<long long*>(candidates.mutable_data_ptr<int64_t>());
  const Tensor scratch = scratch_for(job, parts, weights[0]);
  upload(parts.data(), int64_t(parts.size()), const_cast<Part*>(job.parts), device.stream);
  run(job, 4 * device.processors, device.stream);
  return {keep, nan, candidates};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) { m.impl("topk_mask", TORCH_BOX(&topk_mask_cuda)); }

}  // namespace sparsetrain
