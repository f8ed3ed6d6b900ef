// What ops ask of a tensor before they touch its memory, whoever calls them: each O(1) in its size.
// An error says who, what was needed and what came.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <vector>

namespace sparsetrain {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

constexpr int64_t kAny = -1;  // of a shape: any size
constexpr int64_t kMostOfASide = int64_t(1) << 40;
constexpr std::initializer_list<ScalarType> kFloating = {ScalarType::Float, ScalarType::Double,
                                                         ScalarType::BFloat16, ScalarType::Half};

inline Sizes sizes_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }
inline Sizes strides_of(const Tensor& t) { return {t.strides().begin(), t.strides().end()}; }

struct Printed {
  const Sizes& numbers;
  bool pattern = false;  // where kAny stands for any size
  friend std::ostream& operator<<(std::ostream& out, const Printed& p) {
    out << '[';
    for (size_t i = 0; i < p.numbers.size(); i++) {
      if (i) out << ", ";
      if (p.pattern && p.numbers[i] == kAny)
        out << '*';
      else
        out << p.numbers[i];
    }
    return out << ']';
  }
};

// Whether neighbours in [N, C, ...] are those of channels_last; sides of 1 do not matter.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4 && t.dim() != 5) return false;
  const auto sizes = t.sizes(), strides = t.strides();
  int64_t next = 1;
  const auto fits = [&](int64_t axis) {
    const bool right = sizes[axis] == 1 || strides[axis] == next;
    next *= sizes[axis];
    return right;
  };
  if (!fits(1)) return false;
  for (int64_t axis = t.dim() - 1; axis > 1; axis--)
    if (!fits(axis)) return false;
  return fits(0);
}

// Whether tensors of one shape lie in memory in the same order; sides of 1 do not matter.
inline bool same_order(const Tensor& a, const Tensor& b) {
  const auto sizes = a.sizes(), mine = a.strides(), other = b.strides();
  for (size_t i = 0; i < sizes.size(); i++)
    if (sizes[i] != 1 && mine[i] != other[i]) return false;
  return true;
}

// Whether t covers its memory, once and without gaps, in any order of its axes.
inline bool is_gapless(const Tensor& t) {
  if (t.numel() == 0 || t.is_contiguous()) return true;
  const auto sizes = t.sizes(), strides = t.strides();
  std::vector<std::pair<int64_t, int64_t>> axes;  // stride, size
  for (size_t i = 0; i < sizes.size(); i++)
    if (sizes[i] != 1) axes.push_back({strides[i], sizes[i]});
  std::sort(axes.begin(), axes.end());
  int64_t next = 1;
  for (const auto& [stride, size] : axes) {
    if (stride != next) return false;
    next *= size;
  }
  return true;
}

// What an error calls a tensor: "op: name", or "op: name 3" of a list.
struct Named {
  const char *op, *name;
  int64_t place = -1;
  friend std::ostream& operator<<(std::ostream& out, const Named& n) {
    out << n.op << ": " << n.name;
    if (n.place >= 0) out << ' ' << n.place;
    return out;
  }
};

// Raises at the first question that t does not pass.
class Check {
 public:
  Check(Named named, const Tensor& t) : named_(named), t_(t) {
    STD_TORCH_CHECK(t.defined(), named_, " must be a tensor, got none");
  }
  Check(const char* op, const char* name, const Tensor& t) : Check(Named{op, name}, t) {}

  const Check& dtype(std::initializer_list<ScalarType> wanted) const {
    const ScalarType came = t_.scalar_type();
    if (std::find(wanted.begin(), wanted.end(), came) != wanted.end()) return *this;
    std::ostringstream list;
    for (const ScalarType& w : wanted)
      list << (&w == wanted.begin() ? "" : " or ") << torch::headeronly::toString(w);
    STD_TORCH_CHECK(false, named_, " must be ", list.str(), ", got ",
                    torch::headeronly::toString(came));
  }
  const Check& axes(int64_t least, int64_t most = 64) const {
    STD_TORCH_CHECK(t_.dim() >= least && t_.dim() <= most, named_, " needs ", least,
                    least == most ? " axes" : " axes or more", ", got shape ",
                    Printed{sizes_of(t_)});
    return *this;
  }
  const Check& shape(const Sizes& wanted) const {
    const auto came = t_.sizes();
    bool same = came.size() == wanted.size();
    for (size_t i = 0; same && i < wanted.size(); i++)
      same = wanted[i] == kAny || wanted[i] == came[i];
    STD_TORCH_CHECK(same, named_, " must be ", Printed{wanted, true}, ", got ",
                    Printed{sizes_of(t_)});
    return *this;
  }
  const Check& contiguous() const {
    STD_TORCH_CHECK(t_.is_contiguous(), named_, " must be contiguous, got strides ",
                    Printed{strides_of(t_)});
    return there();
  }
  const Check& contiguous_or_channels_last() const {
    STD_TORCH_CHECK(t_.is_contiguous() || is_channels_last(t_), named_,
                    " must be contiguous or channels_last, got strides ", Printed{strides_of(t_)});
    return there();
  }
  const Check& gapless() const {
    STD_TORCH_CHECK(is_gapless(t_), named_, " must lie in memory without gaps, got strides ",
                    Printed{strides_of(t_)});
    return there();
  }
  // On the device of another, of its shape and in its order in memory.
  const Check& like(const Tensor& other) const {
    on(other).shape(sizes_of(other));
    STD_TORCH_CHECK(t_.numel() == 0 || same_order(t_, other), named_,
                    " must lie in memory as what it belongs to: strides ",
                    Printed{strides_of(other)}, ", got ", Printed{strides_of(t_)});
    return there();
  }
  const Check& on(const Tensor& other) const {
    STD_TORCH_CHECK(t_.is_cpu() == other.is_cpu() && t_.is_cuda() == other.is_cuda() &&
                        t_.get_device_index() == other.get_device_index(),
                    named_, " must be on the device of the others, ", device(other), ", got ",
                    device(t_));
    return *this;
  }

 private:
  // Storages can be resized behind a tensor's back. Only for one without gaps.
  const Check& there() const {
    int64_t bytes = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(t_.get(), &bytes));
    const int64_t needed = (t_.storage_offset() + t_.numel()) * int64_t(t_.element_size());
    STD_TORCH_CHECK(t_.numel() == 0 || needed <= bytes, named_, " needs ", needed,
                    " bytes of memory, its storage has ", bytes);
    for (const int64_t size : t_.sizes())  // of none at all a side can be of any size
      STD_TORCH_CHECK(size < kMostOfASide, named_, " is too large: ", Printed{sizes_of(t_)});
    return *this;
  }
  static std::string device(const Tensor& t) {
    if (t.is_cpu()) return "cpu";
    return (t.is_cuda() ? "cuda:" : "device ") + std::to_string(t.get_device_index());
  }

  const Named named_;
  const Tensor& t_;
};

// A list that has one for each of another.
template <typename T>
void check_length(const Named& named, const std::vector<T>& list, size_t wanted) {
  STD_TORCH_CHECK(list.size() == wanted, named, " must be ", wanted, " in number, got ",
                  list.size());
}

}  // namespace sparsetrain
