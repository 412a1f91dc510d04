// Boxes [x1, y1, x2, y2]: intersection over union, and the offsets that RetinaNet's box subnet
// predicts (Girshick et al. 2014, appendix C; coder weights 1).
#pragma once

#include "dual.h"

namespace focaldet {

template <class T>
struct Box {
  T x1, y1, x2, y2;
};

template <class T>
FD_HD T area(const Box<T>& b) {
  return (b.x2 - b.x1) * (b.y2 - b.y1);
}

template <class T>
FD_HD T min_(T a, T b) {
  return b < a ? b : a;
}
template <class T>
FD_HD T max_(T a, T b) {
  return a < b ? b : a;
}
template <class T>
FD_HD T positive_part(T x) {
  return max_(x, T(0));
}

template <class T>
FD_HD T intersection(const Box<T>& a, const Box<T>& b) {
  const T width = min_(a.x2, b.x2) - max_(a.x1, b.x1);
  const T height = min_(a.y2, b.y2) - max_(a.y1, b.y1);
  return positive_part(width) * positive_part(height);
}

// The areas are arguments because every caller compares one box with many.
template <class T>
FD_HD T iou(const Box<T>& a, T area_a, const Box<T>& b, T area_b) {
  const T inter = intersection(a, b);
  return inter / (area_a + area_b - inter);
}

// No suppression without: comparisons that cost no division and lose nothing. Where the rounded
// inter / joined exceeds the threshold, so does the true quotient, as the threshold is a number of
// the same type; then threshold * joined < inter, and rounding keeps that order.
template <class T>
FD_HD bool may_suppress(const Box<T>& a, T area_a, const Box<T>& b, T area_b, T threshold) {
  const T width = min_(a.x2, b.x2) - max_(a.x1, b.x1);
  const T height = min_(a.y2, b.y2) - max_(a.y1, b.y1);
  const T inter = width * height;
  return (width > T(0)) & (height > T(0)) & (inter >= threshold * (area_a + area_b - inter));
}

// Does a suppress b? A union that is not positive (degenerate, inverted or infinite boxes)
// suppresses nothing, and so does a NaN. The threshold is at least 0.
template <class T>
FD_HD bool suppresses(const Box<T>& a, T area_a, const Box<T>& b, T area_b, T threshold) {
  const T inter = intersection(a, b);
  const T joined = area_a + area_b - inter;
  return (joined > T(0)) & (inter / joined > threshold);
}

template <class T>
FD_HD bool has_nan(const Box<T>& b) {
  return !(b.x1 == b.x1 && b.y1 == b.y1 && b.x2 == b.x2 && b.y2 == b.y2);
}

// dw and dh are clamped from above, so that a wild prediction cannot overflow exp.
constexpr double kMaxLogScale = 4.135166556742356;  // ln(1000 / 16)

template <class T>
FD_HD Box<T> encode(const Box<T>& gt, const Box<T>& anchor) {
  const T width = anchor.x2 - anchor.x1, height = anchor.y2 - anchor.y1;
  const T gt_width = gt.x2 - gt.x1, gt_height = gt.y2 - gt.y1;
  const T x = std::fma(T(0.5), width, anchor.x1), y = std::fma(T(0.5), height, anchor.y1);
  const T gt_x = std::fma(T(0.5), gt_width, gt.x1), gt_y = std::fma(T(0.5), gt_height, gt.y1);
  return {(gt_x - x) / width, (gt_y - y) / height, std::log(gt_width / width),
          std::log(gt_height / height)};
}

// N is T, or a Dual<T> that carries derivatives.
template <class N, class T>
FD_HD Box<N> decode(const Box<N>& delta, const Box<T>& anchor) {
  const T width = anchor.x2 - anchor.x1, height = anchor.y2 - anchor.y1;
  const T x = std::fma(T(0.5), width, anchor.x1), y = std::fma(T(0.5), height, anchor.y1);
  const T limit = static_cast<T>(kMaxLogScale);
  // NaN passes through: the comparison is false for it.
  const N dw = delta.x2 > limit ? N(limit) : delta.x2, dh = delta.y2 > limit ? N(limit) : delta.y2;
  const N center_x = fma_(delta.x1, width, x), center_y = fma_(delta.y1, height, y);
  const N half_width = T(0.5) * (exp_(dw) * width), half_height = T(0.5) * (exp_(dh) * height);
  return {center_x - half_width, center_y - half_height, center_x + half_width,
          center_y + half_height};
}

template <class T>
FD_HD Box<T> clip(const Box<T>& b, T height, T width) {
  return {min_(max_(b.x1, T(0)), width), min_(max_(b.y1, T(0)), height),
          min_(max_(b.x2, T(0)), width), min_(max_(b.y2, T(0)), height)};
}

}  // namespace focaldet
