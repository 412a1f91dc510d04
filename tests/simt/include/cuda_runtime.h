// The part of CUDA that the kernels of csrc/cuda may use, for a host compiler. What is not here
// they do not rely on; a kernel that needs more adds it here with its exact meaning, and a question
// about it to intrinsics.cu.
#pragma once

#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "../runtime.h"
#include "registration.h"

#define __host__
#define __device__
#define __global__
// Truly: of what a function returns into shared memory, GCC announces nothing.
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

inline constexpr const simt::Dim& threadIdx = simt::here.thread;
inline constexpr const simt::Dim& blockIdx = simt::here.block;
inline constexpr const simt::Dim& blockDim = simt::here.block_dim;
inline constexpr const simt::Dim& gridDim = simt::here.grid_dim;

// Shared memory --------------------------------------------------------------------------------

#define FD_SHARED(T, name, n)               \
  static const char name##_declaration = 0; \
  T* const name = static_cast<T*>(::simt::shared_array(&name##_declaration, #name, sizeof(T) * (n)))

namespace focaldet {
template <class T>
T* dynamic_shared() {
  return static_cast<T*>(::simt::dynamic_shared());
}
}  // namespace focaldet

// Launches -------------------------------------------------------------------------------------

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInsufficientDriver = 35,
                      cudaErrorInvalidDeviceFunction = 98, cudaErrorNoKernelImageForDevice = 209,
                      cudaErrorUnsupportedPtxVersion = 222;

struct cudaDeviceProp {
  char name[8];
  int major, minor;
};
#define CUDART_VERSION 13000

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"simt", 99, 0};
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return simt::last_error().c_str(); }

struct dim3 : simt::Dim {
  dim3(unsigned x = 1) : Dim{x} {}
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  const std::tuple<Params...> parameters(std::forward<Args>(args)...);
  return simt::launch(reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim,
                      config->dynamicSmemBytes, [&] { std::apply(kernel, parameters); });
}

// Barriers and collectives ---------------------------------------------------------------------

#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Every thread of the block, at the same place.
inline void __syncthreads(SIMT_SITE) { simt::barrier({file, line}); }
inline int __syncthreads_or(int predicate, SIMT_SITE) {
  return simt::barrier({file, line}, predicate != 0);
}

// Orders memory between the lanes of the mask; no other collective does.
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE) {
  simt::collective("__syncwarp", mask, 0, 0, [](const uint64_t*, unsigned) { return uint64_t{0}; },
                   {file, line});
}

namespace simt {

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline int lane() { return static_cast<int>(here.thread.x % kLanes); }
inline int first_of_segment(int width) { return lane() / width * width; }

// A lane keeps its own value where the source lies outside [first, end).
template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, int first, int end, Site site) {
  const int from = source >= first && source < end ? source : lane();
  return from_bits<T>(collective(name, mask, to_bits(value), from, nullptr, site));
}

template <class T, class Combine>
uint64_t folded(const uint64_t* values, unsigned mask) {
  const int first = __builtin_ctz(mask);
  T total = from_bits<T>(values[first]);
  for (int i = first + 1; i < kLanes; ++i) {
    if (mask >> i & 1) total = Combine()(total, from_bits<T>(values[i]));
  }
  return to_bits(total);
}

}  // namespace simt

// Segments of `width` lanes shuffle on their own, but that an exclusive or may reach into those
// before.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
  const int first = simt::first_of_segment(width);
  return simt::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), 0, 32,
                       {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  const int first = simt::first_of_segment(width);
  return simt::shuffle("__shfl_up_sync", mask, value, simt::lane() - static_cast<int>(delta), first,
                       32, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  const int end = simt::first_of_segment(width) + width;
  return simt::shuffle("__shfl_down_sync", mask, value, simt::lane() + static_cast<int>(delta), 0,
                       end, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_SITE) {
  const int end = simt::first_of_segment(width) + width;
  return simt::shuffle("__shfl_xor_sync", mask, value, simt::lane() ^ bits, 0, end, {file, line});
}

namespace simt {
inline unsigned ballot(const char* name, unsigned mask, bool vote, Site site) {
  const auto votes = [](const uint64_t* values, unsigned mask) {
    uint64_t ballot = 0;
    for (int i = 0; i < kLanes; ++i) {
      if ((mask >> i & 1) != 0 && values[i] != 0) ballot |= uint64_t{1} << i;
    }
    return ballot;
  };
  return static_cast<unsigned>(collective(name, mask, vote, 0, votes, site));
}
}  // namespace simt

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::ballot("__ballot_sync", mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::ballot("__any_sync", mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::ballot("__all_sync", mask, predicate == 0, {file, line}) == 0;
}

#define SIMT_REDUCE(name, Combine)                                                       \
  template <class T>                                                                     \
  T name(unsigned mask, T value, SIMT_SITE) {                                            \
    return simt::from_bits<T>(simt::collective(#name, mask, simt::to_bits(value), 0,     \
                                               simt::folded<T, Combine>, {file, line})); \
  }
namespace simt {
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
}  // namespace simt
SIMT_REDUCE(__reduce_add_sync, std::plus<>)
SIMT_REDUCE(__reduce_and_sync, std::bit_and<>)
SIMT_REDUCE(__reduce_or_sync, std::bit_or<>)
SIMT_REDUCE(__reduce_xor_sync, std::bit_xor<>)
SIMT_REDUCE(__reduce_min_sync, simt::Min)
SIMT_REDUCE(__reduce_max_sync, simt::Max)
#undef SIMT_REDUCE

// In a loop around an atomic operation: others may run.
inline void __nanosleep(unsigned, SIMT_SITE) { simt::pause({file, line}); }
#undef SIMT_SITE

// Atomics: relaxed, as CUDA's are; they return the old value -----------------------------------

#define SIMT_ATOMIC(name, next)                                                              \
  template <class T>                                                                         \
  __attribute__((noinline, no_sanitize("thread"))) T name(T* address, simt::Same<T> value) { \
    simt::atomic(address, sizeof(T), __builtin_return_address(0));                           \
    const T old = *address;                                                                  \
    *address = next;                                                                         \
    return old;                                                                              \
  }
namespace simt {
template <class T>
using Same = std::common_type_t<T>;  // takes no part in deduction
}
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicMax, old < value ? value : old)
SIMT_ATOMIC(atomicAnd, (old & value))
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicExch, value)
#undef SIMT_ATOMIC

namespace focaldet {
template <class T>
__attribute__((noinline, no_sanitize("thread"))) T peek(const T* address) {
  simt::atomic(address, sizeof(T), __builtin_return_address(0), simt::Atomic::load);
  return *address;
}
}  // namespace focaldet

// Scalars and vectors --------------------------------------------------------------------------

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

#define SIMT_VECTOR(T, name, bytes)                          \
  struct alignas(bytes) name##2 { T x, y; };                 \
  struct alignas(2 * bytes) name##4 { T x, y, z, w; };       \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTOR(float, float, 8)
SIMT_VECTOR(int, int, 8)
SIMT_VECTOR(unsigned, uint, 8)
#undef SIMT_VECTOR
