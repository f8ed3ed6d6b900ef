#include "product.h"

#include <algorithm>
#include <climits>
#include <limits>
#include <vector>

#include "../spmm.h"
#include "dense.h"
#include "program.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kCache = 32 * 1024;    // bytes of L1 for what a tile reads of x
constexpr int64_t kTile = 512 * 1024;    // bytes of L2 for what a tile of several products writes
constexpr int64_t kLarge = 2048 * 1024;  // bytes of y from which tiles pay

// What the attributes say, in their order.
struct Geometry {
  static constexpr int64_t kCount = 14;
  bool dense, biased, added, relu;
  int64_t v, rows, columns, stride, above, beside, row_step, column_step, groups;
  float most;

  explicit Geometry(const Attributes& a) {
    require(a.count == kCount, "product: 14 attributes are needed");
    for (int i : {0, 1, 2, 3})
      require(a.whole(i) == 0 || a.whole(i) == 1, "product: a flag must be 0 or 1");
    dense = a.whole(0), biased = a.whole(1), added = a.whole(2), relu = a.whole(3);
    v = a.whole(4), rows = a.whole(5), columns = a.whole(6);
    stride = a.whole(7), above = a.whole(8), beside = a.whole(9);
    row_step = a.whole(10), column_step = a.whole(11), groups = a.whole(12);
    most = float(a.real(13));
    require(v == 1 || v == 4 || v == 8 || v == 16, "product: v must be 1, 4, 8 or 16");
    for (int64_t n : {rows, columns, stride, row_step, column_step})
      require(n >= 1 && n < kMostHalo, "product: a size of the kernel is out of range");
    require(above >= 0 && above < kMostHalo && beside >= 0 && beside < kMostHalo,
            "product: the padding is out of range");
    require(groups >= 1, "product: groups must be at least 1");
    require(relu || most == std::numeric_limits<float>::infinity(),
            "product: only a ReLU has an upper end");
  }
};

int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// The matrix of the weight: dense, or group by group of v rows.
struct Matrix {
  int64_t outputs, columns, v, groups;
  const float* dense = nullptr;  // [outputs, columns]
  const int32_t* start = nullptr;
  const uint16_t* narrow = nullptr;
  const int32_t* wide = nullptr;
  const float* value = nullptr;

  int64_t column(int64_t e) const { return narrow ? narrow[e] : wide[e]; }
};

struct Product {
  explicit Product(const Call& call);

  Geometry geometry;
  Operand x, y;
  int64_t weights;  // operands of the weight
  Matrix matrix;
  SpmmShape shape;
  std::vector<int32_t> start, offset;
  std::vector<float> value;
  int64_t least = 0, most = 0;  // numbers of x that are read: from least on, before most

  // From the inputs of one group to those of the next.
  int64_t group_of_x() const { return x.shape[1] / geometry.groups * x.stride[1]; }
  const Operand& bias(const Call& call) const { return call.in[1 + weights]; }
  const Operand& residual(const Call& call) const { return call.in[1 + weights + geometry.biased]; }
  void pack();

 private:
  void check_operands(const Call& call) const;
  void read_matrix(const Call& call);
  void check_sparse(const Call& call) const;
  void set_shape();
  int64_t segments() const;
  void sort();
  int64_t offset_of(int64_t channel, int64_t column) const;
  int64_t channel_of(int64_t group, int64_t column) const;
  void check_reach();
};

bool same_strides(const Operand& a, const Operand& b) {
  for (int i = 0; i < a.rank; i++)
    if (a.shape[i] != b.shape[i] || (a.shape[i] > 1 && a.stride[i] != b.stride[i])) return false;
  return a.rank == b.rank;
}

Product::Product(const Call& call) : geometry(call.attributes) {
  weights = geometry.dense ? 1 : 3;
  require(call.inputs == 1 + weights + geometry.biased + geometry.added && call.outputs == 1,
          "product: the number of operands does not fit the attributes");
  x = call.in[0], y = call.out[0];
  check_operands(call);
  read_matrix(call);
  set_shape();
}

