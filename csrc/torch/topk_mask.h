// What topk_mask asks of its tensors, on the CPU and on CUDA.
#pragma once
#include <cmath>
#include <vector>

#include "checks.h"
#include "dtype_of.h"

namespace sparsetrain {

struct TopkLists {
  const char* op;
  const std::vector<Tensor>&weights, &grads, &within;
  int64_t score;  // in the order of SCORES in Python
  double alpha, beta, gamma;

  void check() const {
    STD_TORCH_CHECK(!weights.empty(), op, ": needs a weight, got none");
    STD_TORCH_CHECK(0 <= score && score < 4, op, ": score must be 0, 1, 2 or 3, got ", score);
    for (const double factor : {alpha, beta, gamma})
      STD_TORCH_CHECK(std::isfinite(factor) && factor >= 0, op,
                      ": alpha, beta and gamma must be finite and not negative, got ", factor);
    if (ScoreKind(score) != ScoreKind::kMagnitude || !grads.empty())
      check_length({op, "grads"}, grads, weights.size());
    if (!within.empty()) check_length({op, "within"}, within, weights.size());
    for (size_t i = 0; i < weights.size(); i++) check_one(i);
  }

 private:
  void check_one(size_t i) const {
    const Tensor& w = weights[i];
    const auto place = int64_t(i);
    Check({op, "weights", place}, w).dtype(kFloating).on(weights[0]).contiguous();
    if (!grads.empty()) Check({op, "grads", place}, grads[i]).dtype({w.scalar_type()}).like(w);
    if (!within.empty()) Check({op, "within", place}, within[i]).dtype({ScalarType::Bool}).like(w);
  }
};

inline void check_k(const char* op, int64_t k) {
  STD_TORCH_CHECK(k >= 0, op, ": k must not be negative, got ", k);
}

}  // namespace sparsetrain
