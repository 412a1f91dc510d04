// Exact greedy non-maximum suppression on CUDA, in linear memory and without host synchronisation
// (but for the length that nms, batched_nms and nms_match return), from a million boxes in one
// group to a million groups.
//
//   1. Candidates are put in order, by image, group, falling score and row: up to 2,048 an image by
//      a block (nms_block_order.cuh), more, or in float64, by sorts (nms_order.cuh).
//   2. A chain of tiles finds who of them is kept (nms_tiles.cuh).
//   3. compact_kept lists them by image and falling score, as far as the output is long: blocks
//      count flags, 16 to a thread, and look back at the counts of those before them.
// Launches: 3; or 4 and a stable sort, with groups one more of each.
//
// Bytes per candidate: 8 for step 3, and those of the other steps. About 90 bytes of memory are in
// use at most (float32, with groups), but for what the sorts take.
#include "../arguments.h"
#include "nms.cuh"
#include "nms_block_order.cuh"
#include "nms_tiles.cuh"

namespace focaldet {
namespace {

constexpr int kCompactThreads = 64;
constexpr int64_t kChunk = kCompactThreads * Pack<uint8_t>::size;

// Rows by rank, of those that are kept, at most `limit` of an image. `kept` has a byte per rank,
// `stride` to an image. A block for each chunk of ranks tells how many it keeps and adds up what
// those before it have told; words: of the chunks, and a last one for the tickets.
__global__ void __launch_bounds__(kCompactThreads)
    compact_kept(const uint8_t* kept, int64_t stride, const int64_t* rows, int64_t n,
                 int64_t images, int64_t limit, Word* words, int64_t* out, int64_t* counts) {
  constexpr int kWarps = kCompactThreads / kWarp, kFlags = Pack<uint8_t>::size;
  FD_SHARED(int, warp_counts, kWarps);
  FD_SHARED(Word, shared_ticket, 1);
  FD_SHARED(Word, kept_before, 1);
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  if (thread == 0) {
    shared_ticket[0] = atomicAdd(words + images * chunks, 1);
    kept_before[0] = 0;
  }
  __syncthreads();
  const auto ticket = static_cast<int64_t>(shared_ticket[0]);
  const int64_t image = ticket % images, chunk = ticket / images;
  words += image * chunks;

  const int64_t rank = chunk * kChunk + thread * kFlags;
  const Pack<uint8_t> flags = load(kept + image * stride, rank, n);
  int own = 0;
#pragma unroll
  for (int i = 0; i < kFlags; ++i) own += flags.items[i];
  int up_to_here = own;  // in the warp
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int before = __shfl_up_sync(kAllLanes, up_to_here, offset);
    if (lane >= offset) up_to_here += before;
  }
  if (lane == kWarp - 1) warp_counts[warp] = up_to_here;
  __syncthreads();
  int count = 0, slot_in_chunk = up_to_here - own;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) slot_in_chunk += warp_counts[w];
    count += warp_counts[w];
  }
  if (thread == 0) atomicExch(words + chunk, kSettled | static_cast<Word>(count));
  for (int64_t before = thread; before < chunk; before += kCompactThreads) {
    Word word = peek(words + before);
    while (word == 0) {
      __nanosleep(100);
      word = peek(words + before);
    }
    atomicAdd(kept_before, word - kSettled);
  }
  __syncthreads();
  const auto first_slot = static_cast<int64_t>(kept_before[0]);

  int64_t slot = first_slot + slot_in_chunk;
#pragma unroll
  for (int i = 0; i < kFlags; ++i) {
    if (flags.items[i] == 0) continue;
    if (slot < limit) out[image * limit + slot] = rows[image * n + rank + i];
    ++slot;
  }
  if (thread == 0 && chunk + 1 == chunks) {
    counts[image] = first_slot + count < limit ? first_slot + count : limit;
  }
}

}  // namespace

