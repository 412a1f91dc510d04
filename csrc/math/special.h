// exp, log1p and the logistic function, written once for the CPU, every SIMD level and CUDA.
//
// The float versions are branch-free and use explicit fma only (build with -ffp-contract=off and
// -fmad=false), so that each of them gives the same bits wherever it runs, and compilers vectorise
// them; but for the two in which a GPU asks its own units, for losses alone: what decides about
// detections has the same bits everywhere. The double versions call the platform's library: float64
// exists for checking gradients.
//
// Errors are measured over every float by tests/ops/test_special.py, and on a GPU, of the losses,
// by tests/ops/test_focal_cuda.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__CUDACC__)
#define FD_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define FD_HD inline __attribute__((always_inline))
#else
#define FD_HD inline
#endif

namespace focaldet {

FD_HD float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FD_HD uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FD_HD float fma_(float a, float b, float c) { return std::fma(a, b, c); }
FD_HD double fma_(double a, double b, double c) { return std::fma(a, b, c); }

// e^x = y 2^n, with y between 0.7 and 1.5, for |x| <= 105. Cody-Waite reduction x = n ln 2 + r with
// |r| <= ln 2 / 2, then y = 1 + r + r^2 q(r), q of degree 4 (minimax fit).
struct Scaled {
  float y;
  int32_t n;
};

FD_HD Scaled exp_scaled(float x) {
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = std::fma(x, 0x1.715476p+0f, shifter);
  const int32_t n = static_cast<int32_t>(float_to_bits(shifted) - float_to_bits(shifter));
  const float rounded = shifted - shifter;
  const float coarse = std::fma(rounded, -0x1.62e430p-1f, x);  // exact: ln 2 to 21 bits
  const float fine = rounded * 0x1.05c610p-29f;
  const float r = coarse + fine;
  float q = 1.4035514e-3f;
  q = std::fma(q, r, 8.372263e-3f);
  q = std::fma(q, r, 4.1665554e-2f);
  q = std::fma(q, r, 1.6666488e-1f);
  q = std::fma(q, r, 0.5f);
  const float leading = 1.0f + coarse;  // what it rounds away goes on in the correction
  const float correction = (coarse - (leading - 1.0f)) + std::fma(q * r, r, fine);
  return {leading + correction, n};
}

FD_HD float power_of_two(int32_t n) { return bits_to_float(static_cast<uint32_t>(n + 127) << 23); }

// e^x. Monotone; at most 1 ulp, subnormal results included; 0 and infinity at the ends; NaN stays.
// 2^n is applied in two halves: one factor could be neither subnormal nor infinite.
FD_HD float exp_(float x) {
  x = x > 89.0f ? 89.0f : x;      // e^89 overflows to infinity
  x = x < -105.0f ? -105.0f : x;  // e^-105 underflows to zero
  const Scaled e = exp_scaled(x);
  const int32_t half = e.n >> 1;
  return e.y * power_of_two(half) * power_of_two(e.n - half);
}
FD_HD double exp_(double x) { return std::exp(x); }

// e^-|x|. It cannot overflow: 2^(n + 64) goes straight into the exponent, and the rest is a
// constant. The same bits as exp_, but on a GPU, whose unit for 2^x (2 ulp) takes the place of the
// polynomial: what the product x log2 e rounds away is put back. The polynomial is a third of a
// focal loss's instructions, and those bound it (benchmarks/compiler/loops.py).
FD_HD float exp_minus_abs(float x) {
  const float magnitude = std::fabs(x);
  const float z = magnitude > 105.0f ? -105.0f : -magnitude;  // NaN stays
#ifdef __CUDA_ARCH__
  const float exponent = z * 0x1.715476p+0f;
  const float lost = std::fma(z, 0x1.4ae0cp-26f, std::fma(z, 0x1.715476p+0f, -exponent));
  float e;
  asm("ex2.approx.f32 %0, %1;" : "=f"(e) : "f"(exponent));
  return std::fma(e, lost * 0x1.62e430p-1f, e);
#else
  const Scaled e = exp_scaled(z);
  return e.y * power_of_two(e.n + 64) * 0x1p-64f;
#endif
}
FD_HD double exp_minus_abs(double x) { return std::exp(-std::fabs(x)); }

// ln(1 + e) for e in [0, 1], at most 1.5 ulp: e + e^2 q(e), q of degree 8 (minimax fit), so that
// the leading term carries no rounding error. No division: the loops that need this divide already,
// and that is what the processor has least of.
FD_HD float log1p_unit(float e) {
  float q = -3.3184716e-3f;
  q = std::fma(q, e, 2.020458e-2f);
  q = std::fma(q, e, -5.7664432e-2f);
  q = std::fma(q, e, 1.0680554e-1f);
  q = std::fma(q, e, -1.5355395e-1f);
  q = std::fma(q, e, 1.96954e-1f);
  q = std::fma(q, e, -2.4958587e-1f);
  q = std::fma(q, e, 3.3330511e-1f);
  q = std::fma(q, e, -4.9999933e-1f);
  return std::fma(e * e, q, e);
}
FD_HD double log1p_unit(double e) { return std::log1p(e); }

// 1 / (1 + e^-x): at most 2 ulp above the smallest normal number, and monotone, so that a larger
// logit never scores lower (both checked over every float). Where e^-x >= 1 the error of the sum
// would reach 2.3 ulp of the small result: what the sum rounds away is put back.
FD_HD float sigmoid(float x) {
  const float e = exp_(-x);
  const float sum = 1.0f + e;
  const float lost = 1.0f - (sum - e);
  const float result = 1.0f / sum;
  const bool correctable = (e >= 1.0f) & (e <= std::numeric_limits<float>::max());
  return correctable ? std::fma(-(lost * result), result, result) : result;
}
FD_HD double sigmoid(double x) { return 1.0 / (1.0 + exp_(-x)); }

// 1 / y for y in [1, 2], at most 1 ulp. A GPU divides in about 9 instructions and a branch, or asks
// its unit for it; a CPU divides beside its other work.
FD_HD float reciprocal_unit(float y) {
#ifdef __CUDA_ARCH__
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
  return r;
#else
  return 1.0f / y;
#endif
}
FD_HD double reciprocal_unit(double y) { return 1.0 / y; }

// What the losses need of one logit, from one exponential and without cancellation.
template <class T>
struct Logistic {
  T p;            // sigma(x)
  T q;            // sigma(-x), never 1 - p
  T minus_log_p;  // softplus(-x) = -ln sigma(x)
  T minus_log_q;  // softplus(x) = -ln sigma(-x)
};

// e is e^-|x|.
template <class T>
FD_HD Logistic<T> logistic(T x, T e) {
  const bool positive = x >= T(0);
  const T larger = reciprocal_unit(T(1) + e);
  const T smaller = e * larger;
  const T softplus = log1p_unit(e);
  const T longer = std::fabs(x) + softplus;
  return {positive ? larger : smaller, positive ? smaller : larger, positive ? softplus : longer,
          positive ? longer : softplus};
}
template <class T>
FD_HD Logistic<T> logistic(T x) {
  return logistic(x, exp_minus_abs(x));
}

}  // namespace focaldet
