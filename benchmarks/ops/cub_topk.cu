// CUB's DeviceTopK as a rival of topk_mask: the k largest keys, in any order, without a mask.
// benchmarks/ops/cub_topk.py compiles it where CUB has it (CCCL 3.2 and later).
#include <cub/device/device_topk.cuh>
#include <cuda/execution>
#include <cuda/std/execution>

// With temp null only *bytes is set, to the size that temp must have.
extern "C" int cub_topk(void* temp, size_t* bytes, const float* keys, float* largest, int64_t n,
                        int64_t k, cudaStream_t stream) {
  const auto any = cuda::execution::require(cuda::execution::determinism::not_guaranteed,
                                            cuda::execution::output_ordering::unsorted);
  const auto how = cuda::std::execution::env{cuda::stream_ref{stream}, any};
  return int(cub::DeviceTopK::MaxKeys(temp, *bytes, keys, largest, n, k, how));
}
