// blocked.h, blocked_batch_norm.h and blocked_pool.h against plain loops, without PyTorch: what
// `make sanitize` builds and runs.
#include "../../csrc/blocked.h"

#include <cmath>

#include "../../csrc/blocked_batch_norm.h"
#include "../../csrc/blocked_pool.h"
#include "exact.h"

namespace sparsetrain {
namespace {

void require(bool right, const char* op, const Blocking& s) {
  if (right) return;
  std::printf("%s: wrong at %ld x %ld channels of %ld x %ld, %ld lanes, halo %ld x %ld\n", op,
              long(s.blocks), long(s.channels), long(s.height), long(s.width), long(s.lanes),
              long(s.hh), long(s.hw));
  std::exit(1);
}

Blocking with_halo(Blocking s, int64_t hh, int64_t hw) {
  s.hh = hh, s.hw = hw;
  return s;
}

int64_t size_of(const Blocking& s) { return s.blocks * s.channels * s.plane().size(); }

// visit(image, channel, row, column), as in [N, C, H, W].
template <typename Visit>
void each(const Blocking& s, const Visit& visit) {
  for (int64_t n = 0; n < s.blocks * s.lanes; n++)
    for (int64_t c = 0; c < s.channels; c++)
      for (int64_t h = 0; h < s.height; h++)
        for (int64_t w = 0; w < s.width; w++) visit(n, c, h, w);
}

int64_t place(const Blocking& s, int64_t n, int64_t c, int64_t h, int64_t w) {
  const int64_t line = (n / s.lanes * s.channels + c) * (s.height + 2 * s.hh) + h + s.hh;
  return (line * (s.width + 2 * s.hw) + w + s.hw) * s.lanes + n % s.lanes;
}

// As s, with zeros around: what x, in the layout of `like`, must become.
template <typename T>
std::vector<T> laid_out(const Exact<T>& x, const Blocking& like, const Blocking& s) {
  std::vector<T> out(size_of(s));
  each(s, [&](int64_t n, int64_t c, int64_t h, int64_t w) {
    out[place(s, n, c, h, w)] = x[place(like, n, c, h, w)];
  });
  return out;
}

template <typename T>
bool same(const std::vector<T>& wanted, const Exact<T>& found) {
  return std::equal(wanted.begin(), wanted.end(), found.data);
}

template <typename T>
Exact<T> unset(int64_t n) {
  Exact<T> x(n);
  std::fill_n(x.data, n, T(77));
  return x;
}

// The plain orders are layouts, too: of one lane, and with channels for its lanes.
template <typename T>
void test_moves(const Blocking& s) {
  const Blocking plain{s.blocks * s.lanes, s.channels, s.height, s.width, 1, 0, 0};
  const int64_t n = size_of(plain);
  Exact<T> x(n), y = unset<T>(size_of(s)), last(n), back = unset<T>(n), halo = unset<T>(0);
  for (int64_t i = 0; i < n; i++) x[i] = T(i + 1);
  each(plain, [&](int64_t i, int64_t c, int64_t h, int64_t w) {
    last[((i * s.height + h) * s.width + w) * s.channels + c] = x[place(plain, i, c, h, w)];
  });
  const std::vector<T> wanted = laid_out(x, plain, s);
  move_planes<true>(x.data, y.data, s, TwoThreads());
  require(same(wanted, y), "move_planes to", s);
  move_planes<false>(back.data, y.data, s, TwoThreads());
  require(std::equal(x.data, x.data + n, back.data), "move_planes from", s);
  std::fill_n(y.data, y.n, T(77));
  move_rows<true>(last.data, y.data, s, TwoThreads());
  require(same(wanted, y), "move_rows to", s);
  move_rows<false>(back.data, y.data, s, TwoThreads());
  require(std::equal(last.data, last.data + n, back.data), "move_rows from", s);
  for (int64_t other : {0, 1, 3}) {
    const Blocking to = with_halo(s, other, 2 - other / 2);
    Exact<T> z = unset<T>(size_of(to));
    move_halo(y.data, s.plane(), z.data, to.plane(), s.blocks * s.channels, TwoThreads());
    require(same(laid_out(y, s, to), z), "move_halo", s);
  }
}

// A batch norm of numbers in one layout to another, forward and backward, in double.
template <typename T, bool relu>
struct NormTest {
  NormTest(const Blocking& s, const Blocking& to)
      : s(s),
        to(to),
        n(double(s.blocks) * s.lanes * s.height * s.width),
        x(numbers<T>(size_of(s))),
        dy(numbers<T>(size_of(to))),
        weight(numbers<T>(s.channels)),
        bias(numbers<T>(s.channels)),
        y(unset<T>(dy.n)),
        dx(unset<T>(x.n)) {}

