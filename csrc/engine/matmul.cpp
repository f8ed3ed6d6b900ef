// matmul: y = a b, of matrices in the last two axes.
//
//   in   a [..., M, K], b [..., K, N], fp32, the axes before them of the same sizes; what is
//        repeated has strides of 0
//   out  y [..., M, N]
#include "gemm.h"
#include "loops.h"
#include "operations.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kLeast = 64;  // rows or columns of a part

void check(const Call& call) {
  require_counts(call, 2, 0, "matmul: two inputs, one output and no attributes are needed");
  const Operand &a = call.in[0], &b = call.in[1], &y = call.out[0];
  for (const Operand& x : {a, b, y})
    require(x.dtype == DType::kFloat && x.rank >= 2,
            "matmul: a, b and y must be fp32 of 2 axes or more");
  require(a.rank == y.rank && b.rank == y.rank, "matmul: a, b and y must have as many axes");
  const int rows = y.rank - 2, columns = y.rank - 1;
  for (int i = 0; i < rows; i++)
    require(a.shape[i] == y.shape[i] && b.shape[i] == y.shape[i],
            "matmul: a, b and y must be of one size before their last two axes");
  require(a.shape[columns] == b.shape[rows], "matmul: a's columns must be as many as b's rows");
  require(a.shape[rows] == y.shape[rows] && b.shape[columns] == y.shape[columns],
          "matmul: y must have a's rows and b's columns");
}

int64_t scratch(const Call&, int threads) { return threads * kGemmScratch; }

Gemm product_of(const Call& call) {
  const Operand &a = call.in[0], &b = call.in[1], &y = call.out[0];
  const int r = y.rank - 2, c = y.rank - 1;
  return {y.shape[r],
          y.shape[c],
          a.shape[c],
          {a.floats(), a.stride[r], a.stride[c]},
          {b.floats(), b.stride[r], b.stride[c]},
          y.floats(),
          y.stride[r],
          y.stride[c]};
}

// Into how many parts each product goes so that all threads have work.
int64_t parts_of(const Gemm& g, int64_t products, int threads) {
  if (products % threads == 0) return 1;
  const int64_t most = std::max<int64_t>(1, std::max(g.m, g.n) / kLeast);
  return std::min(most, (4 * threads + products - 1) / products);
}

// Part i of so many: of the columns, or of the rows where they are more.
Gemm part_of(Gemm g, int64_t i, int64_t parts) {
  if (g.m > g.n) {
    const int64_t from = g.m * i / parts, to = g.m * (i + 1) / parts;
    g.m = to - from, g.a.data += from * g.a.row, g.y += from * g.y_row;
  } else {
    const int64_t from = g.n * i / parts, to = g.n * (i + 1) / parts;
    g.n = to - from, g.b.data += from * g.b.column, g.y += from * g.y_column;
  }
  return g;
}

void run(const Call& call, Threads& threads) {
  const Operand& y = call.out[0];
  const Operands<3> all{&y, &call.in[0], &call.in[1]};
  Loops<3> batch = loops_of<3>(all, [&](int axis) { return axis < y.rank - 2; });
  if (y.count() == 0) return;
  batch.add(1, {});
  const Gemm first = product_of(call);
  const int64_t products = batch.rows(), parts = parts_of(first, products, threads.count());
  const int64_t numbers = products * first.m * first.n * std::max<int64_t>(1, first.k / 16);
  shares(threads, products * parts, numbers, [&](int64_t share, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      each_row(batch, i / parts, i / parts + 1, [&](const int64_t* offset, int64_t) {
        Gemm g = part_of(first, i % parts, parts);
        g.y += offset[0], g.a.data += offset[1], g.b.data += offset[2];
        gemm(g, call.scratch + share * kGemmScratch);
      });
  });
}

}  // namespace

const Operation kMatmul{"matmul", check, run, scratch};

}  // namespace sparsetrain::engine
