// RetinaNet's losses on the CPU, from the head's raw maps: matching, focal loss, box loss and both
// gradients, for all levels and images.
//
// 1. Match, and list the anchors that are no background (matched.h): some in a thousand.
// 2. The box loss of the foreground, from that list; the rest of its gradient is zeros.
// 3. The logits, in blocks that follow memory (focal_terms.h), whatever the layout: everything is
//    background, and the listed anchors are put right.
// Bytes, with S the size of the logits: one read, and one write if there is a gradient, which may
// go over the logits; 4 per anchor for the matches. Sums go block by block through double, in an
// order that depends on the maps alone.
#include <algorithm>
#include <cstring>

#include "focal_terms.h"
#include "matched.h"
#include "memory.h"

namespace focaldet {
namespace {

// The logits of one image and level; blocks are stretches of their memory.
template <class T>
struct LogitsOf {
  using C = compute_t<T>;
  const Matched& matched;
  int64_t image, level, classes;
  bool planar;
  C alpha;
  const std::vector<C>& class_alpha;

  C balance(int64_t k, C target) const {
    return focal_weight(FocalForm::focal, target, class_alpha.empty() ? alpha : class_alpha[k]);
  }

  // Elements [first, first + n), loaded into the block.
  void compute(int64_t first, int64_t n, FocalBlock<T>& block, T* grad) const {
    const int64_t positions = matched.positions(level);
    planar ? mark_planes(first, n, positions, block) : mark_rows(first, n, block);
    if (class_alpha.empty()) return block.negatives(balance(0, C(0)), grad);
    C weights[FocalBlock<T>::kSize];
    const int64_t run = planar ? positions : 1;  // elements of one class, side by side
    for (int64_t i = 0, channel = first / run; i < n; ++channel) {
      const int64_t end = std::min(n, (channel + 1) * run - first);
      std::fill(weights + i, weights + end, balance(channel % classes, C(0)));
      i = end;
    }
    block.negatives(weights, grad);
  }

 private:
  // One plane of positions after another, by cell anchor and class.
  void mark_planes(int64_t first, int64_t n, int64_t positions, FocalBlock<T>& block) const {
    for (int64_t plane = first / positions; plane * positions < first + n; ++plane) {
      const int64_t a = plane / classes, k = plane % classes, start = plane * positions - first;
      const int64_t skipped = std::max<int64_t>(0, -start);
      for_specials(matched.list(image, level, a), skipped, matched.cells(), [&](const Special& s) {
        const int64_t i = start + s.anchor / matched.cells();
        if (i >= n) return false;
        if (s.label < 0) block.ignore(i, i + 1);
        if (s.label == k) block.positive(i, balance(k, C(1)));
        return true;
      });
    }
  }

