// The raw maps of a detection head, all levels in one launch: a table of kernel parameters that
// says which block works where, and what the sums over maps are divided by.
#pragma once

#include "match.cuh"

namespace focaldet {

// Maps [images, cells * channels, height, width] by level, in one of two dense layouts: planar, as
// contiguous tensors are, or channels last, where the channels of an anchor lie side by side in the
// order of the anchors.
template <class T>
struct Maps {
  struct Level {
    const T* in;
    T* out;             // the gradient, null where there is none; may be `in`
    int64_t positions;  // height * width
    int64_t first;      // flat index of its first anchor
    int64_t first_block, blocks_per_image;
  };
  int levels;
  unsigned planar;  // by level
  int64_t cells, channels;
  int64_t anchors;  // of an image
  Level level[kMaxLevels];
};

constexpr int64_t kMostChannels = 1 << 30;  // per anchor: places within a block are 32-bit numbers

// What a block works on.
struct MapBlock {
  int level;
  int64_t image, block;  // block: within level and image

  template <class T>
  __device__ __forceinline__ explicit MapBlock(const Maps<T>& maps) : level(0) {
    const int64_t index = blockIdx.x;
    while (level + 1 < maps.levels && index >= maps.level[level + 1].first_block) ++level;
    block = index - maps.level[level].first_block;
    image = block / maps.level[level].blocks_per_image;
    block -= image * maps.level[level].blocks_per_image;
  }
};

// What an image's loss is divided by, and its gradient multiplied with: read on the device.
template <class C>
struct LossScale {
  const C *normalizer, *upstream;  // null: the foreground anchors, and 1
  const Count *per_image, *total;  // null per_image: of the batch
  int64_t images;

  __device__ __forceinline__ C divisor(int64_t image) const {
    if (normalizer != nullptr) return *normalizer;
    const Count count = per_image == nullptr ? *total : per_image[image];
    const C foreground = static_cast<C>(count < 1 ? 1 : count);
    return per_image == nullptr ? foreground : foreground * static_cast<C>(images);
  }
  __device__ __forceinline__ C gradient(int64_t image) const {
    return (upstream == nullptr ? C(1) : *upstream) / divisor(image);
  }
};

}  // namespace focaldet
