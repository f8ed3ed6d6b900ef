// kernels/gather_channels.cuh, run on a CPU for tests/ops/test_gather_channels_cuda.py.
#include "cuda_on_cpu.h"

// After CUDA's words are defined.
#include "../../kernels/gather_channels.cuh"

using namespace sparsetrain;

// units, [count]: how many bytes each tensor's lanes copy at a time. Returns how many chunks there
// are.
extern "C" int64_t gather_channels_on_cpu(const Gather* gathers, int64_t count, int64_t blocks,
                                          int64_t* units) {
  std::vector<CopyJob> jobs;
  for (int64_t i = 0; i < count; i++) {
    jobs.push_back(copy_job(gathers[i]));
    units[i] = jobs.back().unit;
  }
  const int64_t chunks = number_copies(jobs);
  on_cpu::launch(gather_channels_kernel, blocks, jobs.data(), int(count), chunks);
  return chunks;
}
