// kernels/topk_mask.cuh and topk_radix.cuh, run on a CPU for tests/ops/test_topk_mask_cuda.py.
#include "cuda_on_cpu.h"

// After CUDA's words are defined.
#include "../../kernels/topk_radix.cuh"

using namespace sparsetrain;

// What the test passes: columns of its table, one row a tensor.
struct Row {
  const void *weight, *grad;
  const bool* within;
  bool* keep;
  int64_t numel, dtype;
};

// What the test may change of the plan; 0: as planned.
struct Limits {
  int64_t capacity, samples, blocks;
};

// Returns the route that was taken.
extern "C" int32_t topk_mask_on_cpu(const Row* rows, int64_t count, int64_t k, int32_t score,
                                    const float* factors, const Limits* limits,
                                    unsigned long long* nan, long long* candidates) {
  std::vector<Part> parts;
  const ScoreKind kind = ScoreKind(score);
  const bool both = kind == ScoreKind::kSnip || kind == ScoreKind::kBlend;
  Job job{};
  for (int64_t i = 0; i < count; i++) {
    const Row& r = rows[i];
    if (r.numel == 0) continue;
    const void* x = kind == ScoreKind::kGradient ? r.grad : r.weight;
    const void* y = both ? r.grad : nullptr;
    const uintptr_t bits = uintptr_t(x) | uintptr_t(y) | uintptr_t(r.within) | uintptr_t(r.keep);
    parts.push_back({x, y, r.within, r.keep, r.numel, job.numel, 0, int32_t(i), Dtype(r.dtype),
                     bits % 16 == 0});
    job.numel += r.numel;
  }
  job.k = k;
  job.score = {kind, factors[0], factors[1], factors[2]};
  plan(job);
  if (limits->samples) job.samples = limits->samples;
  if (limits->capacity) job.capacity = limits->capacity;
  job.ranks = sample_ranks(k, job.numel, job.samples ? job.samples : 1);
  job.chunks = number_chunks(parts, job.chunk);
  State state{};
  std::vector<uint64_t> entries(std::max(job.capacity, job.samples));
  std::vector<int32_t> ties(job.chunks);
  std::vector<Part> table(parts.size());
  Rows<Part> upload;
  std::copy(parts.begin(), parts.end(), upload.row);
  job.parts = table.data(), job.count = int32_t(parts.size());
  job.state = &state, job.entries = entries.data(), job.ties = ties.data();
  job.nan = nan, job.candidates = candidates;
  on_cpu::launch(upload_kernel<Part>, 1, upload, int(parts.size()), table.data());
  const auto launch = [](auto* kernel, int64_t blocks, const Job& job) {
    on_cpu::launch(kernel, blocks, job);
  };
  if (both && kind == ScoreKind::kSnip)
    launch_topk_mask<Formula::kProduct>(job, limits->blocks, launch);
  else if (both)
    launch_topk_mask<Formula::kBlend>(job, limits->blocks, launch);
  else
    launch_topk_mask<Formula::kOne>(job, limits->blocks, launch);
  return int32_t(state.route);
}
