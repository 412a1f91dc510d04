// Finds the logits of a map that reach a boundary: one read of the map, and hardly more.
//
// A map of one image is read as linear memory, whichever layout it has, in blocks of 256 logits:
// comparisons of whole vectors, one branch for a block, and which logits of it pass is found out
// for the few blocks with any. Of other layouts a part at a time is copied into a buffer.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../math/special.h"
#include "../stable.h"
#include "simd.h"

namespace focaldet {

// One image of one head output, [channels, height, width], read through its strides.
template <class T>
class ImageMap {
 public:
  ImageMap(const Tensor& maps, int64_t image)
      : data_(maps.numel() == 0 ? nullptr : maps.const_data_ptr<T>() + image * maps.stride(0)),
        channels_{maps.size(1), maps.stride(1)},
        rows_{maps.size(2), maps.stride(2)},
        columns_{maps.size(3), maps.stride(3)},
        planar_(!(channels_.stride == 1 && columns_.stride != 1)) {
    Axis axes[3] = {columns_, rows_, channels_};
    if (!planar_) axes[0] = channels_, axes[1] = columns_, axes[2] = rows_;
    int64_t expected = 1;
    for (int i = 0; i < 3; ++i) {
      axes_[i] = axes[i];
      linear_ &= axes[i].size == 1 || axes[i].stride == expected;
      expected *= axes[i].size;
    }
  }

  int64_t size() const { return channels_.size * rows_.size * columns_.size; }

  float at(int64_t c, int64_t y, int64_t x) const {
    return static_cast<float>(data_[c * channels_.stride + y * rows_.stride + x * columns_.stride]);
  }

  // Positions count in the order of memory; ((y W + x) C + c) of one of them.
  int64_t flat_index(int64_t position) const {
    if (!planar_) return position;
    const int64_t plane = rows_.size * columns_.size;
    return position % plane * channels_.size + position / plane;
  }

  // The n elements from a position on: where they are, or copied into the buffer.
  const T* read(int64_t position, int64_t n, T* buffer) const {
    if (linear_) return data_ + position;
    for (int64_t done = 0; done < n;) {
      const int64_t i = (position + done) % axes_[0].size, line = (position + done) / axes_[0].size;
      const int64_t run = std::min(n - done, axes_[0].size - i);
      const T* from = data_ + i * axes_[0].stride + line % axes_[1].size * axes_[1].stride +
                      line / axes_[1].size * axes_[2].stride;
      for (int64_t k = 0; k < run; ++k) buffer[done + k] = from[k * axes_[0].stride];
      done += run;
    }
    return buffer;
  }

 private:
  struct Axis {
    int64_t size, stride;
  };

  const T* data_;
  Axis channels_, rows_, columns_;
  bool planar_;         // channels count slowest, or else, as in channels_last, fastest
  bool linear_ = true;  // positions are addresses
  Axis axes_[3];        // the fastest first
};

// Does a logit reach the boundary?
template <class T>
class Reaches {
 public:
  explicit Reaches(float boundary) : boundary_(boundary) {}
  FD_HD bool operator()(T logit) const { return static_cast<float>(logit) >= boundary_; }

 private:
  float boundary_;
};

// The half types' bits, as integers, are in the order of the numbers up to the sign's: a vector of
// them is compared without conversion. A NaN may pass.
template <class T>
class ReachesHalf {
 public:
  explicit ReachesHalf(float boundary) {
    int32_t low = -0x8000, high = 0x7fff;  // the smallest that reaches it, by bisection
    while (low < high) {
      const int32_t middle = low + ((high - low) >> 1);
      T value;
      value.x = static_cast<uint16_t>(in_order(static_cast<int16_t>(middle)));
      const float number = static_cast<float>(value);
      const bool reached = number == number ? number >= boundary : middle > 0;
      (reached ? high : low) = reached ? middle : middle + 1;
    }
    boundary_ = static_cast<int16_t>(low);
  }
  FD_HD bool operator()(T logit) const {
    return in_order(static_cast<int16_t>(logit.x)) >= boundary_;
  }

 private:
  // Its own inverse.
  FD_HD static int16_t in_order(int16_t bits) {
    return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7fff));
  }
  int16_t boundary_;
};
template <>
class Reaches<Half> : public ReachesHalf<Half> {
  using ReachesHalf::ReachesHalf;
};
template <>
class Reaches<BFloat16> : public ReachesHalf<BFloat16> {
  using ReachesHalf::ReachesHalf;
};

// Calls found(i) for every logit that reaches the boundary, and for no other but NaNs.
template <class T, class Found>
void scan(const T* logits, int64_t n, const Reaches<T>& reaches, const Found& found) {
  constexpr int64_t kBlock = 256, kLanes = 64 / std::min<int64_t>(sizeof(T), 4);
  const auto next_block = [&](int64_t first) {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (; first + kBlock <= n; first += kBlock) {
        int32_t any = 0;
        for (int64_t i = first; i < first + kBlock; ++i) any |= reaches(logits[i]);
        if (any != 0) break;
      }
    });
    return first;
  };
  int64_t first = next_block(0);
  for (; first + kBlock <= n; first = next_block(first + kBlock)) {
    // The lanes in which some vector of the block has one, and then those vectors' elements.
    const T* block = logits + first;
    int32_t any[kLanes] = {};
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < kBlock; i += kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) any[lane] |= reaches(block[i + lane]);
      }
    });
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      for (int64_t i = lane; any[lane] != 0 && i < kBlock; i += kLanes) {
        if (reaches(block[i])) found(first + i);
      }
    }
  }
  for (int64_t i = first; i < n; ++i) {
    if (reaches(logits[i])) found(i);
  }
}

}  // namespace focaldet
