// All operations of the engine, by number; a planner looks numbers up by their names. What each
// reads, writes and is told stands at the top of its file.
#pragma once
#include "operation.h"

namespace sparsetrain::engine {

int64_t operation_count();
const Operation& operation(int64_t i);

extern const Operation kCopy, kFill, kPad, kTake, kEmbedding;
extern const Operation kMap, kBinary, kWhere, kCast, kScaleShift, kPrelu;
extern const Operation kPool, kAdaptivePool, kResize;
extern const Operation kReduce, kSoftmax, kNorm, kGroupNorm, kCumsum;
extern const Operation kMatmul, kAttention, kDepthwise;

}  // namespace sparsetrain::engine
