// The losses of one foreground anchor's box and their derivatives with respect to its offsets:
// smooth L1 (Girshick 2015) and L1 of the encoded box; 1 - GIoU (Rezatofighi et al. 2019), DIoU and
// CIoU (Zheng et al. 2020) of the decoded one, as torchvision defines them.
#pragma once

#include "box.h"

namespace focaldet {

enum class BoxLoss { smooth_l1, l1, giou, diou, ciou };

template <class T>
struct BoxTerm {
  T loss;
  T grad[4];  // d loss / d offset
};

// |d|, quadratic below beta.
template <class T>
FD_HD T smooth_l1(T d, T beta, T& slope) {
  const T size = d < T(0) ? -d : d;
  if (size < beta) {
    slope = d / beta;
    return T(0.5) * d * slope;
  }
  slope = d > T(0) ? T(1) : (d < T(0) ? T(-1) : d);  // NaN stays
  return size - T(0.5) * beta;
}

// 1 - the overlap measure of a box and its ground truth. N carries the derivatives.
template <class T, class N>
FD_HD N overlap_loss(BoxLoss kind, const Box<N>& box, const Box<T>& gt) {
  const T eps = T(1e-7);
  const Box<N> other{N(gt.x1), N(gt.y1), N(gt.x2), N(gt.y2)};
  const N inter = intersection(box, other);
  const N joined = area(box) + area(other) - inter;
  const N overlap = inter / (joined + eps);
  const N hull_width = max_(box.x2, other.x2) - min_(box.x1, other.x1);
  const N hull_height = max_(box.y2, other.y2) - min_(box.y1, other.y1);
  if (kind == BoxLoss::giou) {
    const N hull = hull_width * hull_height;
    return T(1) - overlap + (hull - joined) / (hull + eps);
  }
  const N diagonal = hull_width * hull_width + hull_height * hull_height + eps;
  const N dx = (box.x1 + box.x2 - (gt.x1 + gt.x2)) * T(0.5);
  const N dy = (box.y1 + box.y2 - (gt.y1 + gt.y2)) * T(0.5);
  const N distant = T(1) - overlap + (dx * dx + dy * dy) / diagonal;
  if (kind == BoxLoss::diou) return distant;
  const T gt_angle = std::atan2(gt.x2 - gt.x1, gt.y2 - gt.y1);
  const N turn = gt_angle - atan2_(box.x2 - box.x1, box.y2 - box.y1);
  const N v = turn * turn * T(0.40528473456935109);                              // 4 / pi^2
  const T trade = value_of(v) / (T(1) - value_of(overlap) + value_of(v) + eps);  // a constant
  return distant + v * trade;
}

// beta is that of smooth L1; 0 makes it L1.
template <class T>
FD_HD BoxTerm<T> box_loss(BoxLoss kind, T beta, const Box<T>& delta, const Box<T>& anchor,
                          const Box<T>& gt) {
  BoxTerm<T> term;
  if (kind == BoxLoss::smooth_l1 || kind == BoxLoss::l1) {
    const Box<T> target = encode(gt, anchor);
    const T width = kind == BoxLoss::l1 ? T(0) : beta;
    term.loss = smooth_l1(delta.x1 - target.x1, width, term.grad[0]) +
                smooth_l1(delta.y1 - target.y1, width, term.grad[1]) +
                smooth_l1(delta.x2 - target.x2, width, term.grad[2]) +
                smooth_l1(delta.y2 - target.y2, width, term.grad[3]);
    return term;
  }
  using N = Dual<T>;
  const Box<N> variables{N(delta.x1, 0), N(delta.y1, 1), N(delta.x2, 2), N(delta.y2, 3)};
  const N loss = overlap_loss(kind, decode(variables, anchor), gt);
  term.loss = loss.value;
  for (int i = 0; i < 4; ++i) term.grad[i] = loss.slope[i];
  return term;
}

}  // namespace focaldet
