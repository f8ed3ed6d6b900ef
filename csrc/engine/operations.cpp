#include "operations.h"

#include <iterator>

#include "halo.h"
#include "product.h"

namespace sparsetrain::engine {
namespace {

const Operation* const kOperations[] = {
    &kHalo,   &kProduct,   &kCopy,       &kFill,  &kMap,       &kBinary,
    &kWhere,  &kCast,      &kScaleShift, &kPrelu, &kPool,      &kAdaptivePool,
    &kResize, &kReduce,    &kSoftmax,    &kNorm,  &kGroupNorm, &kCumsum,
    &kMatmul, &kAttention, &kPad,        &kTake,  &kEmbedding, &kDepthwise};

}  // namespace

int64_t operation_count() { return std::size(kOperations); }

const Operation& operation(int64_t i) { return *kOperations[i]; }

}  // namespace sparsetrain::engine
