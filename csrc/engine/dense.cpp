#include "dense.h"

#include <algorithm>
#include <cstring>

#include "gemm.h"

namespace sparsetrain {
namespace {

constexpr int64_t kPanelBytes = 20 * 1024;   // bytes of x that a tile reads, of L1
constexpr int64_t kManyPanels = 64;          // for each thread, of which it may take several parts
constexpr int64_t kBlockBytes = 256 * 1024;  // bytes of weights that many tiles read, of L2

}  // namespace
}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "engine/dense_loops.h"
#include "../each_isa.h"

namespace sparsetrain {

int64_t dense_packed_size(int64_t groups, int64_t outputs, int64_t depth) {
  return groups * SPARSETRAIN_BEST(dense_tiles)(outputs) * depth * SPARSETRAIN_BEST(kDenseRows);
}

void dense_pack(const float* weight, int64_t groups, int64_t outputs, int64_t depth, float* to) {
  SPARSETRAIN_BEST(dense_pack_on)(weight, groups, outputs, depth, to);
}

void dense(const DenseJob& job, engine::Threads* threads) {
  SPARSETRAIN_BEST(dense_on)(job, threads);
}

}  // namespace sparsetrain
