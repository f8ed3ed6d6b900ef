// A program as the planner writes it, words of 64 bits, read with every number checked.
//
//   magic, version, bytes of the arena, counts of constants, inputs and outputs, bytes of each
//   input and output, number of steps; then for each step: operation, inputs, outputs, attributes
//   (how many of each), operands of inputs and outputs, attributes. An operand: region, index, byte
//   where it begins, dtype, rank, shape, strides.
//
// No word is believed: an operand lies inside its region or the program is refused.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "operation.h"

namespace sparsetrain::engine {

constexpr int64_t kMagic = 0x73706172736574, kVersion = 1;
constexpr int64_t kLargest = int64_t(1) << 40;  // of any size, stride or number of bytes

enum class Region : int64_t { kArena = 0, kConstant = 1, kInput = 2, kOutput = 3 };

// Where an operand stands; its data is known when all regions are.
struct Place {
  Region region;
  int64_t index, byte;
};

// One past the last number that an operand names; -1 where that is more than any memory has.
int64_t extent(const Operand& operand);

struct Constant {
  const void* data;
  int64_t bytes;
};

struct Step {
  const Operation* operation;
  std::vector<Operand> operands;  // inputs, then outputs
  std::vector<Place> places;      // of each
  int inputs;
  std::vector<int64_t> attributes;
  std::shared_ptr<const void> prepared;

  Call call(const Operand* operands, float* scratch) const {
    const int outputs = int(places.size()) - inputs;
    return {operands,
            inputs,
            operands + inputs,
            outputs,
            {attributes.data(), int64_t(attributes.size())},
            scratch,
            prepared.get()};
  }
};

struct Program {
  int64_t arena = 0;  // bytes
  std::vector<Constant> constants;
  std::vector<int64_t> inputs, outputs;  // bytes of each
  std::vector<Step> steps;
};

// Raises Refused with the step and what is wrong with it.
Program read_program(const int64_t* words, int64_t count, const std::vector<Constant>& constants);

}  // namespace sparsetrain::engine