std::tuple<Tensor, Tensor> suppress_images(const Tensor& boxes, const Tensor& scores,
                                           const std::optional<Tensor>& groups,
                                           double iou_threshold,
                                           std::optional<double> score_threshold, int64_t limit,
                                           const std::optional<Tensor>& match) {
  const int64_t images = scores.size(0), n = scores.size(1), total = images * n;
  const int64_t tiles = tiles_of(n), chunks = (n + kChunk - 1) / kChunk;
  const int64_t tile_words = images * tiles * kTileWords + 1;
  const int64_t num_words = tile_words + images * chunks + 1;
  const OnDevice device(boxes);
  if (total == 0) {
    return {full({images, limit}, ScalarType::Long, boxes, -1),
            full({images}, ScalarType::Long, boxes, 0)};
  }
  Tensor out = empty({images, limit}, ScalarType::Long, boxes);
  Tensor counts = empty({images}, ScalarType::Long, boxes);
  Tensor kept = empty({images, tiles * kTile}, ScalarType::Byte, boxes);
  Tensor words = empty({num_words}, ScalarType::Long, boxes);
  auto* const word = reinterpret_cast<Word*>(words.mutable_data_ptr<int64_t>());
  in_type_of(boxes, scores, [&](auto tag, ScalarType dtype) {
    using T = typename decltype(tag)::type;
    const Tensor b = dense(boxes, dtype), s = dense(scores, dtype);
    const Candidates<T> candidates{b.template const_data_ptr<T>(), s.template const_data_ptr<T>(),
                                   !score_threshold.has_value(),
                                   static_cast<T>(rounded_as(scores, score_threshold.value_or(0)))};
    const Cleared cleared{word, num_words, out.mutable_data_ptr<int64_t>(), images * limit};
    const auto put_in_order = [&] {
      if constexpr (std::is_same_v<T, float>) {
        if (n <= kMostInBlock) return order_by_block(device, candidates, groups, s, cleared);
      }
      return order_by_sorts(device, candidates, groups, s, cleared);
    };
    const Ordered ordered = put_in_order();
    const Order order = ordered.order();
    const Suppression<T> suppression{order,
                                     ordered.boxes.template const_data_ptr<T>(),
                                     images,
                                     tiles,
                                     limit,
                                     static_cast<T>(iou_threshold),
                                     word,
                                     kept.mutable_data_ptr<uint8_t>(),
                                     match ? match->mutable_data_ptr<int64_t>() : nullptr};
    device.launch({images * tiles, kTile}, suppress_tiles<T>, suppression);
    device.launch({images * chunks, kCompactThreads}, compact_kept, kept.const_data_ptr<uint8_t>(),
                  tiles * kTile, order.rows, n, images, limit, word + tile_words,
                  out.mutable_data_ptr<int64_t>(), counts.mutable_data_ptr<int64_t>());
  });
  return {out, counts};
}

namespace {

Tensor one_image(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                 double iou_threshold, const std::optional<Tensor>& match = std::nullopt) {
  const auto batch = [](const Tensor& tensor) { return torch::stable::unsqueeze(tensor, 0); };
  const auto [kept, counts] =
      suppress_images(batch(boxes), batch(scores), groups ? std::optional(batch(*groups)) : groups,
                      iou_threshold, std::nullopt, boxes.size(0), match);
  // A copy of its own size: a view would hold on to all n.
  Tensor row = torch::stable::select(kept, 0, 0);
  return torch::stable::clone(torch::stable::narrow(row, 0, 0, item(counts)));
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  check_nms(boxes, scores, std::nullopt, iou_threshold, "nms");
  check_device(boxes, {scores}, "nms");
  return one_image(boxes, scores, std::nullopt, iou_threshold);
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   double iou_threshold) {
  check_nms(boxes, scores, idxs, iou_threshold, "batched_nms");
  check_device(boxes, {scores, idxs}, "batched_nms");
  return one_image(boxes, scores, dense(idxs, ScalarType::Long), iou_threshold);
}

std::tuple<Tensor, Tensor> nms_match(const Tensor& boxes, const Tensor& scores,
                                     const std::optional<Tensor>& idxs, double iou_threshold) {
  check_nms(boxes, scores, idxs, iou_threshold, "nms_match");
  check_device(boxes, {scores, idxs}, "nms_match");
  Tensor match = empty({boxes.size(0)}, ScalarType::Long, boxes);
  const Tensor kept = one_image(boxes, scores, dense(idxs, ScalarType::Long), iou_threshold, match);
  return {kept, match};
}

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& labels, double iou_threshold,
                                      double score_threshold, int64_t max_detections) {
  check_nms_padded(boxes, scores, labels, iou_threshold, score_threshold, max_detections);
  check_device(boxes, {scores, labels}, "nms_padded");
  return suppress_images(boxes, scores, dense(labels, ScalarType::Long), iou_threshold,
                         score_threshold, max_detections);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("nms_match", TORCH_BOX(&nms_match));
  m.impl("nms_padded", TORCH_BOX(&nms_padded));
}

}  // namespace focaldet
