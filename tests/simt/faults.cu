// Kernels with one mistake each, and the same kernels without it: what test_faults.py expects the
// machine to notice. All of them double the values of a block's shared copy, or look like it.
#include "../../csrc/cuda/launch.cuh"

namespace focaldet {
namespace {

constexpr int kThreads = 64;

// Each thread hands its value to its neighbour through shared memory.
template <bool kFault>
__global__ void missing_syncthreads(const float* in, float* out) {
  FD_SHARED(float, tile, kThreads);
  const int i = threadIdx.x;
  tile[i] = in[blockIdx.x * kThreads + i];
  if (!kFault) __syncthreads();
  out[blockIdx.x * kThreads + i] = 2 * tile[(i + 1) % kThreads];
}

template <bool kFault>
__global__ void missing_syncwarp(const float* in, float* out) {
  FD_SHARED(float, tile, kThreads);
  const int i = threadIdx.x, neighbour = i / kWarp * kWarp + (i + 1) % kWarp;
  tile[i] = in[blockIdx.x * kThreads + i];
  if (!kFault) __syncwarp();
  out[blockIdx.x * kThreads + i] = 2 * tile[neighbour];
}

// No schedule shows this one: everybody writes the same.
template <bool kFault>
__global__ void race_in_shared_memory(const float* in, float* out) {
  FD_SHARED(float, factor, 1);
  if (kFault || threadIdx.x == 0) factor[0] = 2;
  __syncthreads();
  const int64_t i = thread_index();
  out[i] = factor[0] * in[i];
}

// The second buffer is written while slow threads still read the first half of the first.
template <bool kFault>
__global__ void race_with_a_reader(const float* in, float* out) {
  FD_SHARED(float, tile, kThreads);
  const int64_t i = thread_index();
  tile[threadIdx.x] = in[i];
  __syncthreads();
  const float neighbour = tile[(threadIdx.x + kWarp) % kThreads];
  if (!kFault) __syncthreads();
  tile[threadIdx.x] = 2 * neighbour;
  out[i] = tile[threadIdx.x];
}

// Both warps read what lane 0 of the first one writes: __syncwarp orders it behind its own warp
// only.
template <bool kFault>
__global__ void race_with_another_warp(const float* in, float* out) {
  FD_SHARED(float, factor, 1);
  if (threadIdx.x == 0) factor[0] = 2;
  __syncthreads();
  out[thread_index()] = factor[0] * in[thread_index()];
  __syncwarp();
  if (kFault && threadIdx.x == 0) factor[0] = 3;
}

template <bool kFault>
__global__ void race_with_an_atomic(const float* in, float* out) {
  FD_SHARED(int, count, 1);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(&count[0], 1);
  if (!kFault) __syncthreads();
  out[thread_index()] = count[0] > 0 ? 2 * in[thread_index()] : 0;
}

template <bool kFault>
__global__ void race_between_blocks(const float* in, float* out) {
  const int64_t i = thread_index();
  out[kFault ? i % kThreads : i] = 2 * in[i % kThreads];
}

// The factor of 2 goes from block to block, each of which waits for another. The words are 0
// before, and more than the blocks.
__device__ __forceinline__ int take_ticket(Word* words) {
  FD_SHARED(int, ticket, 1);
  if (threadIdx.x == 0) ticket[0] = static_cast<int>(atomicAdd(words + gridDim.x, 1));
  __syncthreads();
  return ticket[0];
}

template <bool kFault>
__global__ void a_wait_for_a_later_block(const float* in, float* out, Word* words) {
  const int ticket = take_ticket(words), blocks = gridDim.x;
  if (threadIdx.x == 0) {
    const int other = kFault ? ticket + 1 : ticket - 1;
    while (other >= 0 && other < blocks && peek(words + other) == 0) __nanosleep(20);
    atomicExch(words + ticket, 2);
  }
  __syncthreads();
  out[thread_index()] = 2 * in[thread_index()];
}

template <bool kFault>
__global__ void a_wait_without_a_ticket(const float* in, float* out, Word* words) {
  const int ticket = kFault ? blockIdx.x : take_ticket(words);
  if (threadIdx.x == 0) {
    while (ticket > 0 && peek(words + ticket - 1) == 0) __nanosleep(20);
    atomicExch(words + ticket, 2);
  }
  __syncthreads();
  out[thread_index()] = 2 * in[thread_index()];
}

template <bool kFault>
__global__ void missing_wait(const float* in, float* out, Word* words) {
  FD_SHARED(float, factor, 1);
  const int ticket = take_ticket(words);
  if (threadIdx.x == 0) {
    Word word = ticket == 0 ? 2 : peek(words + ticket - 1);
    while (!kFault && word == 0) {
      __nanosleep(20);
      word = peek(words + ticket - 1);
    }
    factor[0] = static_cast<float>(word);
    atomicExch(words + ticket, 2);
  }
  __syncthreads();
  const int i = ticket * kThreads + threadIdx.x;
  out[i] = factor[0] * in[i];
}

// On a GPU a fence on both sides would do; kernels put the value into the word instead.
template <bool kFault>
__global__ void a_value_beside_its_flag(const float* in, float* out, Word* words) {
  FD_SHARED(float, factor, 1);
  const int ticket = take_ticket(words);
  float* factors = reinterpret_cast<float*>(words + gridDim.x + 1);
  if (threadIdx.x == 0) {
    Word word = 2;
    while (ticket > 0 && (word = peek(words + ticket - 1)) == 0) __nanosleep(20);
    factor[0] = static_cast<float>(word);
    if (kFault && ticket > 0) factor[0] = factors[ticket - 1];
    if (kFault) factors[ticket] = factor[0];
    atomicExch(words + ticket, word);
  }
  __syncthreads();
  const int i = ticket * kThreads + threadIdx.x;
  out[i] = factor[0] * in[i];
}

template <bool kFault>
__global__ void a_flag_read_as_data(const float* in, float* out, Word* words) {
  FD_SHARED(float, factor, 1);
  const int ticket = take_ticket(words);
  if (threadIdx.x == 0) {
    Word word = 2;
    while (ticket > 0 && (word = peek(words + ticket - 1)) == 0) __nanosleep(20);
    if (kFault && ticket > 0) word = words[ticket - 1];
    factor[0] = static_cast<float>(word);
    atomicExch(words + ticket, word);
  }
  __syncthreads();
  const int i = ticket * kThreads + threadIdx.x;
  out[i] = factor[0] * in[i];
}

template <bool kFault>
__global__ void write_past_shared_memory(const float* in, float* out) {
  FD_SHARED(float, tile, kThreads);
  tile[threadIdx.x + kFault] = in[thread_index()];
  out[thread_index()] = 2 * in[thread_index()];
}

template <bool kFault>
__global__ void write_past_the_output(const float* in, float* out) {
  out[thread_index()] = 2 * in[thread_index()];
  if (kFault && threadIdx.x == 0) out[thread_count()] = 0;
}

template <bool kFault>
__global__ void uninitialised_output(const float* in, float* out) {
  const int64_t i = thread_index();
  if (!kFault || i != 17) out[i] = 2 * in[i];
}

template <bool kFault>
__global__ void uninitialised_shared_memory(const float* in, float* out) {
  FD_SHARED(float, tile, kThreads);
  const int64_t i = thread_index();
  if (!kFault || threadIdx.x % 2 == 0) tile[threadIdx.x] = in[i];
  __syncthreads();
  out[i] = 2 * tile[threadIdx.x];
}

template <bool kFault>
__global__ void divergent_barrier(const float* in, float* out) {
  if (kFault && threadIdx.x < kWarp) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[thread_index()] = 2 * in[thread_index()];
}

template <bool kFault>
__global__ void barrier_that_some_never_reach(const float* in, float* out) {
  if (kFault && threadIdx.x == 5) return;
  __syncthreads();
  out[thread_index()] = 2 * in[thread_index()];
}

template <bool kFault>
__global__ void shuffle_from_an_inactive_lane(const float* in, float* out) {
  const float x = in[thread_index()];
  if (threadIdx.x % kWarp < 16) {
    out[thread_index()] = x + __shfl_sync(0xffffu, x, kFault ? 16 : threadIdx.x % kWarp);
  } else {
    out[thread_index()] = 2 * x;
  }
}

template <bool kFault>
__global__ void lane_outside_its_mask(const float* in, float* out) {
  const float x = in[thread_index()];
  out[thread_index()] = x + __shfl_xor_sync(kFault ? 0xffffu : kAllLanes, x, 0);
}

template <bool kFault>
__global__ void masks_that_differ(const float* in, float* out) {
  const unsigned mask = kFault && threadIdx.x % 2 == 0 ? 0x55555555u : kAllLanes;
  out[thread_index()] = __any_sync(mask, 1) ? 2 * in[thread_index()] : 0;
}

template <bool kFault>
__global__ void deadlock(const float* in, float* out) {
  if (kFault && threadIdx.x % kWarp == 0) {
    __syncthreads();
    __syncwarp();
  } else {
    __syncwarp();
    __syncthreads();
  }
  out[thread_index()] = 2 * in[thread_index()];
}

// A sum of floats in the order of arrival.
template <bool kFault>
__global__ void result_of_the_schedule(const float* in, float* out) {
  out[thread_index()] = 2 * in[thread_index()];
  if (kFault) {
    FD_SHARED(float, sum, 1);
    if (threadIdx.x == 0) sum[0] = 0;
    __syncthreads();
    atomicAdd(&sum[0], 1 / (1.0f + threadIdx.x));
    __syncthreads();
    if (threadIdx.x == 0) out[thread_index()] = sum[0];
  }
}

template <bool kFault>
__global__ void too_much_shared_memory(const float* in, float* out) {
  if (kFault) {
    FD_SHARED(float, tile, 12 * 1024 + 1);
    tile[threadIdx.x] = 0;
  }
  out[thread_index()] = 2 * in[thread_index()];
}

template <bool kFault>
__global__ void undefined_behaviour(const float* in, float* out) {
  const unsigned bit = 1u << (kFault ? threadIdx.x : threadIdx.x % kWarp);
  out[thread_index()] = bit != 0 ? 2 * in[thread_index()] : 0;
}

Tensor run(const std::string& name, bool fault, const Tensor& in) {
  Tensor out = torch::stable::empty_like(in);
  const Grid grid{blocks_for(in.numel(), kThreads), kThreads};
  Tensor words = full({2 * grid.blocks + 1}, ScalarType::Long, in, 0);
  const auto launch = [&](auto right, auto wrong, auto... more) {
    OnDevice(in).launch(grid, fault ? wrong : right, in.const_data_ptr<float>(),
                        out.mutable_data_ptr<float>(), more...);
  };
#define FAULT(kernel, ...) \
  if (name == #kernel) launch(kernel<false>, kernel<true>, ##__VA_ARGS__)
#define FAULT_OF_BLOCKS(kernel) \
  FAULT(kernel, reinterpret_cast<Word*>(words.mutable_data_ptr<int64_t>()))
  FAULT(missing_syncthreads);
  FAULT(missing_syncwarp);
  FAULT(race_in_shared_memory);
  FAULT(race_with_a_reader);
  FAULT(race_with_another_warp);
  FAULT(race_with_an_atomic);
  FAULT(race_between_blocks);
  FAULT_OF_BLOCKS(a_wait_for_a_later_block);
  FAULT_OF_BLOCKS(a_wait_without_a_ticket);
  FAULT_OF_BLOCKS(missing_wait);
  FAULT_OF_BLOCKS(a_value_beside_its_flag);
  FAULT_OF_BLOCKS(a_flag_read_as_data);
  FAULT(write_past_shared_memory);
  FAULT(write_past_the_output);
  FAULT(uninitialised_output);
  FAULT(uninitialised_shared_memory);
  FAULT(divergent_barrier);
  FAULT(barrier_that_some_never_reach);
  FAULT(shuffle_from_an_inactive_lane);
  FAULT(lane_outside_its_mask);
  FAULT(masks_that_differ);
  FAULT(deadlock);
  FAULT(result_of_the_schedule);
  FAULT(too_much_shared_memory);
  FAULT(undefined_behaviour);
#undef FAULT_OF_BLOCKS
#undef FAULT
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY(focaldet, m) { m.def("run(str kernel, bool fault, Tensor values) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) { m.impl("run", TORCH_BOX(&run)); }

}  // namespace focaldet
