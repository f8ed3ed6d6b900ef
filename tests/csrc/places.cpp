// Which places of the engine a call passes, for a fuzzer: a counter for each, as libFuzzer reads
// them. GCC calls the function below from every block (-fsanitize-coverage=trace-pc).
#include <cstdint>

namespace {

constexpr uintptr_t kCounters = 1 << 16;
uint8_t counters[kCounters];
uintptr_t places[2 * kCounters];  // an address and a flag of each, which libFuzzer asks for

}  // namespace

extern "C" __attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc() {
  const auto at = uintptr_t(__builtin_return_address(0)) - uintptr_t(&counters);
  counters[(at ^ at >> 16) % kCounters]++;
}

extern "C" __attribute__((visibility("default"), no_sanitize_coverage)) void sparsetrain_places(
    void (*take_counters)(uint8_t*, uint8_t*), void (*take_places)(uintptr_t*, uintptr_t*)) {
  take_counters(counters, counters + kCounters);
  take_places(places, places + 2 * kCounters);
}