  // One position after another, by cell anchor and class.
  void mark_rows(int64_t first, int64_t n, FocalBlock<T>& block) const {
    for (int64_t a = 0; a < matched.cells(); ++a) {
      const int64_t position = first / classes / matched.cells();
      for_specials(matched.list(image, level, a), position, matched.cells(), [&](const Special& s) {
        const int64_t begin = s.anchor * classes - first, hot = begin + s.label;
        if (begin >= n) return false;
        if (s.label < 0) {
          block.ignore(std::max<int64_t>(0, begin), std::min(n, begin + classes));
        } else if (hot >= 0 && hot < n) {
          block.positive(hot, balance(s.label, C(1)));
        }
        return true;
      });
    }
  }
};

template <class T>
double classify(const LossArguments& args, const HeadMaps& maps, const Matched& matched,
                double incoming) {
  using C = compute_t<T>;
  constexpr int64_t kSize = FocalBlock<T>::kSize;
  const auto terms = make_focal_terms<C>(args.gamma, FocalForm::focal);
  const auto divisors = matched.divisors(args);
  const auto class_alpha = per_class<C>(args.class_alpha, maps.channels, "alpha");
  struct Level {
    const T* in;
    T* out;
    int64_t elements, blocks, first_block;  // of an image; blocks are numbered by level, then image
  };
  std::vector<Level> levels;
  int64_t blocks = 0;
  for (int64_t l = 0; l < matched.levels(); ++l) {
    const int64_t elements = matched.positions(l) * matched.cells() * maps.channels;
    levels.push_back({maps.in[l].const_data_ptr<T>(), maps.template gradient<T>(l), elements,
                      (elements + kSize - 1) / kSize, blocks});
    blocks += levels[l].blocks * matched.images();
  }
  std::vector<double> partial(blocks);
  torch::stable::parallel_for(0, blocks, 16, [&](int64_t begin, int64_t end) {
    FocalBlock<T> block(*terms, true);
    size_t l = 0;
    for (int64_t b = begin; b < end; ++b) {
      while (l + 1 < levels.size() && b >= levels[l + 1].first_block) ++l;
      const Level& level = levels[l];
      const int64_t image = (b - level.first_block) / level.blocks;
      const int64_t first = (b - level.first_block - image * level.blocks) * kSize;
      const int64_t n = std::min(kSize, level.elements - first);
      const int64_t at = image * level.elements + first;
      block.load(level.in + at, n, static_cast<C>(incoming / divisors[image]));
      const LogitsOf<T> logits{matched,       image,          static_cast<int64_t>(l),
                               maps.channels, maps.planar[l], static_cast<C>(args.alpha),
                               class_alpha};
      logits.compute(first, n, block, level.out == nullptr ? nullptr : level.out + at);
      partial[b] = block.loss_sum() / divisors[image];
    }
  });
  double sum = 0;
  for (const double value : partial) sum += value;
  return sum;
}

// The foreground first, for its gradient may go over the deltas.
template <class T>
double regress(const LossArguments& args, const AnchorTable& table, const HeadMaps& maps,
               const Matched& matched, double incoming) {
  using C = compute_t<T>;
  const auto divisors = matched.divisors(args);
  const Tensor boxes = dense(args.gt_boxes, compute_dtype(maps.in[0]));
  const auto* gt = reinterpret_cast<const Box<C>*>(boxes.const_data_ptr<C>());
  const BoxLoss kind = box_loss_kind(args.box_loss);
  struct Slope {
    T* to;
    int64_t stride;
    T value[4];
  };
  std::vector<Slope> slopes;
  double sum = 0;
  for (int64_t l = 0; l < matched.levels(); ++l) {
    const AnchorTable::Level& level = table.levels[l];
    const int64_t positions = matched.positions(l), cells = matched.cells();
    const T* deltas = maps.in[l].const_data_ptr<T>();
    T* grads = maps.gradient<T>(l);
    for (int64_t image = 0; image < matched.images(); ++image) {
      for (int64_t a = 0; a < cells; ++a) {
        for (const Special& s : matched.list(image, l, a)) {
          if (s.gt < 0) continue;
          const int64_t position = s.anchor / cells, stride = maps.planar[l] ? positions : 1;
          const int64_t at = image * positions * cells * 4 +
                             (maps.planar[l] ? a * 4 * positions + position : s.anchor * 4);
          const T* d = deltas + at;
          const Box<C> delta{static_cast<C>(d[0]), static_cast<C>(d[stride]),
                             static_cast<C>(d[2 * stride]), static_cast<C>(d[3 * stride])};
          const Box<float> anchor = anchor_at(level.grid, position / level.grid.width,
                                              position % level.grid.width, level.cell(a));
          const BoxTerm<C> term =
              box_loss(kind, static_cast<C>(args.beta), delta,
                       Box<C>{anchor.x1, anchor.y1, anchor.x2, anchor.y2}, gt[s.gt]);
          sum += static_cast<double>(term.loss) / divisors[image];
          if (grads == nullptr) continue;
          const C scale = static_cast<C>(incoming / divisors[image]);
          slopes.push_back({grads + at, stride, {}});
          for (int i = 0; i < 4; ++i) {
            slopes.back().value[i] = static_cast<T>(term.grad[i] * scale);
          }
        }
      }
    }
  }
  for (Tensor gradient : maps.out) {
    T* grads = gradient.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, gradient.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
      std::memset(static_cast<void*>(grads + begin), 0, (end - begin) * sizeof(T));
    });
  }
  for (const Slope& slope : slopes) {
    for (int i = 0; i < 4; ++i) slope.to[i * slope.stride] = slope.value[i];
  }
  return sum;
}

LossesAndGradients run(Gradient gradient, const LossArguments& args,
                       const std::optional<Tensor>& d_classification,
                       const std::optional<Tensor>& d_box_regression) {
  args.check();
  const AnchorTable table(args.cell_anchors, feature_sizes(args.cls_logits), args.strides,
                          args.offset);
  const HeadMaps logits(args.cls_logits, args.cls_logits, table.cells, gradient);
  const HeadMaps deltas(args.box_deltas, args.cls_logits, table.cells, gradient);
  FD_CHECK(deltas.channels == 4, "retinanet_loss: deltas must have 4 channels per anchor");
  if (gradient == Gradient::fresh) {
    for (const HeadMaps* maps : {&logits, &deltas}) {
      for (Tensor fresh : maps->out) prefer_huge_pages(fresh);
    }
  }
  const Matched matched(args, table, logits);
  const auto loss = [](const HeadMaps& maps, auto&& compute) {
    return dispatch_floating(maps.in[0].scalar_type(), "retinanet_loss", [&](auto tag) {
      return full({}, compute_dtype(maps.in[0]), maps.in[0], compute(tag));
    });
  };
  const Tensor regression = loss(deltas, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return regress<T>(args, table, deltas, matched, number_in(d_box_regression, 1));
  });
  const Tensor classification = loss(logits, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return classify<T>(args, logits, matched, number_in(d_classification, 1));
  });
  Tensor foreground = empty({}, ScalarType::Long, logits.in[0]);
  int64_t& all = foreground.mutable_data_ptr<int64_t>()[0] = 0;
  for (const int64_t count : matched.foreground()) all += count;
  return {classification, regression, foreground, logits.out, deltas.out};
}

FD_RETINANET_LOSS_OPERATORS(run)

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("retinanet_loss", TORCH_BOX(&retinanet_loss));
  m.impl("retinanet_loss_and_gradient", TORCH_BOX(&retinanet_loss_and_gradient));
  m.impl("retinanet_loss_overwrite", TORCH_BOX(&retinanet_loss_overwrite));
}

}  // namespace focaldet
