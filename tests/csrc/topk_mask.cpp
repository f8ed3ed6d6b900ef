// topk_mask's headers against a stable sort, without PyTorch: what `make sanitize` builds and runs.
// Inputs lie in exactly sized buffers at 4-byte alignment, so that a sanitizer sees every stray
// read or write.
#include "../../csrc/topk_mask.h"

#include <numeric>

#include "exact.h"

namespace sparsetrain {
namespace {

using Floats = std::unique_ptr<float[]>;

struct Problem {
  std::vector<int64_t> sizes;
  std::vector<Floats> w, g;
  std::vector<std::unique_ptr<bool[]>> within;
  std::vector<std::unique_ptr<uint8_t[]>> keep;
  std::vector<Segment> segments;
  int64_t total = 0, candidates = 0;
};

struct Kind {
  const char* name;
  int levels;  // distinct magnitudes; 0: continuous
  bool within;
  MaskKind mask;
};

Floats numbers(std::mt19937& random, int64_t n, int levels) {
  Floats x(new float[n + 1]);
  for (int64_t i = 0; i <= n; i++)
    x[i] = levels ? float(random() % levels) : float(random() % 100000 + 1) * 1e-3f;
  return x;
}

Problem make(std::mt19937& random, const Kind& kind, const std::vector<int64_t>& sizes) {
  Problem p;
  p.sizes = sizes;
  for (int64_t n : sizes) {
    const int64_t bytes = kind.mask == MaskKind::kBits ? (n + 7) / 8 : n;
    p.w.push_back(numbers(random, n, kind.levels));
    p.g.push_back(numbers(random, n, kind.levels));
    p.within.emplace_back(new bool[n]);
    p.keep.emplace_back(new uint8_t[bytes]);
    for (int64_t i = 0; i < n; i++) p.within.back()[i] = !kind.within || random() % 2;
    p.candidates += std::count(&p.within.back()[0], &p.within.back()[0] + n, true);
    p.segments.push_back({{&p.w.back()[1], &p.g.back()[1],
                           kind.within ? &p.within.back()[0] : nullptr, Dtype::kFloat},
                          &p.keep.back()[0],
                          kind.mask,
                          n});
    p.total += n;
  }
  return p;
}

// What must be kept, by a stable sort of all scores.
std::vector<bool> wanted(const Problem& p, int64_t k) {
  std::vector<float> score;
  for (size_t s = 0; s < p.sizes.size(); s++)
    for (int64_t i = 0; i < p.sizes[s]; i++)
      score.push_back(p.within[s][i] ? std::abs(p.w[s][i + 1] * p.g[s][i + 1]) : -1.0f);
  std::vector<int64_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return score[a] > score[b]; });
  std::vector<bool> keep(score.size());
  for (int64_t i = 0; i < k; i++) keep[order[i]] = true;
  return keep;
}

bool kept(const Problem& p, size_t s, int64_t i) {
  const uint8_t* keep = p.keep[s].get();
  return p.segments[s].kind == MaskKind::kBits ? keep[i / 8] >> (i & 7) & 1 : keep[i];
}

void check(const Problem& p, int64_t k, const char* name, const char* path) {
  const std::vector<bool> want = wanted(p, k);
  int64_t at = 0;
  for (size_t s = 0; s < p.sizes.size(); s++)
    for (int64_t i = 0; i < p.sizes[s]; i++, at++)
      if (kept(p, s, i) != want[at]) {
        std::printf("%s by %s: entry %ld of tensor %zu is wrong at k=%ld\n", name, path, long(i), s,
                    long(k));
        std::exit(1);
      }
}

void test(std::mt19937& random, const Kind& kind, const std::vector<int64_t>& sizes) {
  const Problem p = make(random, kind, sizes);
  std::vector<int64_t> nan(sizes.size());
  TopkMask select(p.segments.data(), int64_t(sizes.size()), {ScoreKind::kSnip, 1, 1, 1},
                  TwoThreads());
  Warm warm;
  for (int64_t k : {p.candidates / 10, p.candidates / 9, p.candidates / 2, int64_t(0), p.candidates,
                    std::min<int64_t>(1, p.candidates)}) {
    select.run(k, nan.data(), warm);
    check(p, k, kind.name, "bracket");
    select.run_radix(k, nan.data());
    check(p, k, kind.name, "radix");
  }
}

}  // namespace
}  // namespace sparsetrain

int main() {
  using namespace sparsetrain;
  std::mt19937 random(1);
  const Kind kinds[] = {
      {"continuous", 0, false, MaskKind::kBytes}, {"bits", 0, false, MaskKind::kBits},
      {"few levels", 5, false, MaskKind::kBytes}, {"few levels, bits", 40, false, MaskKind::kBits},
      {"within", 0, true, MaskKind::kBytes},      {"within, zeros", 2, true, MaskKind::kBits},
      {"all zero", 1, false, MaskKind::kBytes},
  };
  std::vector<int64_t> small(1500);  // than a cluster of the sample, or hardly larger
  for (int64_t& n : small) n = random() % 40;
  for (const Kind& kind : kinds) {
    test(random, kind, small);
    test(random, kind, {0, 1, 7, 63, 65, 0, 8193});
    test(random, kind, {100003});
    test(random, kind, {70001, 31, 150000, 9});
  }
  std::printf("topk_mask: ok\n");
}
