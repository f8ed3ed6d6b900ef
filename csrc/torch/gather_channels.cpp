// gather_channels as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "gather_channels.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace sparsetrain {
namespace {

constexpr int64_t kGrain = 1 << 16;  // bytes that are worth a thread

std::vector<Tensor> gather_channels_cpu(std::vector<Tensor> tensors, std::optional<Tensor> rows,
                                        std::optional<Tensor> cols) {
  std::vector<Tensor> out;
  std::vector<Gather> gathers;
  int64_t bytes = 0;
  for (const Tensor& t : tensors) {
    out.push_back(gathered_like(t, rows, cols));
    gathers.push_back(gather_of(t, out.back()));
    bytes += out.back().numel() * out.back().element_size();
  }
  if (bytes == 0) return out;

  const int64_t *row = indices(rows), *col = indices(cols);
  const std::vector<Run> runs = col ? runs_of(col, cols->numel()) : std::vector<Run>();
  const int64_t kept = out[0].size(0), work = kept * int64_t(tensors.size());
  const int64_t grain = std::max<int64_t>(1, kGrain * work / bytes);
  torch::stable::parallel_for(0, work, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t r = i % kept;
      gather_row(gathers[i / kept], r, row ? row[r] : r, col, runs);
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("gather_channels", TORCH_BOX(&gather_channels_cpu));
}

}  // namespace sparsetrain
