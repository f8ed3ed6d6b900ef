// The operations of the engine on operands of random sizes, strides and gaps, each in memory of
// exactly its size: what `make sanitize` builds and runs. Their numbers are tested in
// tests/engine; here it is where they read and write.
#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "../../csrc/engine/operations.h"
#include "exact.h"

namespace sparsetrain::engine {
namespace {

using Shape = std::vector<int64_t>;

int64_t word(double x) {
  int64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// An operand and its memory, filled with small numbers; whole numbers are below `most`.
struct Tensor {
  Operand operand;
  std::vector<std::unique_ptr<Exact<float>>> floats;
  std::vector<std::unique_ptr<Exact<int64_t>>> wholes;
  std::vector<std::unique_ptr<Exact<uint8_t>>> flags;

  Tensor(const Shape& shape, bool read, DType dtype = DType::kFloat, int64_t most = 1) {
    operand.dtype = dtype, operand.rank = int(shape.size());
    std::copy(shape.begin(), shape.end(), operand.shape);
    const int64_t numbers = set_strides(read);
    if (dtype == DType::kFloat) hold(floats, numbers);
    if (dtype == DType::kInt64) hold(wholes, numbers);
    if (dtype == DType::kBool) hold(flags, numbers);
    for (int64_t i = 0; i < numbers && dtype == DType::kFloat; i++)
      operand.floats()[i] = float(below(2001) - 1000) / 500;
    for (int64_t i = 0; i < numbers && dtype == DType::kInt64; i++)
      operand.wholes()[i] = below(most);
    for (int64_t i = 0; i < numbers && dtype == DType::kBool; i++) operand.flags()[i] = below(2);
  }

 private:
  template <typename T>
  void hold(std::vector<std::unique_ptr<Exact<T>>>& held, int64_t numbers) {
    held.push_back(std::make_unique<Exact<T>>(numbers));
    operand.data = held.back()->data;
  }

  // In a random order, perhaps with gaps or repeated; as many numbers as they reach over.
  int64_t set_strides(bool read) {
    std::vector<int> order(operand.rank);
    for (int a = 0; a < operand.rank; a++) order[a] = a;
    if (below(2)) std::shuffle(order.begin(), order.end(), generator);
    int64_t step = 1, last = 0;
    for (int i = operand.rank - 1; i >= 0; i--) {
      const int a = order[i];
      operand.stride[a] = read && below(8) == 0 ? 0 : step;
      if (operand.stride[a]) step *= std::max<int64_t>(1, operand.shape[a]) + (below(4) == 0);
      last += std::max<int64_t>(0, operand.shape[a] - 1) * operand.stride[a];
    }
    operand.before = 0, operand.behind = operand.count() ? last + 1 : 0;
    return operand.behind;
  }
};

struct Case {
  std::vector<Tensor> in;
  std::vector<Tensor> out;
  std::vector<int64_t> attributes;
};

Shape sizes(int rank, int64_t most = 9) {
  Shape shape(rank);
  for (int64_t& n : shape) n = below(12) == 0 ? 0 : 1 + below(below(4) ? most : 4 * most);
  return shape;
}
Shape images() {
  Shape shape = sizes(4);
  shape[2] = 1 + below(9), shape[3] = 1 + below(40);
  return shape;
}

Tensor read(const Shape& shape, DType dtype = DType::kFloat, int64_t most = 1) {
  return Tensor(shape, true, dtype, most);
}
Tensor made(const Shape& shape, DType dtype = DType::kFloat) { return Tensor(shape, false, dtype); }

template <typename... T>
std::vector<Tensor> all(T&&... tensors) {
  std::vector<Tensor> list;
  (list.push_back(std::move(tensors)), ...);
  return list;
}

DType any_dtype() { return DType(below(3)); }

Case moved() {
  const Shape shape = sizes(int(below(6)));
  const DType dtype = any_dtype();
  return {all(read(shape, dtype)), all(made(shape, dtype)), {}};
}
Case filled() { return {{}, all(made(sizes(int(below(5))), any_dtype())), {word(1)}}; }
Case mapped() {
  const Shape shape = sizes(int(below(5)));
  return {all(read(shape)), all(made(shape)), {below(27), word(0.5), word(1)}};
}
Case paired() {
  const Shape shape = sizes(int(below(5)));
  const DType dtype = below(2) ? DType::kFloat : DType::kInt64;
  const int64_t kind = below(13);
  const int64_t whole = kind == 3 ? 0 : kind;  // int64 does not divide
  return {all(read(shape, dtype, 5), read(shape, dtype, 5)),
          all(made(shape, whole >= 7 ? DType::kBool : dtype)),
          {whole}};
}
Case chosen() {
  const Shape shape = sizes(int(below(5)));
  const DType dtype = any_dtype();
  return {all(read(shape, DType::kBool), read(shape, dtype), read(shape, dtype)),
          all(made(shape, dtype)),
          {}};
}
Case cast() {
  const Shape shape = sizes(int(below(5)));
  return {all(read(shape, any_dtype(), 9)), all(made(shape, any_dtype())), {}};
}
Case scaled() {
  const Shape shape = sizes(1 + int(below(4)));
  const int64_t axis = below(int64_t(shape.size()));
  return {all(read(shape), read({shape[axis]}), read({shape[axis]})), all(made(shape)), {axis}};
}
Case leaky() {
  const Shape shape = sizes(1 + int(below(4)));
  const int64_t axis = below(int64_t(shape.size()));
  return {all(read(shape), read({below(2) ? shape[axis] : 1})), all(made(shape)), {axis}};
}
Case pooled() {
  const Shape from = images();
  Shape to = from;
  std::array<int64_t, 8> numbers;  // kernel, stride, padding, dilation
  for (int i = 0; i < 2; i++) {
    const int64_t k = 1 + below(3), s = 1 + below(3), p = below(3), d = 1 + below(2);
    numbers[i] = k, numbers[2 + i] = s, numbers[4 + i] = p, numbers[6 + i] = d;
    to[2 + i] = 1 + below((from[2 + i] + p - 1) / s + 1);
  }
  std::vector<int64_t> attributes{below(2)};
  attributes.insert(attributes.end(), numbers.begin(), numbers.end());
  attributes.insert(attributes.end(), {below(2), below(3)});
  return {all(read(from)), all(made(to)), attributes};
}
// An image with numbers along N and W side by side, without gaps.
Tensor lines(const Shape& shape) {
  const std::array<int, 4> order = below(2) ? std::array{2, 1, 3, 0} : std::array{1, 2, 3, 0};
  Tensor image = made({shape[0] * shape[1] * shape[2] * shape[3]});
  image.operand.rank = 4;
  std::copy(shape.begin(), shape.end(), image.operand.shape);
  for (int64_t i = 3, step = 1; i >= 0; step *= shape[order[i--]])
    image.operand.stride[order[i]] = step;
  return image;
}
Case depthwise() {
  const Shape from{below(2) ? 8 : 1 + below(17), 1 + below(4), 1 + below(9), 1 + below(40)};
  Shape to{from[0], from[1] * (1 + below(2)), 0, 0};
  std::vector<int64_t> attributes{below(2), 1};
  std::array<int64_t, 8> numbers;  // kernel, stride, padding, dilation
  for (int i = 0; i < 2; i++) {
    const int64_t p = below(4), d = 1 + below(2), room = from[2 + i] + 2 * p - 1;
    const int64_t k = 1 + below(std::min<int64_t>(5, room / d + 1)), s = 1 + below(3);
    numbers[i] = k, numbers[2 + i] = s, numbers[4 + i] = p, numbers[6 + i] = d;
    to[2 + i] = (room - d * (k - 1)) / s + 1;
  }
  attributes.insert(attributes.end(), numbers.begin(), numbers.end());
  attributes.push_back(word(6));
  std::vector<Tensor> in = all(lines(from), made({to[1] * numbers[0] * numbers[1]}));
  if (attributes[0]) in.push_back(made({to[1]}));
  return {std::move(in), all(lines(to)), attributes};
}
Case adapted() {
  const Shape from = images();
  return {all(read(from)), all(made({from[0], from[1], 1 + below(9), 1 + below(9)})), {below(2)}};
}
Case resized() {
  const Shape from = images();
  const double scale = below(2) ? 0 : double(below(400)) / 100;
  return {all(read(from)),
          all(made({from[0], from[1], 1 + below(20), 1 + below(20)})),
          {below(3), below(2), word(scale), word(scale)}};
}
Case reduced() {
  const Shape from = sizes(1 + int(below(4)));
  Shape to = from;
  std::vector<int64_t> attributes{below(2)};
  for (size_t a = 0; a < from.size(); a++)
    if (below(2)) attributes.push_back(int64_t(a)), to[a] = 1;
  return {all(read(from)), all(made(to)), attributes};
}
Case softened() {
  const Shape shape = sizes(1 + int(below(4)));
  return {all(read(shape)), all(made(shape)), {below(int64_t(shape.size())), below(2)}};
}
Case summed() {
  const Shape shape = sizes(1 + int(below(4)));
  return {all(read(shape)), all(made(shape)), {below(int64_t(shape.size()))}};
}
Case normed() {
  const Shape shape = sizes(1 + int(below(4)));
  const int64_t axes = 1 + below(int64_t(shape.size()));
  const Shape last(shape.end() - axes, shape.end());
  return {all(read(shape), read(last), read(last)),
          all(made(shape)),
          {below(2), axes, 1, 1, word(1e-5)}};
}
Case grouped() {
  Shape shape = sizes(2 + int(below(3)));
  const int64_t groups = 1 + below(4);
  shape[1] *= groups;
  return {all(read(shape), read({shape[1]})), all(made(shape)), {groups, 1, 0, word(1e-5)}};
}
Case multiplied() {
  const Shape batch = sizes(int(below(3)), 3), s = sizes(3, 40);
  const auto matrix = [&](int64_t rows, int64_t columns) {
    Shape shape = batch;
    shape.insert(shape.end(), {rows, columns});
    return shape;
  };
  return {
      all(read(matrix(s[0], s[2])), read(matrix(s[2], s[1]))), all(made(matrix(s[0], s[1]))), {}};
}
Case attended() {
  const Shape s = sizes(6);
  const int64_t b = s[0], h = s[1], t = 4 * s[2], k = 4 * s[3], d = s[4], e = s[5];
  std::vector<Tensor> in = all(read({b, h, t, d}), read({b, h, k, d}), read({b, h, k, e}));
  if (below(2)) in.push_back(read({b, h, t, k}, below(2) ? DType::kFloat : DType::kBool));
  return {std::move(in), all(made({b, h, t, e})), {word(0.5), below(2)}};
}
Case padded() {
  const Shape from = sizes(int(below(4)));
  Shape to = from;
  std::vector<int64_t> attributes{0, word(1)};
  for (int64_t& n : to) {
    const int64_t before = below(7) - 3;
    attributes.push_back(before);
    n = below(9) == 0 ? 0 : std::max<int64_t>(0, n + before + below(7) - 3);
  }
  const DType dtype = any_dtype();
  return {all(read(from, dtype)), all(made(to, dtype)), attributes};
}
Case mirrored() {
  Shape from = sizes(int(below(4)));
  for (int64_t& n : from) n = 1 + below(9);
  Shape to = from;
  std::vector<int64_t> attributes{1 + below(3), word(0)};
  for (int64_t& n : to) {
    const int64_t most = n, before = below(most);
    attributes.push_back(before);
    n += before + below(most);
  }
  return {all(read(from)), all(made(to)), attributes};
}
Case taken() {
  Shape from = sizes(1 + int(below(3)));
  const int64_t axis = below(int64_t(from.size())), n = below(6);
  from[axis] = 1 + below(9);
  Shape to = from;
  to[axis] = n;
  const DType dtype = any_dtype();
  return {
      all(read(from, dtype), read({n}, DType::kInt64, from[axis])), all(made(to, dtype)), {axis}};
}
Case looked_up() {
  Shape shape = sizes(int(below(3)), 20);
  const int64_t rows = 1 + below(9), numbers = 1 + below(9);
  Tensor index = read(shape, DType::kInt64, rows);
  shape.push_back(numbers);
  return {all(std::move(index), read({rows, numbers})), all(made(shape)), {}};
}

void run_case(const Operation& operation, const Case& given, Threads& threads) {
  std::vector<Operand> in, out;
  for (const Tensor& t : given.in) in.push_back(t.operand);
  for (const Tensor& t : given.out) out.push_back(t.operand);
  Call call{in.data(),
            int(in.size()),
            out.data(),
            int(out.size()),
            {given.attributes.data(), int64_t(given.attributes.size())}};
  operation.check(call);
  const int64_t numbers = operation.scratch ? operation.scratch(call, threads.count()) : 0;
  const Exact<float> scratch(numbers);
  call.scratch = scratch.data;
  operation.run(call, threads);
}

// A program may say that what is read and what is written are partly the same numbers.
void copy_over_itself(Threads& threads) {
  constexpr int64_t kNumbers = 100;
  const Exact<float> memory(kNumbers + 1);
  for (int64_t i = 0; i <= kNumbers; i++) memory.data[i] = float(i);
  Operand in;
  in.dtype = DType::kFloat, in.rank = 1, in.shape[0] = kNumbers, in.stride[0] = 1;
  Operand out = in;
  in.data = memory.data, out.data = memory.data + 1;
  const Call call{&in, 1, &out, 1, {nullptr, 0}};
  kCopy.check(call);
  kCopy.run(call, threads);
}

struct Test {
  const Operation& operation;
  Case (*random)();
};

const Test kTests[] = {{kCopy, moved},           {kFill, filled},        {kMap, mapped},
                       {kBinary, paired},        {kWhere, chosen},       {kCast, cast},
                       {kScaleShift, scaled},    {kPrelu, leaky},        {kPool, pooled},
                       {kAdaptivePool, adapted}, {kResize, resized},     {kReduce, reduced},
                       {kSoftmax, softened},     {kCumsum, summed},      {kNorm, normed},
                       {kGroupNorm, grouped},    {kMatmul, multiplied},  {kAttention, attended},
                       {kPad, padded},           {kPad, mirrored},       {kTake, taken},
                       {kEmbedding, looked_up},  {kDepthwise, depthwise}};

}  // namespace
}  // namespace sparsetrain::engine

int main() {
  using namespace sparsetrain::engine;
  Threads threads(2);
  copy_over_itself(threads);
  for (const Test& test : kTests)
    for (int i = 0; i < 300; i++) {
      try {
        run_case(test.operation, test.random(), threads);
      } catch (const Refused& refused) {
        std::printf("%s, case %d: %s\n", test.operation.name, i, refused.what());
        return 1;
      }
    }
  std::printf("engine: %zu operations on random operands\n", std::size(kTests));
}
