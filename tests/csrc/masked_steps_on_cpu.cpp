// kernels/masked_sgd.cuh and masked_adamw.cuh, run on a CPU for
// tests/ops/test_masked_steps_cuda.py.
#include "cuda_on_cpu.h"

// After CUDA's words are defined.
#include "../../kernels/masked_adamw.cuh"
#include "../../kernels/masked_sgd.cuh"

using namespace sparsetrain;

constexpr int64_t kBlocks = 3;

extern "C" void masked_sgd_on_cpu(const Parameter* table, int64_t rows, const double* numbers,
                                  const bool* flags, const float* grad_scale,
                                  const float* found_inf) {
  const SgdStep step{numbers[0], numbers[1], numbers[2], numbers[3], flags[0], flags[1], flags[2]};
  on_cpu::launch(masked_sgd_kernel, kBlocks, table, rows, step, Scaling{grad_scale, found_inf});
}

extern "C" void masked_adamw_on_cpu(const Parameter* table, int64_t rows, const double* numbers,
                                    const bool* flags, const float* grad_scale,
                                    const float* found_inf) {
  const AdamwStep step{numbers[0], numbers[1], numbers[2], numbers[3],
                       numbers[4], flags[0],   flags[1],   flags[2]};
  const Scaling scaling{grad_scale, found_inf};
  on_cpu::launch(masked_adamw_kernel, kBlocks, table, rows, step, scaling);
  on_cpu::launch(count_steps_kernel, 1, table, rows, scaling);
}
