// What CUDA ops over many tensors share on the host: dtypes, the stream, the upload of a table.
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../csrc/torch/dtype_of.h"
#include "blocks.cuh"

// Weak, so that the module also loads where there is no CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace sparsetrain {

namespace {

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, op, ": ", cudaGetErrorString(error));
}

// The device of a tensor, current while this lives.
struct Device {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
  int processors;

  explicit Device(const Tensor& t) : guard(t.get_device_index()) {
    const int32_t index = t.get_device_index();
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &current));
    stream = static_cast<cudaStream_t>(current);
    const cudaError_t error =
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, index);
    STD_TORCH_CHECK(error == cudaSuccess, "sparsetrain: ", cudaGetErrorString(error));
  }
};

inline bool is_aligned(const void* x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; }

template <typename Row>
void upload(const Row* rows, int64_t count, Row* to, cudaStream_t stream) {
  constexpr int64_t kMost = Rows<Row>::kMost;
  for (int64_t first = 0; first < count; first += kMost) {
    const int64_t n = std::min(kMost, count - first);
    Rows<Row> part;
    std::copy_n(rows + first, n, part.row);
    upload_kernel<<<1, kThreads, 0, stream>>>(part, int(n), to + first);
    check_launch("sparsetrain");
  }
}

}  // namespace
}  // namespace sparsetrain
