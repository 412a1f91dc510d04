// Rows of four coordinates, as few accesses as their alignment allows.
#pragma once

#include "../math/box.h"
#include "launch.cuh"

namespace focaldet {

template <class T>
__device__ __forceinline__ Box<T> load_box(const T* boxes, int64_t row) {
  T x[4];
#pragma unroll
  for (int i = 0; i < 4; i += Pack<T>::size) {
    const Pack<T> pack = load(boxes, 4 * row + i, 4 * row + 4);
#pragma unroll
    for (int j = 0; j < Pack<T>::size; ++j) x[i + j] = pack.items[j];
  }
  return {x[0], x[1], x[2], x[3]};
}

template <class T>
__device__ __forceinline__ void store_box(T* boxes, int64_t row, const Box<T>& box) {
  const T x[4] = {box.x1, box.y1, box.x2, box.y2};
#pragma unroll
  for (int i = 0; i < 4; i += Pack<T>::size) {
    Pack<T> pack;
#pragma unroll
    for (int j = 0; j < Pack<T>::size; ++j) pack.items[j] = x[i + j];
    store(boxes, 4 * row + i, 4 * row + 4, pack);
  }
}

}  // namespace focaldet