  void forward(bool moments, Exact<T>& mean, Exact<T>& var) {
    batch_norm<T, relu>(x.data, s, norms(mean, var), mean.data, var.data, moments, y.data, to,
                        TwoThreads());
    std::vector<double> sum(s.channels), square(s.channels);
    each(s, [&](int64_t i, int64_t c, int64_t h, int64_t w) {
      const double at = x[place(s, i, c, h, w)];
      const double z = (at - mean[c]) * weight[c] / std::sqrt(var[c] + kEps) + bias[c];
      near(y[place(to, i, c, h, w)], relu ? std::max(z, 0.0) : z, "batch_norm");
      sum[c] += at, square[c] += at * at;
    });
    require(same(laid_out(y, to, to), y), "batch_norm's halo", to);
    for (int64_t c = 0; c < s.channels && moments; c++) {
      near(mean[c], sum[c] / n, "mean");
      near(var[c], square[c] / n - sum[c] / n * (sum[c] / n), "var");
    }
  }

  void backward(bool moments, Exact<T>& mean, Exact<T>& var) {
    Exact<T> dweight(s.channels), dbias(s.channels);
    batch_norm_backward<T, relu>(dy.data, to, x.data, s, norms(mean, var), moments, dx.data,
                                 dweight.data, dbias.data, TwoThreads());
    std::vector<double> total(s.channels), product(s.channels), size(s.channels);
    const auto through = [&](int64_t at) { return relu && y[at] <= 0 ? 0 : double(dy[at]); };
    each(s, [&](int64_t i, int64_t c, int64_t h, int64_t w) {
      const double g = through(place(to, i, c, h, w));
      total[c] += g, product[c] += g * (x[place(s, i, c, h, w)] - mean[c]);
      size[c] += std::abs(g);
    });
    each(s, [&](int64_t i, int64_t c, int64_t h, int64_t w) {
      const int64_t at = place(s, i, c, h, w);
      const double rate = 1 / std::sqrt(var[c] + kEps), centred = x[at] - mean[c];
      const double of_mean = moments ? total[c] / n : 0;
      const double of_var = moments ? product[c] * rate * rate / n : 0;
      const double g = through(place(to, i, c, h, w)) - of_mean - centred * of_var;
      near(dx[at], g * weight[c] * rate, "batch_norm_backward");
    });
    require(same(laid_out(dx, s, s), dx), "batch_norm_backward's halo", s);
    for (int64_t c = 0; c < s.channels; c++) {
      near(dweight[c], product[c] / std::sqrt(var[c] + kEps), "dweight", size[c]);
      near(dbias[c], total[c], "dbias", size[c]);
    }
  }

  Norms<T> norms(const Exact<T>& mean, const Exact<T>& var) const {
    return {weight.data, bias.data, mean.data, var.data, kEps};
  }

  void near(double found, double wanted, const char* op, double size = 1) const {
    require(std::abs(found - wanted) <= kMost * (size + 1 + std::abs(wanted)), op, s);
  }

