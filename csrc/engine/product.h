// product: a convolution or linear layer, dense or sparse, with what follows it.
//
//   y = min(most, relu(weight * x + bias + residual)), each of the last three where it is asked for
//
//   in   x [N, C, T, H, W]: of images whose columns go in T phases, column q being phase q % T at
//        q / T; zeros stand around it where the taps of padding read. A linear layer has images of
//        one row: [1, K, 1, 1, tokens].
//        dense:  weight [O, C / groups, rows, columns], contiguous
//        sparse: start int32 [G + 1], column uint16 or int32 [E], value [E, v]: of each group of v
//                outputs the columns of the weight as a matrix [O, C / groups * rows * columns]
//        bias [O], residual like y: where there are
//   out  y [N, O, H', W']
//   attributes, see Product::kAttributes
//
// Along N and W numbers must be contiguous. Weights are put into the order in which they are read
// once, when prepared: dense ones as dense.h reads them, entries as spmm.h does.
#pragma once
#include "operation.h"

namespace sparsetrain::engine {

extern const Operation kProduct;

struct Step;

// Whether `next` multiplies each pixel of what `step` makes, both so large that they should be
// computed tile by tile: the second then finds its input in the cache.
bool follows_in_tiles(const Step& step, const Step& next);

// Whether a product writes where an earlier one reads or writes: then tiles are out of the
// question.
bool touches(const Step& later, const Step& earlier);

// Products of which each follows the one before, by tiles of rows.
void run_in_tiles(const Call* calls, int count, Threads& threads);

}  // namespace sparsetrain::engine
