// A strided tensor in memory, as an operation of the engine reads or writes it.
#pragma once
#include <cstdint>

namespace sparsetrain::engine {

constexpr int kMostAxes = 8;

enum class DType : int32_t { kFloat = 0, kInt64 = 1, kBool = 2 };

inline int64_t bytes_of(DType dtype) {
  return dtype == DType::kFloat ? 4 : dtype == DType::kInt64 ? 8 : 1;
}

// Entry (i, j, ...) is data[i * stride[0] + j * stride[1] + ...]; strides count numbers and may be
// 0 where a tensor that is read is repeated.
struct Operand {
  void* data = nullptr;
  DType dtype = DType::kFloat;
  int rank = 0;
  int64_t shape[kMostAxes] = {};
  int64_t stride[kMostAxes] = {};

  float* floats() const { return static_cast<float*>(data); }
  int64_t* wholes() const { return static_cast<int64_t*>(data); }
  uint8_t* flags() const { return static_cast<uint8_t*>(data); }

  int64_t count() const {
    int64_t n = 1;
    for (int a = 0; a < rank; a++) n *= shape[a];
    return n;
  }
};

}  // namespace sparsetrain::engine
