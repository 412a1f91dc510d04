// Operators register under whatever name -Dfocaldet=... gives their library, and for CPU tensors.
// (Of torch's own macros, that which defines a library takes the name as it is written.)
#pragma once

#include <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY
#define STABLE_TORCH_LIBRARY(ns, m) _STABLE_TORCH_LIBRARY_FRAGMENT(ns, m, __COUNTER__)
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(ns, CPU, m, __COUNTER__)
