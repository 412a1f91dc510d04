// Measures csrc/math/special.h against double precision; built and run by test_special.py.
//
//   special_accuracy STRIDE      every STRIDE-th float and its upper neighbour (1: every float)
//
// Prints a line "name worst_ulp worst_argument falls" for each function: its largest error in units
// of the last place of the exact result, where that is, and how often it falls between neighbours.
#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "math/special.h"

using namespace focaldet;

// Rank 0 is -infinity, rank kFloats - 1 is infinity, and every float between has its place.
constexpr uint32_t kMinusInfinity = 0x007fffffu, kFloats = 0xff800000u - kMinusInfinity + 1;

FD_HD float ranked(uint32_t rank) {
  rank += kMinusInfinity;
  return bits_to_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}
uint32_t rank_of(float x) {
  const uint32_t bits = float_to_bits(x);
  return (bits & 0x80000000u ? ~bits : bits | 0x80000000u) - kMinusInfinity;
}

// 1 / ulp: the units of the last place of the float format at a positive double, and 2^149 below
// the smallest normal float.
double places_per_unit(double exact) {
  uint64_t bits;
  memcpy(&bits, &exact, sizeof bits);
  const uint64_t exponent = std::max<uint64_t>(bits >> 52, 1023 - 126);
  bits = (2 * 1023 + 23 - exponent) << 52;
  memcpy(&exact, &bits, sizeof bits);
  return exact;
}

struct Worst {
  double ulp = 0;
  float at = 0;
  uint64_t falls = 0;
};

// Where errors are measured. The functions are asked to rise everywhere, and what rises cannot miss
// the 0, 1 or infinity of the rest.
struct Span {
  float low, high, smallest;
  bool contains(float x) const { return low <= x && x <= high && std::fabs(x) >= smallest; }
};

template <class Function, class Exact>
Worst measure(uint64_t first, uint64_t last, uint32_t stride, const Span& span, Function&& function,
              Exact&& exact) {
  constexpr uint32_t kBlock = 1024;
  float x[kBlock], y[kBlock], above[kBlock];
  Worst worst;
  for (uint64_t block = first; block < last; block += uint64_t(kBlock) * stride) {
    const uint64_t left = (last - block + stride - 1) / stride;
    const auto n = static_cast<int32_t>(std::min<uint64_t>(kBlock, left));
    for (int32_t i = 0; i < n; ++i) {
      const uint32_t rank = static_cast<uint32_t>(block) + static_cast<uint32_t>(i) * stride;
      x[i] = ranked(rank);
      y[i] = function(x[i]);
      above[i] = function(ranked(std::min(rank + 1, kFloats - 1)));
    }
    int32_t falls = 0;
    for (int32_t i = 0; i < n; ++i) falls += !(y[i] <= above[i]);
    worst.falls += static_cast<uint64_t>(falls);
    if (!span.contains(x[0]) && !span.contains(x[n - 1])) continue;  // a span is many blocks long
    for (int32_t i = 0; i < n; ++i) {
      if (!span.contains(x[i])) continue;
      const double truth = exact(static_cast<double>(x[i]));
      const double error = std::fabs(static_cast<double>(y[i]) - truth) * places_per_unit(truth);
      if (!(error <= worst.ulp)) worst.ulp = error, worst.at = x[i];
    }
  }
  return worst;
}

template <class Function, class Exact>
void report(const char* name, float low, float high, const Span& span, uint32_t stride,
            Function function, Exact exact) {
  const uint64_t first = rank_of(low), samples = rank_of(high) - first + 1;
  const uint64_t parts = std::max(1u, std::thread::hardware_concurrency());
  std::vector<Worst> found(parts);
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < parts; ++i) {
    threads.emplace_back([&, i] {
      found[i] = measure(first + samples * i / parts, first + samples * (i + 1) / parts, stride,
                         span, function, exact);
    });
  }
  Worst all;
  for (uint64_t i = 0; i < parts; ++i) {
    threads[i].join();
    if (!(found[i].ulp <= all.ulp)) all.ulp = found[i].ulp, all.at = found[i].at;
    all.falls += found[i].falls;
  }
  std::printf("%s %.4f %a %" PRIu64 "\n", name, all.ulp, all.at, all.falls);
}

int main(int, char** argv) {
  const auto stride = static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10));
  constexpr float kTiny = 0x1p-26f;
  report(
      "exp", -INFINITY, INFINITY, {-105.0f, 88.72f, kTiny}, stride, [](float x) { return exp_(x); },
      [](double x) { return std::exp(x); });
  report(
      "exp_minus_abs", -INFINITY, 0.0f, {-105.0f, 0.0f, kTiny}, stride,
      [](float x) { return exp_minus_abs(x); }, [](double x) { return std::exp(x); });
  report(
      "sigmoid", -INFINITY, INFINITY, {-87.3f, 20.0f, kTiny}, stride,
      [](float x) { return sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); });
  report(
      "log1p_unit", 0.0f, 1.0f, {0.0f, 1.0f, 0.0f}, stride, [](float x) { return log1p_unit(x); },
      [](double x) { return x < kTiny ? x : std::log1p(x); });
  for (const float x : {-INFINITY, -105.0f, -0.0f, 0.0f, 89.0f, INFINITY, NAN}) {
    const float s = sigmoid(x);  // the sign of a NaN is nobody's business
    std::printf("exp(%g)=%g sigmoid(%g)=%g\n", x, exp_(x), x, std::isnan(s) ? NAN : s);
  }
}
