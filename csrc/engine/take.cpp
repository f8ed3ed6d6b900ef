// take: y = x[..., index, ...], entries along one axis.
//
//   in   x of any dtype, index int64 [n];  out  y of x's shape with n along the axis
//   attributes: the axis
//
// embedding: rows of a table.
//
//   in   index int64 of any shape, weight fp32 [V, D];  out  y [..., D]
//
// An index that is out of range is refused when it comes; the rest of y is written all the same.
#include <atomic>

#include "copy.h"
#include "loops.h"
#include "operations.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kRows = 16;  // of the table that are copied side by side

int64_t index_at(const Operand& index, int64_t offset) { return index.wholes()[offset]; }

void check_take(const Call& call) {
  require_counts(call, 2, 1, "take: two inputs, one output and an axis are needed");
  const Operand &x = call.in[0], &index = call.in[1], &y = call.out[0];
  const int64_t axis = call.attributes.whole(0);
  require(axis >= 0 && axis < x.rank, "take: there is no such axis");
  require(index.dtype == DType::kInt64 && index.rank == 1, "take: the index must be int64 [n]");
  require(x.dtype == y.dtype && x.rank == y.rank, "take: x and y must be of one dtype and rank");
  for (int a = 0; a < x.rank; a++)
    require(y.shape[a] == (a == axis ? index.shape[0] : x.shape[a]),
            "take: y must have x's sizes, and the index' along the axis");
}

void run_take(const Call& call, Threads& threads) {
  const Operand &x = call.in[0], &index = call.in[1], &y = call.out[0];
  const int axis = int(call.attributes.whole(0));
  for (int64_t i = 0; i < index.shape[0]; i++) {
    const int64_t from = index_at(index, i * index.stride[0]);
    require(from >= 0 && from < x.shape[axis], "take: an index is out of range");
    copy_numbers(part_of(x, axis, from, 1), part_of(y, axis, i, 1), threads);
  }
}

void check_embedding(const Call& call) {
  require_counts(call, 2, 0, "embedding: two inputs, one output and no attributes are needed");
  const Operand &index = call.in[0], &weight = call.in[1], &y = call.out[0];
  require(index.dtype == DType::kInt64, "embedding: the index must be int64");
  require(weight.rank == 2 && weight.dtype == DType::kFloat,
          "embedding: weight must be fp32 [V, D]");
  require(y.dtype == DType::kFloat && y.rank == index.rank + 1 &&
              std::equal(index.shape, index.shape + index.rank, y.shape) &&
              y.shape[index.rank] == weight.shape[1],
          "embedding: y must be fp32 [..., D]");
}

// Rows of the table to `n` neighbours in y, `step` apart.
struct Lookup {
  const float* row[kRows];
  float* y;
  int64_t n, step, row_step, y_step, numbers;

  void run() const {
    for (int64_t d = 0; d < numbers; d++)
      for (int64_t r = 0; r < n; r++) y[d * y_step + r * step] = row[r][d * row_step];
  }
};

void run_embedding(const Call& call, Threads& threads) {
  const Operand &index = call.in[0], &weight = call.in[1];
  Operand first = call.out[0];  // the first number of each row
  const int64_t y_step = first.stride[--first.rank];
  const Loops<2> loops = loops_of<2>({&first, &index});
  if (call.out[0].count() == 0) return;
  std::atomic<bool> outside{false};
  const auto look_up = [&](int64_t y, int64_t at, int64_t n) {
    Lookup lookup{{},     first.floats() + y, 0, loops.step(0), weight.stride[1],
                  y_step, weight.shape[1]};
    for (; lookup.n < n; lookup.n++) {
      const int64_t row = index_at(index, at + lookup.n * loops.step(1));
      if (row < 0 || row >= weight.shape[0]) return outside.store(true);
      lookup.row[lookup.n] = weight.floats() + row * weight.stride[0];
    }
    lookup.run();
  };
  each_run(loops, threads, [&](const int64_t* offset, int64_t n) {
    for (int64_t i = 0; i < n; i += kRows)
      look_up(offset[0] + i * loops.step(0), offset[1] + i * loops.step(1), std::min(kRows, n - i));
  });
  require(!outside, "embedding: an index is out of range");
}

}  // namespace

const Operation kTake{"take", check_take, run_take};
const Operation kEmbedding{"embedding", check_embedding, run_embedding};

}  // namespace sparsetrain::engine