void Product::check_operands(const Call& call) const {
  require(x.rank == 5 && y.rank == 4, "product: x must have 5 axes and y 4");
  for (const Operand& a : {x, y})
    require(a.dtype == DType::kFloat, "product: x and y must be fp32");
  require(x.shape[0] == y.shape[0] && x.shape[0] >= 1, "product: x and y are of other batches");
  require(x.run_of_lines(0, 4) && y.run_of_lines(0, 3),
          "product: numbers along N and W must be contiguous");
  const int64_t outputs = y.shape[1];
  require(x.shape[2] >= 1 && outputs >= 1 && x.shape[1] >= 1 && y.shape[2] >= 1 && y.shape[3] >= 1,
          "product: x and y must not be empty");
  require(x.shape[1] % geometry.groups == 0 && outputs % geometry.groups == 0,
          "product: channels are no multiple of the groups");
  if (geometry.biased) {
    const Operand& b = bias(call);
    require(b.dtype == DType::kFloat && b.rank == 1 && b.shape[0] == outputs && b.stride[0] == 1,
            "product: the bias must be fp32 [O]");
  }
  if (geometry.added)
    require(residual(call).dtype == DType::kFloat && same_strides(residual(call), y),
            "product: the residual must lie as y does");
}

void Product::read_matrix(const Call& call) {
  const Geometry& g = geometry;
  const int64_t outputs = y.shape[1], columns = x.shape[1] / g.groups * g.rows * g.columns;
  matrix = {outputs, columns, g.v, (outputs + g.v - 1) / g.v};
  for (int i = 1; i <= weights; i++)
    require(call.in[i].contiguous() && call.in[i].data,
            "product: a weight must be a contiguous constant");
  if (!g.dense) return check_sparse(call);
  require(g.v == 1, "product: v of a dense weight must be 1");
  require(call.in[1].dtype == DType::kFloat && call.in[1].count() == outputs * columns,
          "product: the weight must be fp32 [O, C / groups, rows, columns]");
  matrix.dense = call.in[1].floats();
}

void Product::check_sparse(const Call& call) const {
  auto& m = const_cast<Matrix&>(matrix);
  require(geometry.groups == 1 || m.outputs / geometry.groups % m.v == 0,
          "product: v must divide the outputs of a group");
  const Operand &start = call.in[1], &column = call.in[2], &value = call.in[3];
  require(start.dtype == DType::kInt32 && start.count() == m.groups + 1,
          "product: start must be int32 [groups + 1]");
  require(column.dtype == DType::kUInt16 || column.dtype == DType::kInt32,
          "product: column must be uint16 or int32");
  require(value.dtype == DType::kFloat && value.count() == column.count() * m.v,
          "product: value must be fp32 [E, v]");
  m.start = static_cast<const int32_t*>(start.data);
  if (column.dtype == DType::kUInt16) m.narrow = static_cast<const uint16_t*>(column.data);
  if (column.dtype == DType::kInt32) m.wide = static_cast<const int32_t*>(column.data);
  m.value = value.floats();
  require(m.start[0] == 0 && m.start[m.groups] == column.count(),
          "product: start must go from 0 to the number of entries");
  for (int64_t g = 0; g < m.groups; g++)
    require(m.start[g] <= m.start[g + 1], "product: start must not fall");
  for (int64_t e = 0; e < column.count(); e++)
    require(m.column(e) >= 0 && m.column(e) < m.columns, "product: a column is out of range");
}

void Product::set_shape() {
  const Geometry& g = geometry;
  const int64_t lanes = x.shape[0];
  shape = {};
  shape.blocks = 1, shape.lines = y.shape[2], shape.run = y.shape[3] * lanes;
  shape.x_line = g.stride * x.stride[3], shape.y_line = y.stride[2], shape.y_channel = y.stride[1];
  shape.channels = y.shape[1], shape.groups = matrix.groups;
  const bool flat = g.stride == 1 && x.stride[3] == shape.run && y.stride[2] == shape.run;
  if (shape.lines > 1 && flat && g.rows == 1 && g.columns == 1)
    shape.run *= shape.lines, shape.lines = 1;
  if (!g.dense) shape.segments = segments();
}

// Parts of x's channels that are visited one after the other, so that what a tile reads of them
// stays in L1, as long as a part has enough entries for a tile to pay.
int64_t Product::segments() const {
  const Geometry& g = geometry;
  const int64_t channels = x.shape[1], lanes = x.shape[0];
  int64_t entries = 0;
  for (int64_t i = 0; i < matrix.groups; i++) entries += matrix.start[i + 1] - matrix.start[i];
  const int64_t tile = g.v == 1 ? 256 : 96, fewest = g.v == 1 ? 10 : 24;
  const int64_t rows = std::min(g.rows, g.row_step * (g.rows - 1) / g.stride + 1);
  const int64_t columns = g.column_step * (g.columns - 1) / x.shape[2];
  const int64_t line = 4 * (std::min(tile, shape.run) + lanes * columns);
  const int64_t window = channels / g.groups * x.shape[2] * rows * line;
  const int64_t wanted = (window + kCache - 1) / kCache;
  return std::max<int64_t>(1, std::min({wanted, entries / matrix.groups / fewest, channels}));
}

