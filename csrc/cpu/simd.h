// Runtime choice of the SIMD level: a loop is written once, in plain C++ that compilers vectorise,
// and compiled for each level by inlining it into functions with different target attributes.
//
//   vectorised([&]() FD_SIMD_LAMBDA { for (...) out[i] = sigmoid(in[i]); });
//
// Every level gives the same bits: the loops have no reassociation and explicit fma only.
// FOCALDET_SIMD=scalar|avx2|avx512 forces a level that the processor has.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__GNUC__) && defined(__x86_64__)
#define FD_HAS_SIMD_LEVELS 1
#define FD_TARGET(features) __attribute__((target(features)))
#if defined(__clang__)  // which has no such wish in a function, and would drop the whole attribute
#define FD_WHOLE_VECTORS ""
#else
#define FD_WHOLE_VECTORS ",prefer-vector-width=512"
#endif
#endif
// On such lambdas, and on the functions that they call where these hold loops of their own.
#if defined(__GNUC__)
#define FD_SIMD_LAMBDA __attribute__((always_inline))
#define FD_SIMD_INLINE inline __attribute__((always_inline))
#else
#define FD_SIMD_LAMBDA
#define FD_SIMD_INLINE inline
#endif
// Iterations of the loop that follows may run at once, though its arrays may be one and the same.
#if defined(__clang__)
#define FD_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FD_INDEPENDENT _Pragma("GCC ivdep")
#else
#define FD_INDEPENDENT
#endif

namespace focaldet {

enum class SimdLevel { scalar, avx2, avx512 };

inline const char* simd_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::avx512:
      return "avx512";
    case SimdLevel::avx2:
      return "avx2";
    default:
      return "scalar";
  }
}

inline SimdLevel best_simd_level() {
#ifdef FD_HAS_SIMD_LEVELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    return SimdLevel::avx512;
  }
  if (avx2) return SimdLevel::avx2;
#endif
  return SimdLevel::scalar;
}

inline SimdLevel choose_simd_level() {
  const SimdLevel best = best_simd_level();
  const char* forced = std::getenv("FOCALDET_SIMD");
  if (forced == nullptr || *forced == '\0') return best;
  for (const SimdLevel level : {SimdLevel::scalar, SimdLevel::avx2, SimdLevel::avx512}) {
    if (level <= best && std::string(forced) == simd_name(level)) return level;
  }
  throw std::runtime_error("FOCALDET_SIMD=" + std::string(forced) +
                           ": expected scalar, avx2 or avx512, at most " + simd_name(best) +
                           " on this processor");
}

inline SimdLevel simd_level() {
  static const SimdLevel level = choose_simd_level();
  return level;
}

#ifdef FD_HAS_SIMD_LEVELS
template <class Body>
FD_TARGET("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma" FD_WHOLE_VECTORS)
void run_avx512(const Body& body) {
  body();
}
template <class Body>
FD_TARGET("avx2,fma")
void run_avx2(const Body& body) {
  body();
}
#endif
template <class Body>
void run_scalar(const Body& body) {
  body();
}

template <class Body>
void vectorised(const Body& body) {
#ifdef FD_HAS_SIMD_LEVELS
  switch (simd_level()) {
    case SimdLevel::avx512:
      return run_avx512(body);
    case SimdLevel::avx2:
      return run_avx2(body);
    default:
      break;
  }
#endif
  run_scalar(body);
}

}  // namespace focaldet
