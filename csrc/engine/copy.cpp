// copy: y = x.
//
//   in   x, of any dtype;  out  y of the same shape and dtype, any strides
//
// Runs that are contiguous in both are moved whole. Where x is contiguous along another axis than
// y, both axes are walked in square tiles, so that each line of the cache is used while it is near.
#include "copy.h"

#include <cstring>

#include "loops.h"
#include "operations.h"
#include "transpose.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kTile = 32;

// y[i * y_i + j * y_j] = x[i * x_i + j * x_j]
struct Square {
  int64_t x_i, x_j, y_i, y_j;
};

template <typename T>
void copy_square(const T* x, T* y, const Square& s, int64_t m, int64_t n) {
  if (s.x_i == 1 && s.y_j == 1) return transpose(x, s.x_j, y, s.y_i, m, n);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) y[i * s.y_i + j * s.y_j] = x[i * s.x_i + j * s.x_j];
}

template <typename T>
void copy_run(const T* x, int64_t x_step, T* y, int64_t y_step, int64_t n) {
  if (x_step == 1 && y_step == 1) {
    std::memmove(y, x, n * sizeof(T));  // a program may have them overlap
  } else if (y_step == 1 && x_step == 0) {
    std::fill_n(y, n, *x);
  } else {
    for (int64_t i = 0; i < n; i++) y[i * y_step] = x[i * x_step];
  }
}

// The axis along which x's numbers lie nearest to each other, of those that are not repeated.
int nearest(const Loops<2>& loops) {
  int found = loops.rank - 1;
  for (int a = loops.rank - 2; a >= 0; a--) {
    const int64_t step = loops.stride[1][a], best = loops.stride[1][found];
    if (step > 0 && (best == 0 || step < best)) found = a;
  }
  return found;
}

// Tiles of axis `across` and of the run; the other axes are rows.
template <typename T>
void copy_tiles(const T* x, T* y, const Loops<2>& loops, int across, Threads& threads) {
  const int run = loops.rank - 1;
  Loops<2> rest;
  for (int a = 0; a < run; a++)
    if (a != across) rest.add(loops.shape[a], {loops.stride[0][a], loops.stride[1][a]});
  const int64_t m = loops.shape[across], n = loops.shape[run];
  const int64_t down = (m + kTile - 1) / kTile, beside = (n + kTile - 1) / kTile;
  rest.add(down, {kTile * loops.stride[0][across], kTile * loops.stride[1][across]});
  rest.add(beside, {kTile * loops.stride[0][run], kTile * loops.stride[1][run]});
  rest.add(1, {});
  const Square s{loops.stride[1][across], loops.stride[1][run], loops.stride[0][across],
                 loops.stride[0][run]};
  spread(threads, rest.rows(), loops.count(), [&](int64_t begin, int64_t end) {
    each_row(rest, begin, end, [&](const int64_t* offset, int64_t row) {
      const int64_t i = row / beside % down * kTile, j = row % beside * kTile;
      copy_square(x + offset[1], y + offset[0], s, std::min(kTile, m - i), std::min(kTile, n - j));
    });
  });
}

template <typename T>
void copy_of(const Operand& from, const Operand& to, Threads& threads) {
  const auto* x = static_cast<const T*>(from.data);
  auto* y = static_cast<T*>(to.data);
  const Loops<2> loops = loops_of<2>({&to, &from});
  if (loops.count() == 0) return;
  const int across = nearest(loops);
  // A tile takes one axis more than there are.
  if (across != loops.rank - 1 && loops.rank + 1 <= kMostAxes)
    return copy_tiles(x, y, loops, across, threads);
  each_run(loops, threads, [&](const int64_t* offset, int64_t n) {
    copy_run(x + offset[1], loops.step(1), y + offset[0], loops.step(0), n);
  });
}

void check(const Call& call) {
  require_counts(call, 1, 0, "copy: one input, one output and no attributes are needed");
  require(same_shape(call.in[0], call.out[0]), "copy: x and y must be of one shape");
  require(call.in[0].dtype == call.out[0].dtype, "copy: x and y must be of one dtype");
}

void run(const Call& call, Threads& threads) { copy_numbers(call.in[0], call.out[0], threads); }

}  // namespace

void copy_numbers(const Operand& x, const Operand& y, Threads& threads) {
  switch (bytes_of(x.dtype)) {
    case 1:
      return copy_of<uint8_t>(x, y, threads);
    case 2:
      return copy_of<uint16_t>(x, y, threads);
    case 4:
      return copy_of<uint32_t>(x, y, threads);
    default:
      return copy_of<uint64_t>(x, y, threads);
  }
}

const Operation kCopy{"copy", check, run};

}  // namespace sparsetrain::engine