int64_t Product::channel_of(int64_t group, int64_t column) const {
  const int64_t inputs = x.shape[1] / geometry.groups;
  const int64_t first = group * geometry.v / (y.shape[1] / geometry.groups) * inputs;
  return first + column / (geometry.rows * geometry.columns);
}

int64_t Product::offset_of(int64_t channel, int64_t column) const {
  const Geometry& g = geometry;
  const int64_t row = column / g.columns % g.rows * g.row_step - g.above;
  const int64_t at = column % g.columns * g.column_step - g.beside;
  const int64_t step = floor_divide(at, x.shape[2]), phase = at - step * x.shape[2];
  return channel * x.stride[1] + phase * x.stride[2] + row * x.stride[3] + step * x.shape[0];
}

int32_t narrowed(int64_t offset) {
  require(offset == int32_t(offset), "product: x is too large");
  return int32_t(offset);
}

// Puts the weight into the order in which it is read.
void Product::pack() {
  if (!geometry.dense) return sort();
  const int64_t outputs = matrix.outputs / geometry.groups;
  value.resize(dense_packed_size(geometry.groups, outputs, matrix.columns));
  dense_pack(matrix.dense, geometry.groups, outputs, matrix.columns, value.data());
  for (int64_t column = 0; column < matrix.columns; column++)
    offset.push_back(narrowed(offset_of(channel_of(0, column), column)));
  check_reach();
}

void Product::sort() {
  const int64_t groups = matrix.groups, width = (x.shape[1] + shape.segments - 1) / shape.segments;
  std::vector<int64_t> next(shape.segments * groups + 1);
  const auto each = [&](const auto& visit) {
    for (int64_t g = 0; g < groups; g++)
      for (int64_t e = matrix.start[g]; e < matrix.start[g + 1]; e++) {
        const int64_t column = matrix.column(e);
        visit(g, e, column, channel_of(g, column) / width * groups + g);
      }
  };
  each([&](int64_t, int64_t, int64_t, int64_t key) { next[key + 1]++; });
  for (size_t k = 1; k < next.size(); k++) next[k] += next[k - 1];
  require(next.back() < INT_MAX, "product: there are 2^31 entries or more");
  start.assign(next.begin(), next.end());
  offset.resize(next.back()), value.resize(next.back() * matrix.v);
  each([&](int64_t g, int64_t e, int64_t column, int64_t key) {
    const int64_t to = next[key]++;
    offset[to] = narrowed(offset_of(channel_of(g, column), column));
    std::copy_n(matrix.value + e * matrix.v, matrix.v, value.begin() + to * matrix.v);
  });
  check_reach();
}

// No tile may read outside x's memory, halo and all.
void Product::check_reach() {
  if (offset.empty()) return;
  const auto [first, last] = std::minmax_element(offset.begin(), offset.end());
  const int64_t others = geometry.dense ? (geometry.groups - 1) * group_of_x() : 0;
  least = *first, most = *last + others + (shape.lines - 1) * shape.x_line + shape.run;
  require(x.before >= -least && most <= x.behind,
          "product: the kernel reaches outside the memory of x");
}

void check(const Call& call) { Product product(call); }

std::shared_ptr<const void> prepare(const Call& call) {
  auto product = std::make_shared<Product>(call);
  product->pack();
  return product;
}

const Product& product_of(const Call& call) { return *static_cast<const Product*>(call.prepared); }

SpmmJob<float> job_of(const Call& call) {
  const Product& p = product_of(call);
  const float* bias = p.geometry.biased ? p.bias(call).floats() : nullptr;
  const float* residual = p.geometry.added ? p.residual(call).floats() : nullptr;
  return {p.shape,
          {p.start.data(), p.offset.data(), p.value.data()},
          {call.out[0].floats(), bias, residual, p.geometry.relu, p.geometry.most},
          call.in[0].floats()};
}

