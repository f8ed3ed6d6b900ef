// The halo of a blocked tensor: border rows and columns that are zero.
#pragma once
#include <algorithm>
#include <cstdint>

namespace sparsetrain {

// Zeroes the halo of one channel of one block: [rows, columns], a column is `lanes` numbers.
template <typename T>
void zero_halo(T* plane, int64_t rows, int64_t columns, int64_t lanes, int64_t halo_rows,
               int64_t halo_columns) {
  const int64_t line = columns * lanes, side = halo_columns * lanes;
  std::fill_n(plane, halo_rows * line, T(0));
  std::fill_n(plane + (rows - halo_rows) * line, halo_rows * line, T(0));
  if (side == 0) return;
  for (int64_t r = halo_rows; r < rows - halo_rows; r++) {
    std::fill_n(plane + r * line, side, T(0));
    std::fill_n(plane + (r + 1) * line - side, side, T(0));
  }
}

}  // namespace sparsetrain
