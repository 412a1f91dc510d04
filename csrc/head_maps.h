// The host's view of a detection head's raw maps and of what retinanet_loss and
// retinanet_postprocess are given, for the CPU and for CUDA: what a list of maps must be, in which
// layout each one lies, where its gradient goes.
#pragma once

#include "anchor_grid.h"
#include "arguments.h"

namespace focaldet {

using Tensors = std::vector<Tensor>;

// Are the elements in the order in which these dimensions count, the last one fastest?
inline bool laid_out(const Tensor& map, std::initializer_list<int64_t> order) {
  if (map.numel() == 0) return true;
  int64_t expected = 1;
  for (const int64_t* d = order.end(); d != order.begin();) {
    --d;
    if (map.size(*d) != 1 && map.stride(*d) != expected) return false;
    expected *= map.size(*d);
  }
  return true;
}
// One plane for each channel, as in contiguous tensors.
inline bool is_planar(const Tensor& map) { return laid_out(map, {0, 1, 2, 3}); }
// channels_last: an anchor's channels side by side, in the order of the anchors.
inline bool is_packed(const Tensor& map) { return laid_out(map, {0, 2, 3, 1}); }

// As the kernels read a map: itself in either of these layouts, else a planar copy.
inline Tensor readable(const Tensor& map) {
  return is_planar(map) || is_packed(map) ? map : torch::stable::contiguous(map);
}

enum class Gradient { none, fresh, overwrite };

// Maps [B, cells * channels, H, W] by level, of one dtype and either layout.
struct HeadMaps {
  Tensors in, out;   // as they are read; their gradients, in the same layout
  int64_t channels;  // per anchor
  std::vector<bool> planar;

  HeadMaps(const Tensors& maps, const Tensors& like, int64_t cells, Gradient gradient)
      : channels(maps[0].size(1) / cells) {
    FD_CHECK(maps[0].size(1) == channels * cells, "retinanet_loss: channels must be a multiple of ",
             cells, " cell anchors");
    for (size_t l = 0; l < maps.size(); ++l) {
      const Tensor& map = maps[l];
      FD_CHECK(
          map.dim() == 4 && map.scalar_type() == maps[0].scalar_type() &&
              map.size(1) == maps[0].size(1) && map.size(0) == like[0].size(0) &&
              map.size(2) == like[l].size(2) && map.size(3) == like[l].size(3),
          "retinanet_loss: maps must be [B, channels, H, W] of one dtype, and those of a level "
          "of one size");
      FD_CHECK(is_planar(map) || is_packed(map) || gradient != Gradient::overwrite,
               "retinanet_loss: maps to overwrite must be contiguous or channels_last");
      in.push_back(readable(map));
      planar.push_back(!is_packed(in.back()));
      if (gradient == Gradient::fresh) out.push_back(torch::stable::empty_like(in.back()));
      if (gradient == Gradient::overwrite) out.push_back(map);
    }
  }

  // Where the gradient of a level goes; null if there is none.
  template <class T>
  T* gradient(int64_t level) const {
    if (out.empty()) return nullptr;
    Tensor handle = out[level];
    return handle.mutable_data_ptr<T>();
  }
};

// (height, width) by level, as AnchorTable takes them.
inline std::vector<int64_t> feature_sizes(const Tensors& maps) {
  std::vector<int64_t> sizes;
  for (const Tensor& map : maps) {
    FD_CHECK(map.dim() == 4, "maps must be [B, channels, H, W]");
    sizes.insert(sizes.end(), {map.size(2), map.size(3)});
  }
  return sizes;
}

// The arguments of retinanet_postprocess (ops.cpp).
struct PostprocessArguments {
  const Tensors &cls_logits, &box_deltas;
  const std::vector<double>& cell_anchors;
  const std::vector<int64_t>& strides;
  double offset;
  const Tensor& image_sizes;
  double score_threshold;
  int64_t topk;
  double iou_threshold;
  int64_t max_detections;
  bool class_agnostic;

  int64_t images() const { return image_sizes.size(0); }
  int64_t levels() const { return static_cast<int64_t>(cls_logits.size()); }

