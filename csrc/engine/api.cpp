// The engine as C functions, for any language that can call them; see
// runtime/sparsetrain_runtime/library.py.
//
// Functions that can fail return 0, or 1 and a line of text in `error`, which has kError bytes.
#include <cstdio>
#include <exception>
#include <new>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "../simd.h"
#include "operations.h"
#include "session.h"

#if defined(_WIN32)
#define SPARSETRAIN_API extern "C" __declspec(dllexport)
#else
#define SPARSETRAIN_API extern "C" __attribute__((visibility("default")))
#endif

using namespace sparsetrain::engine;

namespace {

constexpr int kError = 512, kMostThreads = 1024;

template <typename F>
int guarded(char* error, const F& f) {
  try {
    f();
    return 0;
  } catch (const std::bad_alloc&) {
    std::snprintf(error, kError, "there is not enough memory");
  } catch (const std::exception& e) {
    std::snprintf(error, kError, "%s", e.what());
  }
  return 1;
}

}  // namespace

SPARSETRAIN_API int64_t sparsetrain_operations() { return operation_count(); }

SPARSETRAIN_API const char* sparsetrain_operation(int64_t i) {
  return i >= 0 && i < operation_count() ? operation(i).name : nullptr;
}

// What sessions run on, those of one network together: csrc/engine/desks.h.
SPARSETRAIN_API int sparsetrain_open(int threads, void** desks, char* error) {
  return guarded(error, [&] {
    if (threads < 1 || threads > kMostThreads) throw Refused("threads must be 1 to 1024");
    *desks = new std::shared_ptr<Desks>(std::make_shared<Desks>(threads));
  });
}

// Its sessions run on.
SPARSETRAIN_API void sparsetrain_close(void* desks) {
  delete static_cast<std::shared_ptr<Desks>*>(desks);
}

SPARSETRAIN_API int sparsetrain_prepare(const int64_t* words, int64_t count,
                                        const void* const* constants, const int64_t* bytes,
                                        int64_t constant_count, const void* desks, void** session,
                                        char* error) {
  return guarded(error, [&] {
    std::vector<Constant> given;
    for (int64_t i = 0; i < constant_count; i++) given.push_back({constants[i], bytes[i]});
    const auto& shared = *static_cast<const std::shared_ptr<Desks>*>(desks);
    *session = new Session(read_program(words, count, given), shared);
#if defined(__GLIBC__)
    malloc_trim(0);  // what was needed to prepare it alone
#endif
  });
}

SPARSETRAIN_API int sparsetrain_run(void* session, const void* const* inputs, void* const* outputs,
                                    double* seconds, char* error) {
  return guarded(error, [&] { static_cast<Session*>(session)->run(inputs, outputs, seconds); });
}

SPARSETRAIN_API void sparsetrain_release(void* session) { delete static_cast<Session*>(session); }

// The instruction set in use: 0 default, 1 AVX2, 2 AVX-512.
SPARSETRAIN_API int sparsetrain_isa() {
#ifdef SPARSETRAIN_X86
  return int(sparsetrain::isa());
#else
  return 0;
#endif
}
