// gather_channels as a PyTorch op on CUDA; the kernel is in gather_channels.cuh. Built on torch's
// stable ABI: one binary serves every torch >= 2.11.
#include "../csrc/torch/gather_channels.h"
#include "gather_channels.cuh"
#include "tensors.cuh"

namespace sparsetrain {
namespace {

std::vector<Tensor> gather_channels_cuda(std::vector<Tensor> tensors, std::vector<Tensor> indices,
                                         std::vector<int64_t> rows, std::vector<int64_t> cols) {
  const Gathered all = gathered(tensors, indices, rows, cols);
  std::vector<CopyJob> jobs;
  for (const Gather& g : all.gathers) jobs.push_back(copy_job(g));
  if (jobs.empty()) return all.out;
  const Device device(tensors[0]);
  const int64_t chunks = number_copies(jobs), count = int64_t(jobs.size());
  Tensor table =
      torch::stable::new_empty(tensors[0], {count * int64_t(sizeof(CopyJob))}, ScalarType::Byte);
  auto* on_device = reinterpret_cast<CopyJob*>(table.mutable_data_ptr());
  upload(jobs.data(), count, on_device, device.stream);
  const int64_t blocks = std::min<int64_t>(chunks, 4 * device.processors);
  gather_channels_kernel<<<unsigned(blocks), kThreads, 0, device.stream>>>(on_device, int(count),
                                                                           chunks);
  check_launch("gather_channels");
  return all.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("gather_channels", TORCH_BOX(&gather_channels_cuda));
}

}  // namespace sparsetrain
