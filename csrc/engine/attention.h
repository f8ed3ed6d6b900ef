// The attention of some tokens of one head: see attention.cpp.
#pragma once
#include "gemm.h"
#include "softmax.h"

namespace sparsetrain {

// Tokens [first, last) attend to s others, causal ones to none behind them. Rows of q, k, v and y
// are tokens; the mask, where there is one, is [T, S].
struct AttentionHead {
  int64_t first, last, s, d, e;
  Strided q, k, v;
  float* y;
  int64_t y_row, y_column;
  float scale;
  bool causal;
  const float* added = nullptr;
  const uint8_t* kept = nullptr;
  int64_t mask_row = 0, mask_column = 0;

  bool masked() const { return added || kept; }
};

constexpr int64_t kMostRows = 12, kMostPanel = 32;  // of a tile, whatever the instruction set

// Numbers of scratch: k and v in the order in which tiles read them, of a panel of tokens q, the
// scores and a tile of y.
inline int64_t attention_scratch(int64_t s, int64_t d, int64_t e) {
  return s * (d + e) + kMostPanel * (s + d + kMostRows);
}

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "engine/attention_loops.h"
#include "../each_isa.h"
