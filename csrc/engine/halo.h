// halo: zeros around each image of y.
//
//   out y [N, C, H, W] of which channels are whole planes [H + 2 rows, W + 2 columns, N] in memory
//   attributes: rows, columns
#pragma once
#include "../halo.h"
#include "operation.h"

namespace sparsetrain::engine {

struct HaloPlanes {
  int64_t rows, columns, height, width, lanes, channel;

  explicit HaloPlanes(const Call& call)
      : rows(call.attributes.whole(0)),
        columns(call.attributes.whole(1)),
        height(call.out[0].shape[2] + 2 * rows),
        width(call.out[0].shape[3] + 2 * columns),
        lanes(call.out[0].shape[0]),
        channel(call.out[0].stride[1]) {}

  int64_t first() const { return (rows * width + columns) * lanes; }  // numbers before entry 0
};

inline void check_halo(const Call& call) {
  require(call.inputs == 0 && call.outputs == 1 && call.attributes.count == 2,
          "halo: one output and two attributes are needed");
  const Operand& y = call.out[0];
  require(y.rank == 4 && y.dtype == DType::kFloat, "halo: y must be fp32 of 4 axes");
  const HaloPlanes p(call);
  require(p.rows >= 0 && p.columns >= 0 && p.rows < kMostHalo && p.columns < kMostHalo,
          "halo: rows and columns are out of range");
  require(y.stride[0] == 1 && y.stride[3] == p.lanes && y.stride[2] == p.width * p.lanes,
          "halo: y's strides are not those of planes");
  const int64_t plane = p.height * p.width * p.lanes;
  require(y.shape[1] <= 1 || p.channel >= plane, "halo: planes overlap");
  require(y.before >= p.first() &&
              y.behind >= std::max<int64_t>(0, y.shape[1] - 1) * p.channel + plane - p.first(),
          "halo: the halo reaches outside its memory");
}

inline void run_halo(const Call& call, Threads& threads) {
  const HaloPlanes p(call);
  float* first = call.out[0].floats() - p.first();
  threads.parallel(call.out[0].shape[1], [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++)
      zero_halo(first + c * p.channel, p.height, p.width, p.lanes, p.rows, p.columns);
  });
}

inline const Operation kHalo{"halo", check_halo, run_halo};

}  // namespace sparsetrain::engine
