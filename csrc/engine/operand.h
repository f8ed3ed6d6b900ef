// A strided tensor in memory, as an operation of the engine reads or writes it.
#pragma once
#include <cstdint>

namespace sparsetrain::engine {

constexpr int kMostAxes = 8;
constexpr int64_t kMostHalo = 1 << 12;

// The last two are of constants alone: where the weights of a product stand.
enum class DType : int32_t { kFloat = 0, kInt64 = 1, kBool = 2, kInt32 = 3, kUInt16 = 4 };
constexpr int kDTypes = 5;

inline int64_t bytes_of(DType dtype) {
  constexpr int64_t kBytes[kDTypes] = {4, 8, 1, 4, 2};
  return kBytes[int(dtype)];
}

// Entry (i, j, ...) is data[i * stride[0] + j * stride[1] + ...]; strides count numbers, are never
// negative, and may be 0 where a tensor that is read is repeated.
struct Operand {
  void* data = nullptr;
  DType dtype = DType::kFloat;
  int rank = 0;
  int64_t shape[kMostAxes] = {};
  int64_t stride[kMostAxes] = {};
  int64_t before = 0, behind = 0;  // numbers of its memory in front of data, and from data on

  float* floats() const { return static_cast<float*>(data); }
  int64_t* wholes() const { return static_cast<int64_t*>(data); }
  uint8_t* flags() const { return static_cast<uint8_t*>(data); }

  int64_t count() const {
    int64_t n = 1;
    for (int a = 0; a < rank; a++) n *= shape[a];
    return n;
  }

  // Without gaps, the last axis innermost.
  bool contiguous() const {
    int64_t step = 1;
    for (int a = rank - 1; a >= 0; step *= shape[a--])
      if (shape[a] > 1 && stride[a] != step) return false;
    return true;
  }

  // Whether a line of an image, w columns of n lanes each, is one run of numbers.
  bool run_of_lines(int n, int w) const {
    const int64_t lanes = shape[n];
    return (lanes == 1 || stride[n] == 1) && (shape[w] == 1 || stride[w] == lanes);
  }
};

}  // namespace sparsetrain::engine