DenseJob dense_of(const Product& p, const SpmmJob<float>& job) {
  const SpmmShape& s = job.shape;
  const int64_t groups = p.geometry.groups;
  return {groups,
          p.matrix.outputs / groups,
          p.matrix.columns,
          s.lines,
          s.run,
          p.group_of_x(),
          s.x_line,
          s.y_channel,
          s.y_line,
          p.offset.data(),
          p.value.data(),
          job.x,
          job.output.y,
          job.output.bias,
          job.output.residual,
          job.output.relu,
          job.output.most};
}

void run(const Call& call, Threads& threads) {
  const Product& p = product_of(call);
  if (p.geometry.dense) return dense(dense_of(p, job_of(call)), &threads);
  spmm(job_of(call), int(p.geometry.v), threads.count(),
       [&](int64_t n, const auto& work) { threads.parallel(n, work); });
}

// Rows [begin, end) of y, by one thread.
void run_rows(const Call& call, int64_t begin, int64_t end) {
  const Product& p = product_of(call);
  SpmmJob<float> job = job_of(call);
  if (p.shape.lines == p.y.shape[2]) {
    job.shape.lines = end - begin;
    job.x += begin * p.shape.x_line;
  } else {  // all rows are one run
    job.shape.run = (end - begin) * p.y.stride[2];
    job.x += begin * p.x.stride[3];
  }
  job.output.y += begin * p.y.stride[2];
  if (job.output.residual) job.output.residual += begin * p.y.stride[2];
  if (p.geometry.dense) return dense(dense_of(p, job), nullptr);
  spmm(job, int(p.geometry.v), 1, [](int64_t n, const auto& work) { work(0, n); });
}

// Bytes that a row of y takes.
int64_t bytes_of_row(const Product& p) { return 4 * p.y.shape[1] * p.y.shape[3] * p.y.shape[0]; }

int64_t bytes_of_weight(const Product& p) { return 4 * int64_t(p.offset.size() + p.value.size()); }

}  // namespace

bool touches(const Step& later, const Step& earlier) {
  const Place& to = later.places.back();
  const auto& p = *static_cast<const Product*>(later.prepared.get());
  const auto& q = *static_cast<const Product*>(earlier.prepared.get());
  const int64_t end = to.byte + 4 * extent(p.y);
  for (size_t i = 0; i < earlier.places.size(); i++) {
    const Place& from = earlier.places[i];
    const int64_t begin = from.byte + (i ? 0 : 4 * q.least);
    const int64_t stop = from.byte + 4 * (i ? extent(earlier.operands[i]) : q.most);
    if (from.region == to.region && from.index == to.index && begin < end && to.byte < stop)
      return true;
  }
  return false;
}

bool follows_in_tiles(const Step& step, const Step& next) {
  if (step.operation != &kProduct || next.operation != &kProduct) return false;
  const auto& a = *static_cast<const Product*>(step.prepared.get());
  const auto& b = *static_cast<const Product*>(next.prepared.get());
  const Place &from = step.places.back(), &to = next.places[0];
  const bool same = from.region == to.region && from.index == to.index && from.byte == to.byte;
  const Geometry& g = b.geometry;
  const bool pixels = g.rows == 1 && g.columns == 1 && g.stride == 1 && g.above == 0 &&
                      g.beside == 0 && b.x.shape[2] == 1 && b.y.shape[2] == a.y.shape[2];
  const bool alike = b.x.stride[1] == a.y.stride[1] && b.x.stride[3] == a.y.stride[2] &&
                     b.x.shape[4] == a.y.shape[3] && b.x.shape[1] == a.y.shape[1];
  const bool large = bytes_of_row(a) * a.y.shape[2] >= kLarge;
  const bool sparse = !a.geometry.dense && !g.dense;  // dense weights would be read for each tile
  const bool light = bytes_of_weight(a) + bytes_of_weight(b) <= kTile;
  return same && sparse && pixels && alike && large && light;
}

void run_in_tiles(const Call* calls, int count, Threads& threads) {
  const int64_t rows = calls[0].out[0].shape[2];
  int64_t bytes = 1;
  for (int i = 0; i < count; i++) bytes += bytes_of_row(product_of(calls[i]));
  const int64_t most = std::max<int64_t>(1, rows / (2 * threads.count()));
  const int64_t tile = std::clamp<int64_t>(kTile / bytes, 1, most);
  threads.parallel((rows + tile - 1) / tile, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int i = 0; i < count; i++) run_rows(calls[i], t * tile, std::min(rows, (t + 1) * tile));
  });
}

const Operation kProduct{"product", check, run, nullptr, prepare};

}  // namespace sparsetrain::engine
