// depthwise: a convolution of each channel with a kernel of its own, and a ReLU.
//
//   in   x [N, C, H, W], weight [O, 1, rows, columns] contiguous, of O a multiple of C, bias [O]
//        where there is one, fp32; numbers along N and W contiguous, as planes.h has columns
//   out  y [N, O, H', W'], the same
//   attributes: whether there are a bias and a ReLU, rows, columns; stride, padding and dilation,
//   each along H and W; what the ReLU is at most, a real number
//
// Channel by channel, row by row of y, so that a line of x stays in L1 until its last tap. What a
// tap reads outside of x is left out, so x needs no halo, and y may have any number of rows. Where
// the batch fills registers, x is read where it is; else lines of x pass through scratch, in which
// zeros stand beside them and columns that a tap reads one after the other lie so, whatever the
// stride. The order of additions is that of the taps.
#include "depthwise.h"

#include <algorithm>
#include <limits>

#include "loops.h"
#include "operations.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kMostTaps = 64;  // along an axis
constexpr int64_t kBehind = 16;    // numbers that a last register may read too many

struct Depthwise {
  static constexpr int64_t kCount = 11;
  bool biased, relu;
  int64_t rows, columns;
  int64_t stride[2], padding[2], dilation[2];
  float most;
  Operand x, y;
  const float *weight, *bias;
  int width = SPARSETRAIN_BEST(kWidth);  // numbers of a register
  void (*run)(const DepthwiseTaps&, const DepthwiseEnd&,
              DepthwiseRun) = SPARSETRAIN_BEST(depthwise_run);

  explicit Depthwise(const Call& call) {
    const Attributes& a = call.attributes;
    require(a.count == kCount, "depthwise: 11 attributes are needed");
    for (int i : {0, 1})
      require(a.whole(i) == 0 || a.whole(i) == 1, "depthwise: a flag must be 0 or 1");
    biased = a.whole(0), relu = a.whole(1), rows = a.whole(2), columns = a.whole(3);
    for (int i : {0, 1})
      stride[i] = a.whole(4 + i), padding[i] = a.whole(6 + i), dilation[i] = a.whole(8 + i);
    most = float(a.real(10));
    require(call.inputs == 2 + biased && call.outputs == 1,
            "depthwise: the number of operands does not fit the attributes");
    x = call.in[0], y = call.out[0];
    weight = call.in[1].floats(), bias = biased ? call.in[2].floats() : nullptr;
  }

  int64_t lanes() const { return x.shape[0]; }
  bool direct() const { return lanes() % width == 0; }
  int64_t channels() const { return y.shape[1]; }
  int64_t step(int64_t column) const { return column * dilation[1] / stride[1]; }
  int64_t phase(int64_t column) const { return column * dilation[1] % stride[1]; }

  // Of lines in scratch: columns of a phase, numbers of a line, and lines that taps reach over.
  int64_t beside() const { return y.shape[3] + step(columns - 1); }
  int64_t line() const { return stride[1] * beside() * lanes(); }
  int64_t held() const { return (rows - 1) * dilation[0] + 1; }
  int64_t numbers() const { return direct() ? 0 : held() * line() + kBehind; }
};

// Lines of one channel of x, and where y has its own.
struct Channel {
  const float* x;
  float* y;
  const float* weight;
  DepthwiseEnd end;
};

Channel channel_of(const Depthwise& d, int64_t channel) {
  const int64_t from = channel / (d.channels() / d.x.shape[1]);
  return {d.x.floats() + from * d.x.stride[1],
          d.y.floats() + channel * d.y.stride[1],
          d.weight + channel * d.rows * d.columns,
          {d.biased ? d.bias[channel] : 0, d.relu, d.most}};
}

int64_t up_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of the kernel, or columns, that read x where it is: of output `at`.
struct Span {
  int64_t first, last;

  Span(int64_t at, int64_t step, int64_t padding, int64_t dilation, int64_t taps, int64_t size) {
    const int64_t from = at * step - padding;
    if (from >= 0 && from + dilation * (taps - 1) < size) {
      first = 0, last = taps;
      return;
    }
    first = std::min(taps, std::max<int64_t>(0, up_divide(-from, dilation)));
    last = std::max(first, std::min(taps, from < size ? up_divide(size - from, dilation) : 0));
  }
};

// Columns of y for which the same taps are there.
struct Columns {
  int64_t begin, end, left, right;
};

// All of a row: at most so many, since each tap comes and goes once.
struct AllColumns {
  Columns at[2 * kMostTaps + 1];
  int count = 0;

  explicit AllColumns(const Depthwise& d) {
    for (int64_t w = 0; w < d.y.shape[3]; w++) {
      const Span here(w, d.stride[1], d.padding[1], d.dilation[1], d.columns, d.x.shape[3]);
      const bool same =
          count && at[count - 1].left == here.first && at[count - 1].right == here.last;
      if (same)
        at[count - 1].end = w + 1;
      else
        at[count++] = {w, w + 1, here.first, here.last};
    }
  }
};

// A row of y from x itself.
void run_direct(const Depthwise& d, const AllColumns& all, DepthwiseTaps taps, const Channel& c,
                float* y) {
  const int64_t lanes = d.lanes(), step = d.stride[1] * lanes;
  for (int i = 0; i < all.count; i++) {
    const Columns& some = all.at[i];
    taps.left = some.left, taps.right = some.right;
    for (int64_t l = 0; l < lanes; l += d.width)
      d.run(taps, c.end,
            {some.begin * step - d.padding[1] * lanes + l, y + some.begin * lanes + l, step, lanes,
             some.end - some.begin, d.width});
  }
}

