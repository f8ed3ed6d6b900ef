// The loops of gemm.h for one instruction set: see vec.h and each_isa.h.

// Rows of a tile, and registers of each.
constexpr int kGemmRows = kRegisters == 32 ? 12 : 6, kGemmRegs = 2;
constexpr int kPanel = kGemmRegs * kWidth;

// R rows of y, of `columns` numbers in P registers: the sum of a[i * R + r] b[i * b_step], i < k,
// added to what is there or not.
struct GemmTile {
  const float *a, *b;
  int64_t b_step, k;
  float* y;
  int64_t y_step;
  int columns;
  bool added;
};

// The sums of a tile that stay in registers: R rows of P.
template <int R, int P>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void add_products(const float* a, const float* b,
                                                                   int64_t b_step, int64_t k,
                                                                   Reg* sum) {
  for (int64_t i = 0; i < k; i++, a += R, b += b_step) {
    Reg in[P];
    SPARSETRAIN_UNROLL
    for (int p = 0; p < P; p++) in[p] = load(b + p * kWidth);
    SPARSETRAIN_UNROLL
    for (int r = 0; r < R; r++) {
      const Reg w = broadcast(a[r]);
      SPARSETRAIN_UNROLL
      for (int p = 0; p < P; p++) sum[r * P + p] = multiply_add(w, in[p], sum[r * P + p]);
    }
  }
}

template <int R, int P>
SPARSETRAIN_TARGET void gemm_tile(const GemmTile& t) {
  Reg sum[R * P];
  SPARSETRAIN_UNROLL
  for (int i = 0; i < R * P; i++) sum[i] = broadcast(0);
  add_products<R, P>(t.a, t.b, t.b_step, t.k, sum);
  SPARSETRAIN_UNROLL
  for (int i = 0; i < R * P; i++) {
    float* y = t.y + i / P * t.y_step + i % P * kWidth;
    const int left = t.columns - i % P * kWidth;
    if (left >= kWidth)
      store(y, t.added ? add(load(y), sum[i]) : sum[i]);
    else if (left > 0)
      store_first(y, t.added ? add(load_first(y, left), sum[i]) : sum[i], left);
  }
}

using RunTile = void (*)(const GemmTile&);

template <int P, int... R>
inline RunTile gemm_tile_of(int rows, std::integer_sequence<int, R...>) {
  constexpr RunTile kTiles[] = {gemm_tile<R + 1, P>...};
  return kTiles[rows - 1];
}

inline RunTile gemm_tile_of(int rows, int columns) {
  const std::make_integer_sequence<int, kGemmRows> all;
  return columns > kWidth ? gemm_tile_of<kGemmRegs>(rows, all) : gemm_tile_of<1>(rows, all);
}

// `rows` rows of a from `row` on, columns [from, from + k), column by column.
SPARSETRAIN_TARGET inline void pack_rows(const Gemm& g, int64_t row, int rows, int64_t from,
                                         int64_t k, float* to) {
  const float* a = g.a.data + row * g.a.row + from * g.a.column;
  if (g.a.row == 1) {
    for (int64_t i = 0; i < k; i++, to += rows, a += g.a.column)
      for (int r = 0; r < rows; r++) to[r] = a[r];
    return;
  }
  if (g.a.column == 1) return engine::transpose(a, g.a.row, to, rows, k, rows);
  for (int r = 0; r < rows; r++, a += g.a.row)
    for (int64_t i = 0; i < k; i++) to[i * rows + r] = a[i * g.a.column];
}

// A panel of b: columns [column, column + columns), zeros behind them.
SPARSETRAIN_TARGET inline void pack_panel(const Gemm& g, int64_t column, int columns, int64_t from,
                                          int64_t k, float* to) {
  const float* b = g.b.data + from * g.b.row + column * g.b.column;
  if (columns < kPanel) std::fill_n(to, k * kPanel, 0.0f);
  if (g.b.column == 1) {
    for (int64_t i = 0; i < k; i++) std::copy_n(b + i * g.b.row, columns, to + i * kPanel);
    return;
  }
  if (g.b.row == 1) return engine::transpose(b, g.b.column, to, kPanel, k, columns);
  for (int c = 0; c < columns; c++, b += g.b.column)
    for (int64_t i = 0; i < k; i++) to[i * kPanel + c] = b[i * g.b.row];
}

// Panels of a block of columns, packed or where they are.
struct GemmBlock {
  int64_t column, columns, from, k;
  float *panels, *rows;  // memory for what is packed
};

SPARSETRAIN_TARGET inline bool reads_b(const Gemm& g, int columns) {
  return g.b.column == 1 && g.m <= 2 * kGemmRows && columns == kPanel;
}

SPARSETRAIN_TARGET inline void write_tile(const Gemm& g, GemmTile tile, int rows, int64_t row,
                                          int64_t column) {
  float held[kGemmRows * kPanel];
  float* y = g.y + row * g.y_row + column * g.y_column;
  const bool beside = g.y_column == 1, added = tile.added;
  tile.y = beside ? y : held;
  tile.y_step = beside ? g.y_row : kPanel;
  tile.added = beside && added;
  gemm_tile_of(rows, tile.columns)(tile);
  for (int r = 0; r < rows && !beside; r++)
    for (int c = 0; c < tile.columns; c++) {
      float& to = y[r * g.y_row + c * g.y_column];
      to = held[r * kPanel + c] + (added ? to : 0);
    }
}

SPARSETRAIN_TARGET inline void gemm_block(const Gemm& g, const GemmBlock& at) {
  const auto width = [&](int64_t c) { return int(std::min<int64_t>(kPanel, at.columns - c)); };
  for (int64_t c = 0; c < at.columns; c += kPanel)
    if (!reads_b(g, width(c)))
      pack_panel(g, at.column + c, width(c), at.from, at.k, at.panels + c * at.k);
  for (int64_t row = 0; row < g.m; row += kGemmRows) {
    const int rows = int(std::min<int64_t>(kGemmRows, g.m - row));
    pack_rows(g, row, rows, at.from, at.k, at.rows);
    for (int64_t c = 0; c < at.columns; c += kPanel) {
      const int columns = width(c);
      const bool direct = reads_b(g, columns);
      const float* b = direct ? g.b.data + at.from * g.b.row + at.column + c : at.panels + c * at.k;
      write_tile(g, {at.rows, b, direct ? g.b.row : kPanel, at.k, nullptr, 0, columns, at.from > 0},
                 rows, row, at.column + c);
    }
  }
}

// Without columns of a, y is zero.
SPARSETRAIN_TARGET inline void gemm_on(const Gemm& g, float* scratch) {
  float* rows = scratch + kGemmDepth * kGemmColumns;
  for (int64_t from = 0; from == 0 || from < g.k; from += kGemmDepth)
    for (int64_t column = 0; column < g.n; column += kGemmColumns)
      gemm_block(g, {column, std::min(kGemmColumns, g.n - column), from,
                     std::min(kGemmDepth, g.k - from), scratch, rows});
}
