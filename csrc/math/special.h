// exp, log1p and the logistic function, written once for the CPU, every SIMD level and CUDA.
//
// The float versions are branch-free and use explicit fma only (build with -ffp-contract=off and
// -fmad=false), so that each of them gives the same bits wherever it runs, and compilers vectorise
// them. The double versions call the platform's library: float64 exists for checking gradients.
//
// Errors are measured over every float by tests/ops/test_special.py.
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

// e^x. Monotone; at most 1 ulp, subnormal results included; 0 and infinity at the ends; NaN stays.
// Cody-Waite reduction x = n ln 2 + r with |r| <= ln 2 / 2, then 1 + r + r^2 q(r), q of degree 4
// (minimax fit). 2^n is applied in two halves: one factor could not be subnormal.
FD_HD float exp_(float x) {
  x = x > 89.0f ? 89.0f : x;          // e^89 overflows to infinity
  x = x < -105.0f ? -105.0f : x;      // e^-105 underflows to zero
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
  const float y = leading + correction;
  const int32_t half = n >> 1;
  const float low = bits_to_float(static_cast<uint32_t>(half + 127) << 23);
  const float high = bits_to_float(static_cast<uint32_t>(n - half + 127) << 23);
  return y * low * high;
}
FD_HD double exp_(double x) { return std::exp(x); }

// ln(1 + e) for e in [0, 1], at most 2 ulp. With s = e / (2 + e): ln(1 + e) = 2 atanh(s)
// = e - s (e - R), R = s^2 (2/3 + 2/5 s^2 + ...), so the leading term carries no rounding error.
FD_HD float log1p_unit(float e) {
  const float s = e / (2.0f + e);
  const float z = s * s;
  float series = 0.2322433f;
  series = std::fma(series, z, 0.21706575f);
  series = std::fma(series, z, 0.28592357f);
  series = std::fma(series, z, 0.39999706f);
  series = std::fma(series, z, 0.6666667f);
  return std::fma(-s, std::fma(-z, series, e), e);
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

// What the losses need of one logit, from one exponential and without cancellation.
template <class T>
struct Logistic {
  T p;            // sigma(x)
  T q;            // sigma(-x), never 1 - p
  T minus_log_p;  // softplus(-x) = -ln sigma(x)
  T minus_log_q;  // softplus(x) = -ln sigma(-x)
};

template <class T>
FD_HD Logistic<T> logistic(T x) {
  const bool positive = x >= T(0);
  const T magnitude = positive ? x : -x;
  const T e = exp_(-magnitude);
  const T larger = T(1) / (T(1) + e);
  const T smaller = e * larger;
  const T softplus = log1p_unit(e);
  return {positive ? larger : smaller, positive ? smaller : larger,
          positive ? softplus : magnitude + softplus, positive ? magnitude + softplus : softplus};
}

}  // namespace focaldet
