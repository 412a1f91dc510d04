// RetinaNet's training loss on CUDA, straight from the head's raw maps, in five launches whatever
// the number of images, levels and boxes:
//   1, 2. anchors are matched to boxes; the foreground is counted (match.cu);
//   3.    the focal loss of all class maps and its gradient (map_focal.cuh);
//   4.    the box loss of all delta maps and its gradient (map_boxes.cuh);
//   5.    the partial sums are added up, in a fixed order.
// Tensors of another dtype or layout than the kernels read cost a copy each before that. The host
// never waits, and no size depends on what device memory holds: a CUDA graph may capture it all.
// Beside the results it takes 8 bytes per image and anchor. Bytes and operations: as there.
#include "head_maps.cuh"
#include "map_boxes.cuh"
#include "map_focal.cuh"

namespace focaldet {
namespace {

using MaybeTensor = std::optional<Tensor>;
constexpr const char* kOp = "retinanet_loss";
constexpr int kSumThreads = 1024;

struct PartialSums {
  const double* values;
  int64_t n;
};

// A block for each of the two losses.
template <class Classification, class Regression>
__global__ void __launch_bounds__(kSumThreads)
    add_losses(const PartialSums classification, const PartialSums regression,
               Classification* classification_out, Regression* regression_out) {
  const bool first = blockIdx.x == 0;
  const double* partial = first ? classification.values : regression.values;
  const int64_t n = first ? classification.n : regression.n;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) sum += partial[i];
  const double total = block_sum<kSumThreads>(sum);
  if (threadIdx.x != 0) return;
  if (first) {
    *classification_out = static_cast<Classification>(total);
  } else {
    *regression_out = static_cast<Regression>(total);
  }
}

// One number, in the arithmetic of the maps.
MaybeTensor scalar(const MaybeTensor& value, ScalarType dtype) {
  if (!value) return value;
  FD_CHECK(value->numel() == 1, kOp, ": normalizer and incoming gradients must be one number");
  return dense(*value, dtype);
}

template <class C>
const C* pointer(const MaybeTensor& tensor) {
  return tensor ? tensor->template const_data_ptr<C>() : nullptr;
}

// What both losses need once the anchors are matched.
struct Matched {
  const OnDevice& device;
  const GridParams& grid;
  Tensor match, labels, per_image, total;
};

template <class C>
LossScale<C> loss_scale(const LossArguments& p, Matched& m, const MaybeTensor& normalizer,
                        const MaybeTensor& upstream) {
  return {pointer<C>(normalizer), pointer<C>(upstream),
          p.by_image ? counts_of(m.per_image) : nullptr, counts_of(m.total), m.per_image.size(0)};
}

// Both return partial sums.
Tensor classify(const LossArguments& p, const HeadMaps& maps, Matched& m,
                const MaybeTensor& upstream) {
  const Tensor& like = maps.in[0];
  const ScalarType compute = compute_dtype(like);
  const MaybeTensor divide = scalar(p.normalizer, compute), up = scalar(upstream, compute);
  MaybeTensor alphas;
  if (p.class_alpha) {
    check_per_class(*p.class_alpha, maps.channels, "alpha");
    alphas = dense(*p.class_alpha, compute);
  }
  return dispatch_floating(like.scalar_type(), kOp, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const auto [table, blocks] = kernel_maps<T>(maps, m.grid, [&](int64_t positions, bool planar) {
      return focal_blocks<T>(positions, m.grid.cells, maps.channels, planar);
    });
    Tensor partial = empty({blocks}, ScalarType::Double, like);
    const auto launch = [&, &table = table, &blocks = blocks](const auto& power) {
      using Power = std::decay_t<decltype(power)>;
      m.device.launch({blocks, kFocalThreads},
                      maps.out.empty() ? map_focal<T, Power, false> : map_focal<T, Power, true>,
                      table, power, m.labels.const_data_ptr<int32_t>(),
                      FocalBalance<C>{static_cast<C>(p.alpha), pointer<C>(alphas)},
                      loss_scale<C>(p, m, divide, up), partial.mutable_data_ptr<double>());
    };
    // As in focal_loss.cu.
    if constexpr (!std::is_same_v<T, double>) {
      if (p.gamma == 2) {
        launch(IntegerPower<2>{});
        return partial;
      }
    }
    launch(RealPower<C>(p.gamma));
    return partial;
  });
}

