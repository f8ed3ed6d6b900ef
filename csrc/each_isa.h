// Compiles the file SPARSETRAIN_LOOPS, see vec.h, into namespaces portable, avx2 and avx512. Meant
// to be included many times, from outside any namespace.
#ifdef SPARSETRAIN_X86

#define SPARSETRAIN_TARGET SPARSETRAIN_FMA_AVX2
namespace sparsetrain {
namespace avx2 {
#include SPARSETRAIN_LOOPS
}
}  // namespace sparsetrain
#undef SPARSETRAIN_TARGET

#define SPARSETRAIN_TARGET SPARSETRAIN_FMA_AVX512
namespace sparsetrain {
namespace avx512 {
#include SPARSETRAIN_LOOPS
}
}  // namespace sparsetrain
#undef SPARSETRAIN_TARGET

#endif

#define SPARSETRAIN_TARGET
namespace sparsetrain {
namespace portable {
#include SPARSETRAIN_LOOPS
}
}  // namespace sparsetrain
#undef SPARSETRAIN_TARGET
#undef SPARSETRAIN_LOOPS