  // Returns the anchors, whose number fits the maps.
  AnchorTable checked() const {
    constexpr const char* kOp = "retinanet_postprocess";
    FD_CHECK(!cls_logits.empty() && cls_logits.size() == box_deltas.size(), kOp,
             ": one map of logits and one of deltas per level");
    FD_CHECK(image_sizes.dim() == 2 && image_sizes.size(1) == 2 &&
                 image_sizes.scalar_type() == ScalarType::Long,
             kOp, ": image_sizes must be int64 [B, 2]");
    const Tensor &x0 = cls_logits[0], &d0 = box_deltas[0];
    for (size_t l = 0; l < cls_logits.size(); ++l) {
      const Tensor &x = cls_logits[l], &d = box_deltas[l];
      FD_CHECK(x.dim() == 4 && d.dim() == 4 && x.size(0) == images() && d.size(0) == images() &&
                   x.size(2) == d.size(2) && x.size(3) == d.size(3) && x.size(1) == x0.size(1) &&
                   d.size(1) == d0.size(1) && x.scalar_type() == x0.scalar_type() &&
                   d.scalar_type() == x0.scalar_type(),
               kOp, ": maps must be [B, A * K, H, W] and [B, A * 4, H, W] of one dtype");
    }
    check_iou_threshold(iou_threshold, kOp);
    FD_CHECK(topk >= 0 && max_detections >= 0, kOp,
             ": topk and max_detections must not be negative");
    AnchorTable anchors(cell_anchors, feature_sizes(cls_logits), strides, offset);
    FD_CHECK(
        anchors.cells > 0 && x0.size(1) % anchors.cells == 0 && d0.size(1) == 4 * anchors.cells,
        kOp, ": the channels do not fit the grid's cell anchors");
    return anchors;
  }
};

// The arguments that the three operators of retinanet_loss have in common (ops.cpp).
struct LossArguments {
  const Tensors &cls_logits, &box_deltas;
  const std::vector<double>& cell_anchors;
  const std::vector<int64_t>& strides;
  double offset;
  const Tensor &gt_boxes, &gt_labels, &gt_splits;
  double fg_iou, bg_iou;
  const std::string& low_quality;
  double alpha, gamma;
  const std::optional<Tensor>& class_alpha;
  const std::string& box_loss;
  double beta;
  const std::optional<Tensor>& normalizer;
  bool by_image;

  void check() const {
    FD_CHECK(!cls_logits.empty() && cls_logits.size() == box_deltas.size(),
             "retinanet_loss: as many maps of logits as of deltas, at least one");
    FD_CHECK(!cell_anchors.empty(), "retinanet_loss: no cell anchors");
    feature_sizes(cls_logits);
    feature_sizes(box_deltas);
    check_ground_truth(gt_boxes, gt_splits, "retinanet_loss");
    FD_CHECK(gt_splits.size(0) == cls_logits[0].size(0) + 1,
             "retinanet_loss: gt_splits must be "
             "int64 [B + 1]");
    FD_CHECK(gt_labels.dim() == 1 && gt_labels.size(0) == gt_boxes.size(0),
             "retinanet_loss: gt_labels must be [T]");
  }
};

using Losses = std::tuple<Tensor, Tensor, Tensor>;
using LossesAndGradients = std::tuple<Tensor, Tensor, Tensor, Tensors, Tensors>;

// The operators from run(Gradient, LossArguments, d_classification, d_box_regression), which gives
// LossesAndGradients. The arguments have to be spelled out for the schema; here they are, once.
#define FD_RETINANET_LOSS_OPERATORS(run)                                                         \
  FD_RETINANET_LOSS(retinanet_loss, , Losses,                                                    \
                    first_three(run(Gradient::none, FD_LOSS_ARGUMENTS, {}, {})))                 \
  FD_RETINANET_LOSS(retinanet_loss_and_gradient, FD_INCOMING, LossesAndGradients,                \
                    run(Gradient::fresh, FD_LOSS_ARGUMENTS, d_classification, d_box_regression)) \
  FD_RETINANET_LOSS(retinanet_loss_overwrite, FD_INCOMING, Losses,                               \
                    first_three(run(Gradient::overwrite, FD_LOSS_ARGUMENTS, d_classification,    \
                                    d_box_regression)))
#define FD_RETINANET_LOSS(name, incoming, Result, ...)                                            \
  Result name(const Tensors& cls_logits, const Tensors& box_deltas,                               \
              const std::vector<double>& cell_anchors, const std::vector<int64_t>& strides,       \
              double offset, const Tensor& gt_boxes, const Tensor& gt_labels,                     \
              const Tensor& gt_splits, double fg_iou, double bg_iou,                              \
              const std::string& low_quality, double alpha, double gamma,                         \
              const std::optional<Tensor>& class_alpha, const std::string& box_loss, double beta, \
              const std::optional<Tensor>& normalizer, bool by_image incoming) {                  \
    return __VA_ARGS__;                                                                           \
  }
#define FD_INCOMING \
  , const std::optional<Tensor>&d_classification, const std::optional<Tensor>&d_box_regression
#define FD_LOSS_ARGUMENTS                                                                          \
  LossArguments {                                                                                  \
    cls_logits, box_deltas, cell_anchors, strides, offset, gt_boxes, gt_labels, gt_splits, fg_iou, \
        bg_iou, low_quality, alpha, gamma, class_alpha, box_loss, beta, normalizer, by_image       \
  }

inline Losses first_three(const LossesAndGradients& all) {
  return {std::get<0>(all), std::get<1>(all), std::get<2>(all)};
}

}  // namespace focaldet
