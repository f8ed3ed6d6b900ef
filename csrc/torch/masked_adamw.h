// What masked_adamw asks of its tensors, on the CPU and on CUDA.
#pragma once
#include "parameters.h"

namespace sparsetrain {

struct Moments {
  const std::vector<Tensor>&exp_avgs, &exp_avg_sqs, &max_exp_avg_sqs;
};

inline std::vector<Parameter> adamw_rows(const std::vector<Tensor>& weights,
                                         const std::vector<Tensor>& grads, const Moments& moments,
                                         const std::vector<Tensor>& steps, const Masks& masks) {
  constexpr const char* op = "masked_adamw";
  STD_TORCH_CHECK(!weights.empty(), op, ": needs a weight, got none");
  check_length({op, "exp_avgs"}, moments.exp_avgs, weights.size());
  check_length({op, "exp_avg_sqs"}, moments.exp_avg_sqs, weights.size());
  return StepLists{op,
                   weights,
                   grads,
                   masks,
                   {{"exp_avgs", moments.exp_avgs},
                    {"exp_avg_sqs", moments.exp_avg_sqs},
                    {"max_exp_avg_sqs", moments.max_exp_avg_sqs}},
                   &steps,
                   false}
      .rows();
}

}  // namespace sparsetrain
