// The headers of the ops other than topk_mask against plain loops, without PyTorch: what
// `make sanitize` builds and runs.
#include <cmath>
#include <functional>

#include "../../csrc/channel_scores.h"
#include "../../csrc/gather_channels.h"
#include "../../csrc/masked_adamw.h"
#include "../../csrc/masked_sgd.h"
#include "../../csrc/nm_mask.h"
#include "../../csrc/nm_mask_transposable.h"
#include "../../csrc/relu_density.h"
#include "exact.h"

namespace sparsetrain {
namespace {

void require(bool right, const char* op, int64_t size) {
  if (right) return;
  std::printf("%s: wrong at size %ld\n", op, long(size));
  std::exit(1);
}

Exact<bool> flags(int64_t n) {
  Exact<bool> x(n);
  for (int64_t i = 0; i < n; i++) x[i] = generator() % 2;
  return x;
}

void test_relu_density(int64_t batch, int64_t channels, int64_t inner, bool rows) {
  const int64_t n = batch * channels * inner;
  Exact<float> x = numbers<float>(n), y(n);
  std::vector<int64_t> count(channels), wanted(channels);
  Exact<uint32_t> from(n), to(n);
  std::memcpy(from.data, x.data, n * sizeof(float));
  if (rows)
    relu_density_rows<uint32_t, 0x7f800000>(from.data, to.data, batch * inner, channels,
                                            count.data(), TwoThreads());
  else
    relu_density_planes<uint32_t, 0x7f800000>(from.data, to.data, batch, channels, inner,
                                              count.data(), TwoThreads());
  std::memcpy(y.data, to.data, n * sizeof(float));
  for (int64_t i = 0; i < n; i++) {
    require(y[i] == std::max(x[i], 0.0f), "relu_density", n);
    wanted[rows ? i % channels : i / inner % channels] += x[i] > 0;
  }
  require(count == wanted, "relu_density", n);
}

template <typename Item>
void test_gather_channels(int64_t rows, int64_t planes, int64_t items,
                          const std::vector<int64_t>& cols) {
  const int64_t kept = int64_t(cols.size());
  Exact<Item> x = numbers<Item>(rows * planes * items, 0), y(rows * planes * kept), z(x.n);
  for (int64_t i = 0; i < x.n; i++) x[i] = Item(i);
  std::vector<int64_t> back(rows);
  for (int64_t r = 0; r < rows; r++) back[r] = rows - 1 - r;
  const auto* from = reinterpret_cast<const char*>(x.data);
  auto *some = reinterpret_cast<char*>(y.data), *all = reinterpret_cast<char*>(z.data);
  const int64_t item = sizeof(Item);
  gather_all({{from, some, back.data(), cols.data(), rows, planes, items, kept, item},
              {from, all, nullptr, nullptr, rows, planes, items, items, item}},
             TwoThreads());
  for (int64_t i = 0; i < y.n; i++) {
    const int64_t plane = i / kept, source = back[plane / planes] * planes + plane % planes;
    require(y[i] == x[source * items + cols[i % kept]], "gather_channels", y.n);
  }
  require(std::equal(z.data, z.data + z.n, x.data), "gather_channels", z.n);
}

void test_nm_mask(int64_t groups, int m) {
  Exact<float> score = numbers<float>(groups * m);
  Exact<int32_t> bits(groups * m);
  std::memcpy(bits.data, score.data, groups * m * sizeof(float));
  for (int n = 1; n <= m; n++) {
    Exact<bool> keep(groups * m);
    nm_mask<int32_t, 0x7f800000>(bits.data, keep.data, groups, n, m);
    for (int64_t i = 0; i < keep.n; i++) {
      int beaten = 0;
      for (int64_t j = i / m * m; j < i / m * m + m; j++)
        beaten += score[j] > score[i] || (score[j] == score[i] && j < i);
      require(keep[i] == (beaten < n), "nm_mask", keep.n);
    }
  }
}

template <typename T, typename Index>
void test_nm_mask_transposable(int64_t tiles) {
  Exact<T> score = numbers<T>(16 * tiles);
  Exact<bool> keep(16 * tiles);
  const int64_t width = 4 * tiles;
  simd<nm_mask_tiles<T, Index>>(static_cast<const T*>(score.data), keep.data, tiles, width);
  for (int64_t i = 0; i < width; i++) {  // each row of a tile, and each column
    int across = 0, down = 0;
    for (int j = 0; j < 4; j++) {
      across += keep[i / tiles * width + i % tiles * 4 + j];
      down += keep[j * width + i];
    }
    require(across == 2 && down == 2, "nm_mask_transposable", score.n);
  }
}

template <bool product, bool square>
void test_channel_scores(int64_t rows, int64_t inputs, int64_t taps, bool last) {
  const int64_t width = inputs * taps;
  Exact<float> w = numbers<float>(rows * width), g = numbers<float>(rows * width);
  Exact<float> outputs(rows), sums(inputs);
  std::vector<double> by_row(rows), by_input(inputs);
  for (int64_t i = 0; i < w.n; i++) {
    const double x = product ? double(w[i]) * g[i] : w[i], term = square ? x * x : std::abs(x);
    by_row[i / width] += term;
    by_input[last ? i % inputs : i / taps % inputs] += term;
  }
  const auto from = [&](const Exact<float>& x) {
    return [at = x.data, width](int64_t row, float*) -> const float* { return at + row * width; };
  };
  std::function<const float*(int64_t, float*)> read_w = from(w), read_g = from(g);
  channel_scores<product, square>({rows, inputs, taps, last}, read_w, read_g, outputs.data,
                                  sums.data, TwoThreads());
  const auto near = [](double a, double b) { return std::abs(a - b) <= 1e-5 * (1 + b); };
  for (int64_t r = 0; r < rows; r++) require(near(outputs[r], by_row[r]), "channel_scores", w.n);
  for (int64_t i = 0; i < inputs; i++) require(near(sums[i], by_input[i]), "channel_scores", w.n);
}

double value(BFloat16, uint16_t x) { return BFloat16::widen(x); }
double value(Half, uint16_t x) { return Half::widen(x); }
template <typename T>
double value(Native<T>, T x) {
  return x;
}
template <typename T>
T stored(Native<T>, double x) {
  return T(x);
}
uint16_t stored(BFloat16, double x) { return BFloat16::narrow(float(x)); }
uint16_t stored(Half, double x) { return Half::narrow(float(x)); }

// Rows of all sizes, and what they held before the step.
template <typename Format>
struct Rows {
  using T = typename Format::Stored;
  std::vector<Exact<T>> tensors;  // weight, gradient, three states: of each row in turn
  std::vector<Exact<bool>> masks;
  std::vector<float> steps;
  std::vector<Parameter> table;
  std::vector<std::vector<double>> before;