  static constexpr double kEps = 0.1, kMost = sizeof(T) == 4 ? 1e-5 : 1e-13;
  Blocking s, to;
  double n;
  Exact<T> x, dy, weight, bias, y, dx;
};

template <typename T, bool relu>
void test_batch_norm(const Blocking& s, const Blocking& to) {
  for (bool moments : {true, false}) {
    NormTest<T, relu> test(s, to);
    Exact<T> mean = numbers<T>(s.channels), var = numbers<T>(s.channels, 0.5);
    test.forward(moments, mean, var);
    test.backward(moments, mean, var);
  }
}

// Of a kernel that the axis is padded for, and whose mean counts what is there.
std::vector<int64_t> windows(int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
  std::vector<int64_t> numbers;
  for (int64_t i = -padding; i + kernel <= size + padding; i += stride) {
    const int64_t begin = std::max<int64_t>(i, 0), end = std::min(i + kernel, size);
    numbers.insert(numbers.end(), {begin, end, end - begin});
  }
  return numbers;
}

template <typename T>
void test_pool(const Blocking& s, int64_t hh, int64_t hw, bool largest) {
  const std::vector<int64_t> rows = windows(s.height, 3, 2, 1), cols = windows(s.width, 2, 1, 0);
  const int64_t height = int64_t(rows.size()) / 3, width = int64_t(cols.size()) / 3;
  const Blocking to{s.blocks, s.channels, height, width, s.lanes, hh, hw};
  const Blocking places = with_halo(to, 0, 0);
  const Pooling p{s.plane(), to.plane(), {rows.data(), height}, {cols.data(), width}, s.lanes};
  const Exact<T> x = numbers<T>(size_of(s)), dy = numbers<T>(size_of(to));
  Exact<T> y = unset<T>(size_of(to)), dx = unset<T>(size_of(s));
  Exact<uint8_t> where(size_of(places));
  uint8_t* const saved = largest ? where.data : nullptr;
  pool(x.data, s.blocks * s.channels, p, y.data, saved, TwoThreads());
  pool_backward(dy.data, saved, s.blocks * s.channels, p, dx.data, TwoThreads());
  std::vector<double> wanted(dx.n);
  each(to, [&](int64_t n, int64_t c, int64_t h, int64_t w) {
    std::vector<int64_t> inputs;
    for (int64_t i = rows[3 * h]; i < rows[3 * h + 1]; i++)
      for (int64_t j = cols[3 * w]; j < cols[3 * w + 1]; j++)
        inputs.push_back(place(s, n, c, i, j));
    const int64_t at = place(to, n, c, h, w);
    size_t best = 0;
    double sum = 0;
    for (size_t k = 0; k < inputs.size(); k++) {
      best = x[inputs[k]] > x[inputs[best]] ? k : best;
      sum += x[inputs[k]];
      if (!largest) wanted[inputs[k]] += dy[at] / double(inputs.size());
    }
    if (largest) {
      require(y[at] == x[inputs[best]] && where[place(places, n, c, h, w)] == best, "max_pool", s);
      wanted[inputs[best]] += dy[at];
    } else {
      require(std::abs(y[at] - sum / double(inputs.size())) <= 1e-6, "avg_pool", s);
    }
  });
  require(same(laid_out(y, to, to), y), "pool's halo", to);
  for (int64_t i = 0; i < dx.n; i++)
    require(std::abs(dx[i] - wanted[i]) <= 1e-6 * (1 + std::abs(wanted[i])), "pool_backward", s);
}

}  // namespace
}  // namespace sparsetrain

int main() {
  using namespace sparsetrain;
  for (int64_t lanes : {1, 2, 3, 4, 8, 16, 32})
    for (int64_t channels : {1, 18})
      for (int64_t width : {2, 65})
        for (int64_t halo : {0, 1}) {
          const Blocking s{2, channels, 3, width, lanes, halo, 2 * halo};
          const Blocking to = with_halo(s, 2 - halo, 1 - halo);
          test_moves<uint32_t>(s);
          test_moves<uint64_t>(s);
          test_batch_norm<float, true>(s, to);
          test_batch_norm<double, false>(s, to);
          if (lanes == 3) continue;  // pooling takes powers of two
          for (bool largest : {false, true}) {
            test_pool<float>(s, to.hh, to.hw, largest);
            test_pool<double>(s, to.hh, to.hw, largest);
          }
        }
  test_moves<uint32_t>({1, 5, 40, 70, 16, 1, 1});  // beyond a burst
  test_batch_norm<float, true>({1, 2, 5, 300, 2, 1, 1}, {1, 2, 5, 300, 2, 0, 0});
  std::printf("blocked layout: ok\n");
}
