// How the optimizer steps take their lists of tensors, and GradScaler's scalars, from PyTorch.
#pragma once
#include <optional>
#include <vector>

#include "../parameter_table.h"
#include "checks.h"

namespace sparsetrain {

using MaybeTensor = std::optional<Tensor>;
using Masks = std::vector<MaybeTensor>;

struct NamedList {
  const char* name;
  const std::vector<Tensor>& tensors;  // one for each weight, or none at all
};

inline StepDtype step_dtype_of(const Tensor& weight) {
  switch (weight.scalar_type()) {
    case ScalarType::Float:
      return StepDtype::kFloat;
    case ScalarType::Double:
      return StepDtype::kDouble;
    case ScalarType::BFloat16:
      return StepDtype::kBFloat16;
    default:
      return StepDtype::kHalf;
  }
}

// One fp32 number on the device of another tensor.
inline float* scalar_of(const Named& named, const Tensor& t, const Tensor& other) {
  STD_TORCH_CHECK(t.numel() == 1, named, " must be one number, got shape ", Printed{sizes_of(t)});
  Check(named, t).dtype({ScalarType::Float}).on(other).contiguous();
  return t.mutable_data_ptr<float>();
}

inline const float* scalar_of(const char* op, const char* name, const MaybeTensor& t,
                              const Tensor& other) {
  return t ? scalar_of({op, name}, *t, other) : nullptr;
}

// All that one step works on.
struct StepLists {
  const char* op;
  const std::vector<Tensor>& weights;
  const std::vector<Tensor>& grads;
  const Masks& masks;
  std::vector<NamedList> states;
  const std::vector<Tensor>* steps;  // null where none are counted
  bool first;

  // A row for each weight, whose tensors are of one device and lie in memory in its order.
  std::vector<Parameter> rows() const {
    check_length({op, "grads"}, grads, weights.size());
    check_length({op, "masks"}, masks, weights.size());
    for (const NamedList& state : states)
      if (!state.tensors.empty()) check_length({op, state.name}, state.tensors, weights.size());
    if (steps) check_length({op, "steps"}, *steps, weights.size());
    std::vector<Parameter> rows;
    rows.reserve(weights.size());
    for (size_t i = 0; i < weights.size(); i++) rows.push_back(row(i));
    return rows;
  }

 private:
  Parameter row(size_t i) const {
    const Tensor& w = weights[i];
    const auto place = int64_t(i);
    const std::initializer_list<ScalarType> dtype = {w.scalar_type()};
    Check({op, "weights", place}, w).dtype(kFloating).on(weights[0]).gapless();
    Check({op, "grads", place}, grads[i]).dtype(dtype).like(w);
    Parameter row{w.mutable_data_ptr(), grads[i].mutable_data_ptr()};
    for (size_t s = 0; s < states.size(); s++) {
      if (states[s].tensors.empty()) continue;
      const Tensor& state = states[s].tensors[i];
      Check({op, states[s].name, place}, state).dtype(dtype).like(w);
      row.state[s] = state.mutable_data_ptr();
    }
    if (const MaybeTensor& mask = masks[i]; mask) {
      Check({op, "masks", place}, *mask).dtype({ScalarType::Bool}).like(w);
      row.mask = static_cast<const uint8_t*>(mask->const_data_ptr());
    }
    if (steps) row.step = scalar_of({op, "steps", place}, (*steps)[i], w);
    row.numel = w.numel();
    row.dtype = step_dtype_of(w);
    row.first = first;
    return row;
  }
};

inline const auto on_threads = [](int64_t n, int64_t grain, const auto& work) {
  torch::stable::parallel_for(0, n, grain, work);
};

}  // namespace sparsetrain
