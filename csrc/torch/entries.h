// The entries of a sparse matrix as the ops on them take them: checked once, then out of reach.
//
// An entry says where to read, so an op would have to look at each of them before it believes it.
// Instead sparsetrain::entries looks once, keeps copies that no one else can change, and hands out
// a token: one number, by which the others find them. They live as long as the token does. A
// made-up or stale token is refused.
#pragma once
#include <memory>

#include "checks.h"

namespace sparsetrain {

struct CheckedEntries {
  Tensor start, offset;
  int64_t v, segments, channels;
  Sizes size, x_shape;

  int64_t count() const { return offset.size(0); }
  int64_t groups() const { return (channels + v - 1) / v; }
  const int32_t* start_ptr() const { return start.const_data_ptr<int32_t>(); }
  const int32_t* offset_ptr() const { return offset.const_data_ptr<int32_t>(); }
  Sizes x_blocks(int64_t blocks) const {
    return {blocks, x_shape[0], x_shape[1], x_shape[2], x_shape[3]};
  }
  Sizes y_blocks(int64_t blocks, const Sizes& halo) const {
    return {blocks, channels, size[0] + 2 * halo[0], size[1] + 2 * halo[1], x_shape[3]};
  }
};

// Raises where no such entries live.
std::shared_ptr<const CheckedEntries> entries_of(const char* op, const Tensor& token);

}  // namespace sparsetrain
