// RetinaNet's post-processing on CUDA, straight from the head's raw maps, for all images and levels
// at once:
//   1.     the buffers and histograms of the levels are set up;
//   2.     P passes collect the topk best candidates of each level, with a launch between two that
//          says what is left to do (candidates.cuh); all but the first leave at once where the
//          first one's buffers were large enough;
//   3.     a block for each level of each image puts its candidates in order and decodes and clips
//          their boxes, of implicit anchors: the only reads of the delta maps;
//   4.     exact NMS over the levels, per class or over all, and the best of it (nms.cuh);
//   5.     the detections are gathered.
// Launches: 2 P + 2 and those of NMS. P follows from sizes and threshold alone: 1 if no level has
// more logits than its buffer has room, usually 5. Maps of another layout than the kernels read
// cost a copy each. The host never waits, and no size depends on what device memory holds: a CUDA
// graph may capture it all.
//
// Bytes: one read of the logits (candidates.cuh), and 100 per candidate. Workspace: by level and
// image 8 per place of the buffer, of which there are max(topk + kSlack, 1 % of the logits' bytes
// / 8), or as many as logits, and 8 KB for the histogram; 28 per candidate; and that of NMS.
#include "../head_maps.h"
#include "candidates.cuh"
#include "nms.cuh"

namespace focaldet {
namespace {

constexpr const char* kOp = "retinanet_postprocess";
constexpr int kRankThreads = 1024, kGatherThreads = 256;

// What NMS takes: [images, rows], levels in order, each by falling score and rising index. Rows
// without a candidate have a NaN for a score, and so have those whose box has a NaN.
struct Rows {
  float* boxes;
  float* scores;
  int64_t* labels;
};

// What the boxes are decoded from, and where they go.
template <class T>
struct Decoding {
  struct Level {
    const T* deltas;
    bool planar;  // else channels last
  };
  Level level[kMaxLevels];
  const int64_t* image_sizes;
  Rows rows;
};

template <class T>
__global__ void __launch_bounds__(kRankThreads)
    rank_and_decode(const GridParams grid, const Plan plan, const Workspace work,
                    const Decoding<T> decoding) {
  FD_SHARED(uint64_t, tile, kTile);
  FD_SHARED(unsigned, bins, kBins);
  FD_SHARED(unsigned, taken, 1);
  Pack<float>* cells = dynamic_shared<Pack<float>>();
  stage_cells(grid, cells);  // the sort's barriers follow
  const int64_t problem = blockIdx.x, image = problem / plan.levels;
  const int l = static_cast<int>(problem - image * plan.levels);
  const Plan::Level& level = plan.level[l];
  const Selection& selection = work.selections[problem];
  const unsigned count = selection.collected;
  const uint64_t* const keys =
      smallest_in_order<kRankThreads>(work.keys + level.first_key + image * level.capacity, count,
                                      selection.range, level.topk, tile, bins, taken);

  const int64_t per_cell = level.positions;
  const typename Decoding<T>::Level& map = decoding.level[l];
  const T* const in = map.deltas + image * 4 * grid.cells * per_cell;
  const auto height = static_cast<float>(decoding.image_sizes[2 * image]);
  const auto width = static_cast<float>(decoding.image_sizes[2 * image + 1]);
  const int64_t first_row = image * plan.rows + level.first_row;
  for (unsigned i = threadIdx.x; i < level.topk; i += kRankThreads) {
    float score = std::numeric_limits<float>::quiet_NaN();
    Box<float> box{0, 0, 0, 0};
    int64_t label = -1;
    if (i < count) {
      const unsigned index = key_index(keys[i], level.index_bits), anchor = index / plan.classes;
      label = index - anchor * plan.classes;
      const GridPlace place(grid, grid.level[l].first + anchor);
      const int64_t first =
          map.planar ? 4 * place.cell * per_cell + place.position : 4 * int64_t{anchor};
      const int64_t step = map.planar ? per_cell : 1;
      const auto delta = [&](int c) { return static_cast<float>(in[first + c * step]); };
      box = clip(
          decode<float>({delta(0), delta(1), delta(2), delta(3)}, anchor_at(grid, cells, place)),
          height, width);
      if (!has_nan(box)) score = key_score(keys[i], level.index_bits);
    }
    const int64_t row = first_row + i;
    store(decoding.rows.boxes, 4 * row, 4 * (row + 1),
          Pack<float>{{box.x1, box.y1, box.x2, box.y2}});
    decoding.rows.scores[row] = score;
    decoding.rows.labels[row] = label;
  }
}
static_assert(sizeof(GridParams) + sizeof(Plan) + sizeof(Workspace) + sizeof(Decoding<double>) <=
                  4096,
              "kernel parameters of every driver");

// kept [images, limit]: rows of the image, -1 for none.
__global__ void __launch_bounds__(kGatherThreads)
    gather_detections(const int64_t* kept, int64_t total, int64_t limit, int64_t rows_per_image,
                      const Rows rows, const Rows detections) {
  for (int64_t i = thread_index(); i < total; i += thread_count()) {
    const int64_t row = i / limit * rows_per_image + kept[i];
    const bool found = kept[i] >= 0;
    store(detections.boxes, 4 * i, 4 * (i + 1),
          found ? load(rows.boxes, 4 * row, 4 * (row + 1)) : Pack<float>{{0, 0, 0, 0}});
    detections.scores[i] = found ? rows.scores[row] : 0;
    detections.labels[i] = found ? rows.labels[row] : -1;
  }
}

using Detections = std::tuple<Tensor, Tensor, Tensor, Tensor>;  // boxes, scores, labels, counts

// Boxes, scores and labels [images, n].
struct RowTensors {
  Tensor boxes, scores, labels;
  RowTensors(int64_t images, int64_t n, const Tensor& like)
      : boxes(empty({images, n, 4}, ScalarType::Float, like)),
        scores(empty({images, n}, ScalarType::Float, like)),
        labels(empty({images, n}, ScalarType::Long, like)) {}
  Rows data() {
    return {boxes.mutable_data_ptr<float>(), scores.mutable_data_ptr<float>(),
            labels.mutable_data_ptr<int64_t>()};
  }
};

// Both kinds of maps as the kernels read them.
struct Head {
  Tensors logits, deltas;
  explicit Head(const PostprocessArguments& arguments) {
    for (int64_t l = 0; l < arguments.levels(); ++l) {
      const Tensor &x = arguments.cls_logits[l], &d = arguments.box_deltas[l];
      check_device(arguments.cls_logits[0], {x, d, arguments.image_sizes}, kOp);
      logits.push_back(readable(x));
      deltas.push_back(readable(d));
    }
  }
};

struct Planned {
  Plan plan;
  int passes;
  int64_t keys;  // of all buffers
};

Planned make_plan(const Head& head, int64_t cells, float threshold, int64_t topk,
                  int64_t logit_bytes) {
  const Tensor& like = head.logits[0];
  const int64_t images = like.size(0), channels = like.size(1);
  Planned result{{static_cast<int>(head.logits.size()),
                  static_cast<unsigned>(channels),
                  static_cast<unsigned>(channels / cells),
                  boundary_logit(threshold),
                  images,
                  0,
                  {}},
                 1,
                 0};
  Plan& plan = result.plan;
  for (int l = 0; l < plan.levels; ++l) {
    const int64_t positions = head.logits[l].size(2) * head.logits[l].size(3);
    FD_CHECK(channels < kMostLogits && positions < kMostLogits / std::max<int64_t>(channels, 1),
             kOp, ": fewer than ", kMostLogits, " logits of a level and image");
    const int64_t logits = positions * channels, best = std::min(topk, logits);
    FD_CHECK(best <= kMostSorted, kOp, ": topk of at most ", kMostSorted);
    const int64_t capacity =
        std::min(logits, std::max<int64_t>(best + kSlack, logits * logit_bytes / 100 / 8));
    const int bits = logits == 0 ? 0 : key_bits(logits);
    plan.level[l] = {result.keys,
                     plan.rows,
                     static_cast<unsigned>(logits),
                     static_cast<unsigned>(positions),
                     static_cast<unsigned>(best),
                     static_cast<unsigned>(capacity),
                     bits,
                     !is_packed(head.logits[l])};
    result.keys += images * capacity;
    plan.rows += best;
    if (capacity < logits) {
      const int left = key_bits(keys_from(plan.boundary, bits).end) - kSlackBits;
      result.passes = std::max(result.passes, 1 + (left + kDigitBits - 1) / kDigitBits);
    }
  }
  return result;
}

// The best candidates of each level of each image, as NMS takes them.
template <class T>
RowTensors candidates(const OnDevice& device, const GridParams& grid, const Head& head,
                      const Planned& planned, const Tensor& image_sizes) {
  const Plan& plan = planned.plan;
  const Tensor& like = head.logits[0];
  const int64_t problems = plan.images * plan.levels;
  Tensor keys = empty({planned.keys}, ScalarType::Long, like);
  Tensor selections =
      empty({problems, sizeof(Selection) / sizeof(int64_t)}, ScalarType::Long, like);
  Tensor bins = empty({problems, kBins}, ScalarType::Int, like);
  Tensor open = empty({kMostPasses}, ScalarType::Int, like);
  const Workspace work{reinterpret_cast<Selection*>(selections.mutable_data_ptr<int64_t>()),
                       reinterpret_cast<unsigned*>(bins.mutable_data_ptr<int32_t>()),
                       reinterpret_cast<unsigned*>(open.mutable_data_ptr<int32_t>()),
                       reinterpret_cast<uint64_t*>(keys.mutable_data_ptr<int64_t>())};
  LogitMaps<T> maps{};
  RowTensors rows(plan.images, plan.rows, like);
  Decoding<T> decoding{{}, image_sizes.const_data_ptr<int64_t>(), rows.data()};
  for (int l = 0; l < plan.levels; ++l) {
    decoding.level[l] = {head.deltas[l].const_data_ptr<T>(), !is_packed(head.deltas[l])};
    maps.level[l] = head.logits[l].const_data_ptr<T>();
    maps.first_chunk[l + 1] =
        maps.first_chunk[l] + plan.images * blocks_for(plan.level[l].logits, kChunk<T>);
  }
  const int64_t chunks = maps.first_chunk[plan.levels];
  device.launch({problems, kNarrowThreads}, start_selection, plan, work);
  device.launch({chunks, kCollectThreads}, collect_candidates<T>, plan, maps, 0, work);
  for (int pass = 1; pass < planned.passes; ++pass) {
    device.launch({problems, kNarrowThreads}, narrow_selection, plan, pass - 1, work);
    device.launch({blocks_for(chunks, kRereadChunks), kCollectThreads}, collect_candidates<T>, plan,
                  maps, pass, work);
  }
  device.launch({problems, kRankThreads, grid.cell_bytes()}, rank_and_decode<T>, grid, plan, work,
                decoding);
  return rows;
}

Detections retinanet_postprocess(const Tensors& cls_logits, const Tensors& box_deltas,
                                 const std::vector<double>& cell_anchors,
                                 const std::vector<int64_t>& strides, double offset,
                                 const Tensor& image_sizes, double score_threshold, int64_t topk,
                                 double iou_threshold, int64_t max_detections,
                                 bool class_agnostic) {
  const PostprocessArguments arguments{cls_logits,    box_deltas,     cell_anchors,    strides,
                                       offset,        image_sizes,    score_threshold, topk,
                                       iou_threshold, max_detections, class_agnostic};
  const AnchorTable anchors = arguments.checked();
  const Head head(arguments);
  const Tensor& like = head.logits[0];
  const int64_t images = arguments.images();
  const GridParams grid = grid_params(anchors, kOp);
  const OnDevice device(like);
  const Tensor sizes = dense(image_sizes);
  return dispatch_floating(like.scalar_type(), kOp, [&](auto tag) -> Detections {
    using T = typename decltype(tag)::type;
    const Planned planned =
        make_plan(head, grid.cells, static_cast<float>(score_threshold), topk, sizeof(T));
    if (images == 0 || planned.plan.rows == 0 || max_detections == 0) {
      return {full({images, max_detections, 4}, ScalarType::Float, like, 0),
              full({images, max_detections}, ScalarType::Float, like, 0),
              full({images, max_detections}, ScalarType::Long, like, -1),
              full({images}, ScalarType::Long, like, 0)};
    }
    RowTensors rows = candidates<T>(device, grid, head, planned, sizes);
    const auto [kept, counts] = suppress_images(
        rows.boxes, rows.scores, class_agnostic ? std::nullopt : std::optional<Tensor>(rows.labels),
        iou_threshold, std::nullopt, max_detections);
    RowTensors detections(images, max_detections, like);
    const int64_t total = images * max_detections;
    device.launch({blocks_for(total, kGatherThreads), kGatherThreads}, gather_detections,
                  kept.template const_data_ptr<int64_t>(), total, max_detections, planned.plan.rows,
                  rows.data(), detections.data());
    return {detections.boxes, detections.scores, detections.labels, counts};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("retinanet_postprocess", TORCH_BOX(&retinanet_postprocess));
}

}  // namespace focaldet
