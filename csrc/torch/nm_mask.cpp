// nm_mask as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../nm_mask.h"

#include <torch/csrc/stable/library.h>

#include "checks.h"

namespace sparsetrain {
namespace {

constexpr int64_t kGrain = 1 << 15;  // scores that are worth a thread

template <typename Bits, Bits inf>
void run(const Tensor& score, const Tensor& keep, int64_t n, int64_t m) {
  const auto* from = static_cast<const Bits*>(score.const_data_ptr());
  bool* to = keep.mutable_data_ptr<bool>();
  torch::stable::parallel_for(0, score.numel() / m, kGrain / m, [&](int64_t begin, int64_t end) {
    nm_mask<Bits, inf>(from + begin * m, to + begin * m, end - begin, int(n), int(m));
  });
}

Tensor nm_mask_cpu(const Tensor& score, int64_t n, int64_t m) {
  STD_TORCH_CHECK(0 < n && n <= m && m <= kNmMost, "nm_mask: need 0 < n <= m <= ", kNmMost,
                  ", got n=", n, ", m=", m);
  Check("nm_mask", "score", score).axes(1).dtype(kFloating).contiguous();
  const int64_t last = score.size(score.dim() - 1);
  STD_TORCH_CHECK(last % m == 0, "nm_mask: score's last axis is ", last,
                  ", not a multiple of m=", m);
  Tensor keep = torch::stable::new_empty(score, score.sizes(), ScalarType::Bool);
  if (score.numel() == 0) return keep;
  switch (score.scalar_type()) {
    case ScalarType::Float:
      run<int32_t, 0x7f800000>(score, keep, n, m);
      break;
    case ScalarType::Double:
      run<int64_t, 0x7ff0000000000000>(score, keep, n, m);
      break;
    case ScalarType::BFloat16:
      run<int16_t, 0x7f80>(score, keep, n, m);
      break;
    default:  // fp16
      run<int16_t, 0x7c00>(score, keep, n, m);
  }
  return keep;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("nm_mask", TORCH_BOX(&nm_mask_cpu)); }

}  // namespace sparsetrain
