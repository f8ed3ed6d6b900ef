// halo: zeros around each image of y.
//
//   out y [N, C, H, W] with numbers along N and W contiguous; its memory goes on around it
//   attributes: rows, columns
#pragma once
#include <algorithm>

#include "operation.h"

namespace sparsetrain::engine {

struct HaloShape {
  int64_t rows, columns, lanes, channels, height, width, channel, row;

  explicit HaloShape(const Call& call)
      : rows(call.attributes.whole(0)),
        columns(call.attributes.whole(1)),
        lanes(call.out[0].shape[0]),
        channels(call.out[0].shape[1]),
        height(call.out[0].shape[2]),
        width(call.out[0].shape[3]),
        channel(call.out[0].stride[1]),
        row(call.out[0].stride[2]) {}

  int64_t side() const { return columns * lanes; }
  int64_t line() const { return (width + 2 * columns) * lanes; }
};

inline void check_halo(const Call& call) {
  require(call.inputs == 0 && call.outputs == 1 && call.attributes.count == 2,
          "halo: one output and two attributes are needed");
  const Operand& y = call.out[0];
  require(y.rank == 4 && y.dtype == DType::kFloat, "halo: y must be fp32 of 4 axes");
  const HaloShape s(call);
  require(s.rows >= 0 && s.columns >= 0 && s.rows < kMostHalo && s.columns < kMostHalo,
          "halo: rows and columns are out of range");
  require(y.count() > 0, "halo: y must not be empty");
  require((s.lanes == 1 || y.stride[0] == 1) && (s.width == 1 || y.stride[3] == s.lanes),
          "halo: numbers along N and W must be contiguous");
  const int64_t last = (s.channels - 1) * s.channel + (s.height - 1 + s.rows) * s.row;
  require(y.before >= s.rows * s.row + s.side() && y.behind >= last + s.line() - s.side(),
          "halo: the halo reaches outside its memory");
}

inline void run_halo(const Call& call, Threads& threads) {
  const HaloShape s(call);
  float* first = call.out[0].floats() - s.side();
  const int64_t whole = s.height + 2 * s.rows;
  threads.parallel(whole * s.channels, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t row = i / s.channels - s.rows;
      float* line = first + row * s.row + i % s.channels * s.channel;
      if (row < 0 || row >= s.height) {
        std::fill_n(line, s.line(), 0.0f);
      } else {
        std::fill_n(line, s.side(), 0.0f);
        std::fill_n(line + s.line() - s.side(), s.side(), 0.0f);
      }
    }
  });
}

inline const Operation kHalo{"halo", check_halo, run_halo};

}  // namespace sparsetrain::engine