  Rows(const std::vector<int64_t>& sizes, int states, bool masked, StepDtype dtype)
      : steps(sizes.size(), 2) {
    for (int64_t n : sizes) {
      for (int j = 0; j < 5; j++) {
        Exact<float> x = numbers<float>(n, j < 2 ? -1 : 0);
        tensors.emplace_back(n);
        before.emplace_back();
        for (int64_t i = 0; i < n; i++) {
          tensors.back()[i] = stored(Format(), x[i]);
          before.back().push_back(value(Format(), tensors.back()[i]));
        }
      }
      masks.push_back(flags(n));
      Parameter p{tensors[tensors.size() - 5].data, tensors[tensors.size() - 4].data};
      for (int j = 0; j < states; j++) p.state[j] = tensors[tensors.size() - 3 + j].data;
      p.mask = masked ? reinterpret_cast<const uint8_t*>(masks.back().data) : nullptr;
      p.step = &steps[masks.size() - 1];
      p.numel = n;
      p.dtype = dtype;
      table.push_back(p);
    }
  }

  // Whether weights are as step(w, g, m, v) says, and where masked zero.
  template <typename Step>
  void check(const char* op, double tolerance, Step step) {
    for (size_t r = 0; r < table.size(); r++)
      for (int64_t i = 0; i < table[r].numel; i++) {
        const bool live = !table[r].mask || masks[r][i];
        const double* at[4];
        for (int j = 0; j < 4; j++) at[j] = &before[5 * r + j][i];
        const double wanted = live ? step(*at[0], *at[1], *at[2], *at[3]) : 0;
        const double got = value(Format(), tensors[5 * r][i]);
        require(std::abs(got - wanted) <= (live ? tolerance : 0), op, table[r].numel);
      }
  }
};

const std::vector<int64_t> kSizes = {0, 1, 7, 63, 65, 0, 1023, 1025, 20003};

template <typename Format>
void test_masked_steps(StepDtype dtype, double tolerance) {
  for (bool masked : {false, true})
    for (bool keep : {false, true})
      for (double scale : {1.0, 2.0}) {
        Rows<Format> sgd(kSizes, 1, masked, dtype);
        masked_sgd(sgd.table.data(), int64_t(kSizes.size()),
                   {0.1, 0.9, 0, 0.01, true, false, keep, scale}, TwoThreads());
        sgd.check("masked_sgd", tolerance, [&](double w, double g, double m, double) {
          const double d = g / scale + 0.01 * w;
          return w - 0.1 * (d + 0.9 * (0.9 * m + d));
        });
        Rows<Format> plain(kSizes, 0, masked, dtype);
        masked_sgd(plain.table.data(), int64_t(kSizes.size()),
                   {0.1, 0, 0, 0, false, true, keep, scale}, TwoThreads());
        plain.check("masked_sgd", tolerance,
                    [&](double w, double g, double, double) { return w + 0.1 * g / scale; });
        Rows<Format> adamw(kSizes, 2, masked, dtype);
        masked_adamw(adamw.table.data(), int64_t(kSizes.size()),
                     {0.01, 0.9, 0.99, 1e-3, 0.1, true, false, keep, scale}, TwoThreads());
        adamw.check("masked_adamw", tolerance, [&](double w, double g, double m, double v) {
          const double mean = 0.9 * m + 0.1 * g / scale;
          const double square = 0.99 * v + 0.01 * g / scale * g / scale;
          const double under = std::sqrt(square / (1 - std::pow(0.99, 3))) + 1e-3;
          return (1 - 0.01 * 0.1) * w - 0.01 / (1 - std::pow(0.9, 3)) * mean / under;
        });
        Rows<Format> amsgrad(kSizes, 3, masked, dtype);
        masked_adamw(amsgrad.table.data(), int64_t(kSizes.size()),
                     {0.01, 0.9, 0.99, 1e-3, 0.1, false, true, keep, scale}, TwoThreads());
      }
}

}  // namespace
}  // namespace sparsetrain