Tensor regress(const LossArguments& p, const HeadMaps& maps, Matched& m,
               const MaybeTensor& upstream) {
  const Tensor& like = maps.in[0];
  const ScalarType compute = compute_dtype(like);
  const MaybeTensor divide = scalar(p.normalizer, compute), up = scalar(upstream, compute);
  const Tensor boxes = dense(p.gt_boxes, compute), splits = dense(p.gt_splits);
  return dispatch_floating(like.scalar_type(), kOp, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const auto [table, blocks] = kernel_maps<T>(
        maps, m.grid, [&](int64_t positions, bool) { return box_blocks(positions, m.grid.cells); });
    Tensor partial = empty({blocks}, ScalarType::Double, like);
    m.device.launch(
        {blocks, kMapBoxThreads, m.grid.cell_bytes()},
        maps.out.empty() ? map_boxes<T, false> : map_boxes<T, true>, m.grid, table,
        BoxTruth<C>{m.match.const_data_ptr<int32_t>(), splits.const_data_ptr<int64_t>(),
                    boxes.const_data_ptr<C>(), box_loss_kind(p.box_loss), static_cast<C>(p.beta)},
        loss_scale<C>(p, m, divide, up), partial.mutable_data_ptr<double>());
    return partial;
  });
}

Losses add_up(const OnDevice& device, const Tensor& classification, const Tensor& regression,
              const Matched& m, const HeadMaps& logits, const HeadMaps& deltas) {
  const ScalarType dtypes[] = {compute_dtype(logits.in[0]), compute_dtype(deltas.in[0])};
  Tensor first = empty({}, dtypes[0], m.total), second = empty({}, dtypes[1], m.total);
  const auto partial = [](const Tensor& sums) {
    return PartialSums{sums.const_data_ptr<double>(), sums.numel()};
  };
  dispatch_floating(dtypes[0], kOp, [&](auto a) {
    dispatch_floating(dtypes[1], kOp, [&](auto b) {
      using A = compute_t<typename decltype(a)::type>;
      using B = compute_t<typename decltype(b)::type>;
      device.launch({2, kSumThreads}, add_losses<A, B>, partial(classification),
                    partial(regression), first.mutable_data_ptr<A>(), second.mutable_data_ptr<B>());
    });
  });
  return {first, second, m.total};
}

LossesAndGradients run(Gradient gradient, const LossArguments& p,
                       const MaybeTensor& d_classification, const MaybeTensor& d_box_regression) {
  p.check();
  const Tensor& like = p.cls_logits[0];
  for (const Tensors* maps : {&p.cls_logits, &p.box_deltas}) {
    for (const Tensor& map : *maps) check_device(like, {map}, kOp);
  }
  check_device(like,
               {p.gt_boxes, p.gt_labels, p.gt_splits, p.class_alpha, p.normalizer, d_classification,
                d_box_regression},
               kOp);
  const AnchorTable anchors(p.cell_anchors, feature_sizes(p.cls_logits), p.strides, p.offset);
  const GridParams grid = grid_params(anchors, kOp);
  const HeadMaps logits(p.cls_logits, p.cls_logits, grid.cells, gradient);
  const HeadMaps deltas(p.box_deltas, p.cls_logits, grid.cells, gradient);
  FD_CHECK(deltas.channels == 4, kOp, ": deltas must have 4 channels per anchor");
  const int64_t images = like.size(0);

  const OnDevice device(like);
  Matched m{device,
            grid,
            empty({images, grid.total}, ScalarType::Int, like),
            empty({images, grid.total}, ScalarType::Int, like),
            empty({images}, ScalarType::Long, like),
            empty({}, ScalarType::Long, like)};
  const Tensor boxes = dense(p.gt_boxes, ScalarType::Float), splits = dense(p.gt_splits);
  const Tensor gt_labels = dense(p.gt_labels, ScalarType::Long);
  match(device, grid,
        {nullptr, grid.total, boxes.const_data_ptr<float>(), boxes.size(0),
         splits.const_data_ptr<int64_t>(), images, static_cast<float>(p.fg_iou),
         static_cast<float>(p.bg_iou), low_quality_rule(p.low_quality)},
        {m.match.mutable_data_ptr<int32_t>(), counts_of(m.per_image), counts_of(m.total),
         m.labels.mutable_data_ptr<int32_t>(), gt_labels.const_data_ptr<int64_t>(), logits.channels,
         planar_levels(logits)},
        like);
  const Tensor classification = classify(p, logits, m, d_classification);
  const Tensor regression = regress(p, deltas, m, d_box_regression);
  const auto [first, second, total] = add_up(device, classification, regression, m, logits, deltas);
  return {first, second, total, logits.out, deltas.out};
}

FD_RETINANET_LOSS_OPERATORS(run)

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("retinanet_loss", TORCH_BOX(&retinanet_loss));
  m.impl("retinanet_loss_and_gradient", TORCH_BOX(&retinanet_loss_and_gradient));
  m.impl("retinanet_loss_overwrite", TORCH_BOX(&retinanet_loss_overwrite));
}

}  // namespace focaldet
