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
FD_HD bool operator<(const Dual<T>& a, const Dual<T>& b) {
  return a.value < b.value;
}
template <class T>
FD_HD bool operator>(const Dual<T>& a, T b) {
  return a.value > b;
}

template <class T>
FD_HD Dual<T> exp_(const Dual<T>& x) {
  const T e = exp_(x.value);
  return chain(e, e, x);
}

template <class T>
FD_HD Dual<T> atan_(const Dual<T>& x) {
  return chain(static_cast<T>(std::atan(x.value)), T(1) / (T(1) + x.value * x.value), x);
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
