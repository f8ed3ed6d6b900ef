// y = a b of matrices with any strides, by one thread.
//
// A tile of y stays in registers while its rows of a and columns of b pass. Both are copied into
// the order in which they pass, some hundred at a time, so that they stay in the caches: rows of a
// in L1, columns of b in L2; of few rows b is read where it is.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>

#include "lanes.h"
#include "transpose.h"

namespace sparsetrain {

struct Strided {
  const float* data;
  int64_t row, column;  // strides
};

// a [m, k], b [k, n], y [m, n]
struct Gemm {
  int64_t m, n, k;
  Strided a, b;
  float* y;
  int64_t y_row, y_column;

  // The same as y^T = b^T a^T.
  Gemm turned() const {
    return {n, m, k, {b.data, b.column, b.row}, {a.data, a.column, a.row}, y, y_column, y_row};
  }
};

constexpr int64_t kGemmDepth = 192, kGemmColumns = 512;
constexpr int64_t kGemmScratch = kGemmDepth * (kGemmColumns + 16);  // numbers

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "engine/gemm_loops.h"
#include "../each_isa.h"

namespace sparsetrain {

// `scratch` has kGemmScratch numbers.
inline void gemm(const Gemm& given, float* scratch) {
  const bool turn = given.y_column != 1 && given.y_row == 1;
  SPARSETRAIN_BEST(gemm_on)(turn ? given.turned() : given, scratch);
}

}  // namespace sparsetrain