int main() {
  using namespace sparsetrain;
  for (int64_t n : {0, 1, 7, 63, 65}) {
    for (bool rows : {false, true})
      for (int64_t channels : {1, 3, 17}) test_relu_density(2, channels, n, rows);
    for (int64_t tiles : {n, n / 2}) {
      test_nm_mask_transposable<float, int32_t>(tiles);
      test_nm_mask_transposable<double, int64_t>(tiles);
    }
    for (int m : {1, 2, 3, 4, 8, 32}) test_nm_mask(n, m);
    for (bool last : {false, true})
      for (int64_t taps : {0, 1, 9}) {
        test_channel_scores<false, false>(n, 5, taps, last);
        test_channel_scores<true, true>(3, n, taps, last);
      }
    std::vector<int64_t> odd, tail;
    for (int64_t i = 1; i < n; i += 2) odd.push_back(i);
    for (int64_t i = n / 3; i < n; i++) tail.push_back(i);
    for (const auto& cols : {odd, tail}) {
      test_gather_channels<uint8_t>(3, 2, n, cols);
      test_gather_channels<uint16_t>(3, 2, n, cols);
      test_gather_channels<float>(3, 1, n, cols);
      test_gather_channels<double>(1, 3, n, cols);
    }
  }
  test_gather_channels<float>(5, 1, kGatherShare / 8 + 1, {0, 2, 3, kGatherShare / 8});
  test_relu_density(1, 2, kRun + 1, false);
  test_relu_density(1, 2, kRun + 1, true);
  test_masked_steps<Native<float>>(StepDtype::kFloat, 1e-5);
  test_masked_steps<Native<double>>(StepDtype::kDouble, 1e-12);
  test_masked_steps<BFloat16>(StepDtype::kBFloat16, 2e-2);
  test_masked_steps<Half>(StepDtype::kHalf, 2e-3);
  std::printf("other ops: ok\n");
}
