// exp, log, tanh and their like, of registers: exp_of(x) and so on in namespaces portable, avx2 and
// avx512. Relative errors are below 1e-6; NaN, Inf and denormals are as in C.
#pragma once
#include "lanes.h"

#define SPARSETRAIN_LOOPS "engine/functions_loops.h"
#include "../each_isa.h"
