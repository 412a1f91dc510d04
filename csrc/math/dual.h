// Forward derivatives: a number that carries its slope along the four offsets of a box, so that a
// loss of boxes is written once and its gradient comes with it. About four times the arithmetic,
// for foreground anchors alone.
#pragma once

#include "special.h"

namespace focaldet {

template <class T>
struct Dual {
  T value;
  T slope[4];

  FD_HD Dual(T constant) : value(constant), slope{T(0), T(0), T(0), T(0)} {}  // implicit
  // The i-th variable.
  FD_HD Dual(T at, int i) : Dual(at) { slope[i] = T(1); }
};

// What a function of slope d makes of x: the chain rule.
template <class T>
FD_HD Dual<T> chain(T value, T d, const Dual<T>& x) {
  Dual<T> result(value);
  for (int i = 0; i < 4; ++i) result.slope[i] = d * x.slope[i];
  return result;
}
template <class T>
FD_HD Dual<T> chain(T value, T da, const Dual<T>& a, T db, const Dual<T>& b) {
  Dual<T> result(value);
  for (int i = 0; i < 4; ++i) result.slope[i] = std::fma(da, a.slope[i], db * b.slope[i]);
  return result;
}

// A number on either side becomes a constant.
#define FD_DUAL_OPERATOR(op, value, da, db)                       \
  template <class T>                                              \
  FD_HD Dual<T> operator op(const Dual<T>& a, const Dual<T>& b) { \
    return chain(value, da, a, db, b);                            \
  }                                                               \
  template <class T>                                              \
  FD_HD Dual<T> operator op(const Dual<T>& a, T b) {              \
    return a op Dual<T>(b);                                       \
  }                                                               \
  template <class T>                                              \
  FD_HD Dual<T> operator op(T a, const Dual<T>& b) {              \
    return Dual<T>(a) op b;                                       \
  }
FD_DUAL_OPERATOR(+, a.value + b.value, T(1), T(1))
FD_DUAL_OPERATOR(-, a.value - b.value, T(1), T(-1))
FD_DUAL_OPERATOR(*, a.value* b.value, b.value, a.value)
FD_DUAL_OPERATOR(/, a.value / b.value, T(1) / b.value, -a.value / b.value / b.value)
#undef FD_DUAL_OPERATOR

template <class T>
FD_HD bool operator>(const Dual<T>& a, T b) {
  return a.value > b;
}

template <class T>
FD_HD Dual<T> exp_(const Dual<T>& x) {
  const T e = exp_(x.value);
  return chain(e, e, x);
}

// The angle of (x, y), the ratio y / x of sides without the quotient: empty boxes have one, too.
template <class T>
FD_HD Dual<T> atan2_(const Dual<T>& y, const Dual<T>& x) {
  const T length = y.value * y.value + x.value * x.value + std::numeric_limits<T>::min();
  return chain(static_cast<T>(std::atan2(y.value, x.value)), x.value / length, y, -y.value / length,
               x);
}

// Where both are equal, the slope is half of each, as in torch: a perfect box is pushed nowhere.
template <class T>
FD_HD Dual<T> min_(const Dual<T>& a, const Dual<T>& b) {
  if (a.value == b.value) return chain(a.value, T(0.5), a, T(0.5), b);
  return b.value < a.value ? b : a;
}
template <class T>
FD_HD Dual<T> max_(const Dual<T>& a, const Dual<T>& b) {
  if (a.value == b.value) return chain(a.value, T(0.5), a, T(0.5), b);
  return a.value < b.value ? b : a;
}

// x where it is above 0. At 0 it is flat, as torchvision's intersection of boxes that touch is.
template <class T>
FD_HD Dual<T> positive_part(const Dual<T>& x) {
  return x.value <= T(0) ? Dual<T>(T(0)) : x;
}

template <class T>
FD_HD Dual<T> fma_(const Dual<T>& a, T b, T c) {
  return chain(std::fma(a.value, b, c), b, a);
}

// The number alone.
template <class T>
FD_HD T value_of(const Dual<T>& x) {
  return x.value;
}

}  // namespace focaldet
