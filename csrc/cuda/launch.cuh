// The CUDA dialect of these kernels: how they are launched, get shared memory, move 16 bytes at a
// time and add up in a fixed order. Whatever a kernel takes from CUDA beyond this header is in
// tests/simt/include/cuda_runtime.h, with which the same sources run on the host. Blocks are
// one-dimensional.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "../stable.h"
#include "launch_error.h"

namespace focaldet {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// What blocks of one launch tell each other: a word is 0 until one of them writes it, once, by
// atomicExch. All that is told is in the word, so that no fence has to order anything beside it.
// Blocks start in any order: one may wait only for those that took a ticket, by atomicAdd, before
// its own. They are running, and the first of them waits for nobody.
using Word = unsigned long long;

#ifdef __CUDACC__  // else they come with the host's cuda_runtime.h
// The word as it is now, past the caches that others do not write to. In a loop with __nanosleep.
__device__ __forceinline__ Word peek(const Word* word) {
  return *static_cast<const volatile Word*>(word);
}

// Shared memory of a size known to the compiler: T name[n].
#define FD_SHARED(T, name, n) __shared__ T name[n]

// Shared memory of the size given at the launch; one array per kernel.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char focaldet_dynamic_shared[];
  return reinterpret_cast<T*>(focaldet_dynamic_shared);
}
#endif

struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes = 0;
};

// The device of one operator call: current while this lives, with torch's stream of the moment.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }

  // Nothing to do is no launch: CUDA refuses an empty grid.
  template <class... Params, class... Args>
  void launch(const Grid& grid, void (*kernel)(Params...), const Args&... args) const {
    if (grid.blocks == 0) return;
    FD_CHECK(grid.blocks < (int64_t{1} << 31), "too many blocks in one launch: ", grid.blocks);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream_);
    check_launch(cudaLaunchKernelEx(&config, kernel, args...));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// The dispatcher lets a CPU tensor pass beside CUDA ones; a kernel would read a host address.
inline void check_device(const Tensor& of, std::initializer_list<std::optional<Tensor>> others,
                         const char* op) {
  for (const auto& other : others) {
    FD_CHECK(!other || other->device() == of.device(), op, ": all tensors must be on one device");
  }
}

// Blocks of `threads` for `items`, at most `most`: the kernel strides over the rest.
inline int64_t blocks_for(int64_t items, int64_t threads, int64_t most = (int64_t{1} << 31) - 1) {
  return std::min((items + threads - 1) / threads, most);
}

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

__device__ __forceinline__ bool has(unsigned mask, int bit) { return (mask >> bit & 1) != 0; }

// What one thread reads or writes in one access.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T items[size];
};

template <class T>
__device__ __forceinline__ bool aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % sizeof(Pack<T>) == 0;
}

// Elements [first, first + size) of an array of n, zeros behind its end. `first` is a multiple of
// the size, so it depends on the array alone whether it can be read in packs.
template <class T>
__device__ __forceinline__ Pack<T> load(const T* array, int64_t first, int64_t n) {
  if (aligned(array) && first + Pack<T>::size <= n) {
    return *reinterpret_cast<const Pack<T>*>(array + first);
  }
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) {
    pack.items[i] = first + i < n ? array[first + i] : static_cast<T>(0);
  }
  return pack;
}

template <class T>
__device__ __forceinline__ void store(T* array, int64_t first, int64_t n, const Pack<T>& pack) {
  if (aligned(array) && first + Pack<T>::size <= n) {
    *reinterpret_cast<Pack<T>*>(array + first) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) {
    if (first + i < n) array[first + i] = pack.items[i];
  }
}

// The sum over a block of kThreads, in an order that depends on nothing else; thread 0 has it. Once
// in a kernel: its shared memory is not free again when it returns.
template <int kThreads>
__device__ __forceinline__ double block_sum(double value) {
  FD_SHARED(double, warp_sums, kThreads / kWarp);
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_down_sync(kAllLanes, value, offset);
  }
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += warp_sums[warp];
  }
  return sum;
}

}  // namespace focaldet