// A line of x with zeros beside it, phase by phase; the zeros are there.
void hold_line(const Depthwise& d, const float* x, float* held) {
  const int64_t lanes = d.lanes(), stride = d.stride[1], beside = d.beside();
  for (int64_t phase = 0; phase < stride; phase++) {
    const int64_t from = phase - d.padding[1];
    const int64_t first = std::max<int64_t>(0, up_divide(-from, stride));
    const int64_t last =
        std::min(beside, from < d.x.shape[3] ? up_divide(d.x.shape[3] - from, stride) : 0);
    float* to = held + (phase * beside + first) * lanes;
    const float* at = x + (first * stride + from) * lanes;
    if (stride == 1) {
      if (first < last) std::copy_n(at, (last - first) * lanes, to);
      continue;
    }
    for (int64_t i = first; i < last; i++, to += lanes, at += stride * lanes)
      for (int64_t l = 0; l < lanes; l++) to[l] = at[l];
  }
}

// Rows of y of one channel, one after the other; lines of x are held from `next` on.
struct Lines {
  const Depthwise& d;
  float* held;
  int64_t next = 0;

  // The lines of x that row `row` needs, by the rows of the kernel.
  void take(const Channel& c, int64_t row, const Span& rows, const float** x) {
    const int64_t from = row * d.stride[0] - d.padding[0];
    for (int64_t r = rows.first; r < rows.last; r++) {
      const int64_t at = from + r * d.dilation[0];
      x[r] = c.x + at * d.x.stride[2];
      if (!held) continue;
      float* line = held + at % d.held() * d.line();
      if (d.dilation[0] > 1 || at >= next) hold_line(d, x[r], line), next = at + 1;
      x[r] = line;
    }
  }
};

void run_channel(const Depthwise& d, int64_t channel, const AllColumns& all, const int64_t* tap,
                 float* held) {
  const Channel c = channel_of(d, channel);
  const float* x[kMostTaps];
  Lines lines{d, held};
  const int64_t run = d.y.shape[3] * d.lanes(), count = up_divide(run, d.width);
  const int tail = int(run - (count - 1) * d.width);
  for (int64_t row = 0; row < d.y.shape[2]; row++) {
    const Span rows(row, d.stride[0], d.padding[0], d.dilation[0], d.rows, d.x.shape[2]);
    lines.take(c, row, rows, x);
    float* y = c.y + row * d.y.stride[2];
    const DepthwiseTaps taps{x, tap, c.weight, d.columns, rows.first, rows.last, 0, d.columns};
    if (held)
      d.run(taps, c.end, {0, y, d.width, d.width, count, tail});
    else
      run_direct(d, all, taps, c, y);
  }
}

void check_kernel(const Depthwise& d) {
  for (int64_t taps : {d.rows, d.columns})
    require(taps >= 1 && taps <= kMostTaps, "depthwise: a kernel has 1 to 64 rows and columns");
  for (int i : {0, 1}) {
    for (int64_t n : {d.stride[i], d.dilation[i]})
      require(n >= 1 && n < kMostHalo, "depthwise: a size of the kernel is out of range");
    require(d.padding[i] >= 0 && d.padding[i] < kMostHalo,
            "depthwise: the padding is out of range");
  }
  require(d.dilation[0] * (d.rows - 1) < kMostHalo, "depthwise: the kernel is too high");
  const int64_t room = d.x.shape[3] + 2 * d.padding[1] - d.dilation[1] * (d.columns - 1) - 1;
  require(room >= 0 && d.y.shape[3] == room / d.stride[1] + 1,
          "depthwise: y has not the columns that the kernel makes of x");
}

void check(const Call& call) {
  const Depthwise d(call);
  for (const Operand& a : {d.x, d.y}) {
    require(a.rank == 4 && a.dtype == DType::kFloat, "depthwise: x and y must be fp32 of 4 axes");
    require(a.count() > 0, "depthwise: x and y must not be empty");
    require(a.run_of_lines(0, 3), "depthwise: numbers along N and W must be contiguous");
  }
  require(d.x.shape[0] == d.y.shape[0], "depthwise: x and y are of other batches");
  require(d.channels() % d.x.shape[1] == 0, "depthwise: y's channels are no multiple of x's");
  check_kernel(d);
  const auto whole = [](const Operand& a, int64_t count) {
    return a.contiguous() && a.dtype == DType::kFloat && a.count() == count;
  };
  require(whole(call.in[1], d.channels() * d.rows * d.columns),
          "depthwise: the weight must be fp32 [O, 1, rows, columns], contiguous");
  require(!d.biased || whole(call.in[2], d.channels()), "depthwise: the bias must be fp32 [O]");
  require(d.relu || d.most == std::numeric_limits<float>::infinity(),
          "depthwise: only a ReLU has an upper end");
}

int64_t scratch(const Call& call, int threads) { return threads * Depthwise(call).numbers(); }

void run(const Call& call, Threads& threads) {
  const Depthwise d(call);
  const AllColumns all(d);
  int64_t tap[kMostTaps];
  for (int64_t c = 0; c < d.columns; c++)
    tap[c] = d.direct() ? c * d.dilation[1] * d.lanes()
                        : (d.phase(c) * d.beside() + d.step(c)) * d.lanes();
  shares(threads, d.channels(), d.y.count(), [&](int64_t share, int64_t begin, int64_t end) {
    float* held = d.direct() ? nullptr : call.scratch + share * d.numbers();
    if (held) std::fill_n(held, d.numbers(), 0.0f);
    for (int64_t channel = begin; channel < end; channel++) run_channel(d, channel, all, tap, held);
  });
}

}  // namespace

const Operation kDepthwise{"depthwise", check, run, scratch};

}  // namespace sparsetrain::engine
