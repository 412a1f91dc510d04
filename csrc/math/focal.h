// The sigmoid focal loss of one logit and its derivative (Lin et al. 2017, equations 4 and 5, and
// appendix A), in logit space; and its two relatives for soft targets.
//
// With p = sigma(x), the chance m = p (1 - t) + (1 - p) t of being wrong and the cross entropy
// c = -t ln p - (1 - t) ln(1 - p):
//   loss = m^gamma c,   d loss / dx = m^gamma (gamma m'/m c + p - t).
// For a hard target the logit u of the wrong answer says it all: m = sigma(u), m'/m = sigma(-u).
// alpha, class weights and ignored elements are factors beside it.
#pragma once

#include <type_traits>

#include "special.h"

namespace focaldet {

// m^gamma. 2 has loops of its own on the CPU; the rest splits gamma into a whole part, by repeated
// squaring, and a fraction: a square root if it is one half, else through -ln m, which a hard
// target has for free as the other cross entropy. The split keeps the error small: a power through
// the logarithm alone is wrong by gamma |ln m| ulp.
template <int N>
struct IntegerPower {
  static constexpr double gamma = N;
  static constexpr bool kLogarithm = false;  // asks for -ln m
  template <class T, class MinusLog>
  FD_HD T operator()(T m, MinusLog&&) const {
    T product = T(1);
    for (int i = 0; i < N; ++i) product *= m;
    return product;
  }
};

// What a loop that must not branch knows of the fraction beforehand.
struct NoFraction {};
struct HalfFraction {};
struct OtherFraction {};
struct AnyFraction {};  // nothing

template <class T, class Fraction = AnyFraction>
struct RealPower {
  static constexpr bool kLogarithm =
      std::is_same_v<Fraction, OtherFraction> || std::is_same_v<Fraction, AnyFraction>;
  T gamma;
  int whole;  // at most 31; what exceeds it stays in the fraction
  T fraction;

  // Split once, on the host: in a kernel it would be arithmetic in double for every logit.
  explicit RealPower(double exponent)
      : gamma(static_cast<T>(exponent)),
        whole(exponent < 31 ? static_cast<int>(exponent) : 31),
        fraction(static_cast<T>(exponent - whole)) {}

  template <class MinusLog>
  FD_HD T operator()(T m, MinusLog&& minus_log_m) const {
    const T m2 = m * m, m4 = m2 * m2, m8 = m4 * m4, m16 = m8 * m8;
    const T product = where_bit(1, m) * where_bit(2, m2) * where_bit(4, m4) * where_bit(8, m8) *
                      where_bit(16, m16);
    if constexpr (std::is_same_v<Fraction, NoFraction>) return product;
    if constexpr (std::is_same_v<Fraction, HalfFraction>) return product * std::sqrt(m);
    if constexpr (std::is_same_v<Fraction, AnyFraction>) {
      if (fraction == T(0)) return product;
      if (fraction == T(0.5)) return product * std::sqrt(m);
    }
    return product * exp_(-fraction * minus_log_m());
  }

 private:
  FD_HD T where_bit(int bit, T factor) const { return (whole & bit) != 0 ? factor : T(1); }
};

template <class T>
struct FocalTerm {
  T loss;
  T grad;  // d loss / d logit
};

// An infinite cross entropy meets a factor that is exactly 0 there, and the product's limit is 0.
template <class T>
FD_HD T finite(T cross_entropy) {
  const T largest = std::numeric_limits<T>::max();
  return cross_entropy < largest ? cross_entropy : largest;
}

// Target 0: the logit is evidence for being wrong.
template <class T, class Power>
FD_HD FocalTerm<T> focal_negative(const Logistic<T>& s, const Power& power) {
  const T modulator = power(s.p, [&] { return s.minus_log_p; });
  const T slope = fma_(static_cast<T>(power.gamma) * s.q, finite(s.minus_log_q), s.p);
  return {modulator * s.minus_log_q, modulator * slope};
}

// Target 0 or 1: 1 is 0 at the mirrored logit.
template <class T, class Power>
FD_HD FocalTerm<T> focal_hard(T x, T t, const Power& power) {
  const T sign = t == T(0) ? T(1) : T(-1);
  const FocalTerm<T> term = focal_negative(logistic(sign * x), power);
  return {term.loss, sign * term.grad};
}

// Any target in [0, 1], as torchvision defines the loss between 0 and 1.
template <class T, class Power>
FD_HD FocalTerm<T> focal_soft(T x, T t, const Power& power) {
  const Logistic<T> s = logistic(x);
  const T m = s.p * (T(1) - t) + s.q * t;
  const T cross_entropy = (T(1) - t) * s.minus_log_q + t * s.minus_log_p;
  const T modulator = power(m, [&] { return -std::log(m); });
  const T ratio = s.p * s.q * (T(1) - T(2) * t) / m;
  const T slope = static_cast<T>(power.gamma) * (ratio * finite(cross_entropy)) +
                  (s.p * (T(1) - t) - s.q * t);  // p - t, without cancellation
  return {modulator * cross_entropy, modulator * slope};
}

// |p - t|^gamma c, which asks for the score t and not for a class (Li et al. 2020, "Generalized
// Focal Loss", equation 5). Equal to the loss above at t = 0 and t = 1.
template <class T, class Power>
FD_HD FocalTerm<T> quality_soft(T x, T t, const Power& power) {
  const Logistic<T> s = logistic(x);
  const T off = s.p * (T(1) - t) - s.q * t;  // p - t, without cancellation
  const T m = off < T(0) ? -off : off;
  const T cross_entropy = (T(1) - t) * s.minus_log_q + t * s.minus_log_p;
  const T modulator = power(m, [&] { return -std::log(m); });
  const T ratio = off == T(0) ? T(0) : s.p * s.q / off;  // m'/m; the limit for gamma > 1
  const T slope = static_cast<T>(power.gamma) * (ratio * finite(cross_entropy)) + off;
  return {modulator * cross_entropy, modulator * slope};
}

// What the target says and how an element is weighed for it.
//   focal:     as above; alpha for t = 1, 1 - alpha for t = 0, a mixture in between
//   quality:   |p - t| in place of m, weighed in the same way
//   varifocal: t c where t > 0, alpha p^gamma c where t = 0 (Zhang et al. 2021, equation 2)
// A negative alpha turns the balance off.
enum class FocalForm { focal, quality, varifocal };

template <class T, class Power>
FD_HD FocalTerm<T> focal(FocalForm form, T x, T t, const Power& power) {
  const bool hard = (t == T(0)) | (t == T(1));
  if (form == FocalForm::varifocal && t > T(0)) {
    return hard ? focal_hard(x, t, IntegerPower<0>{}) : focal_soft(x, t, IntegerPower<0>{});
  }
  if (hard) return focal_hard(x, t, power);
  return form == FocalForm::quality ? quality_soft(x, t, power) : focal_soft(x, t, power);
}

template <class T>
FD_HD T focal_weight(FocalForm form, T t, T alpha) {
  if (form == FocalForm::varifocal && t > T(0)) return t;
  if (alpha < T(0)) return T(1);
  return form == FocalForm::varifocal ? alpha : alpha * t + (T(1) - alpha) * (T(1) - t);
}

// A weight of 0 silences an infinite loss, too.
template <class T>
FD_HD T weigh(T weight, T term) {
  return weight == T(0) ? T(0) : weight * term;
}

// Label smoothing e moves a target towards one half.
template <class T>
FD_HD T smooth(T t, T epsilon) {
  return t * (T(1) - epsilon) + epsilon / T(2);
}

}  // namespace focaldet
