// What the kernels may take from CUDA, once each, for test_intrinsics.py to compare with plain
// Python.
#include "../../csrc/cuda/launch.cuh"

namespace focaldet {
namespace {

// One warp's answers, [question, lane], to one value per lane.
__global__ void ask_the_warp(const int* in, int* out) {
  const int lane = threadIdx.x, x = in[lane];
  const auto ux = static_cast<unsigned>(x);
  int* next = out + lane;
  const auto answer = [&](auto value) {
    *next = static_cast<int>(value);
    next += kWarp;
  };
  answer(__shfl_sync(kAllLanes, x, 3));
  answer(__shfl_sync(kAllLanes, x, lane + 1, 8));
  answer(__shfl_up_sync(kAllLanes, x, 2));
  answer(__shfl_up_sync(kAllLanes, x, 3, 16));
  answer(__shfl_down_sync(kAllLanes, x, 5));
  answer(__shfl_down_sync(kAllLanes, static_cast<double>(x), 5, 16));
  answer(__shfl_xor_sync(kAllLanes, x, 9));
  answer(__shfl_xor_sync(kAllLanes, x, 9, 8));
  answer(__ballot_sync(kAllLanes, x % 3 == 0));
  answer(__any_sync(kAllLanes, x == in[7]));
  answer(__any_sync(kAllLanes, x < 0));
  answer(__all_sync(kAllLanes, x >= 0));
  answer(__all_sync(kAllLanes, x != in[7]));
  answer(__reduce_add_sync(kAllLanes, x));
  answer(__reduce_min_sync(kAllLanes, x));
  answer(__reduce_max_sync(kAllLanes, x));
  answer(__reduce_and_sync(kAllLanes, ux));
  answer(__reduce_or_sync(kAllLanes, ux));
  answer(__reduce_xor_sync(kAllLanes, ux));
  // Two halves of the warp, each with a mask of its own.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  answer(lane < 16 ? __reduce_add_sync(half, x) : __shfl_xor_sync(half, x, 1));
  answer(__popc(ux));
  answer(__clz(x));
  answer(__ffs(x));
}

// Sums over all threads of all blocks, which only whole numbers allow in any order.
__global__ void meet_in_memory(const int* in, int n, int* out) {
  FD_SHARED(int, total, 1);
  int* copy = dynamic_shared<int>();
  const int i = threadIdx.x;
  if (i == 0) total[0] = 0;
  copy[i] = __ldg(in + thread_index());
  __syncthreads();
  const int neighbour = copy[(i + 1) % blockDim.x];
  atomicAdd(&total[0], neighbour);
  __syncthreads();
  if (i == 0) {
    atomicAdd(&out[0], total[0]);
    atomicMin(&out[1], total[0]);
    atomicMax(&out[2], total[0]);
    atomicAnd(&out[3], total[0]);
    atomicOr(&out[4], total[0]);
    out[5 + blockIdx.x] = atomicExch(&total[0], n) * static_cast<int>(gridDim.x) + total[0];
  }
}

// Sums up to and with each block's value, from block to block, in the order of their tickets. The
// words are 0 before. Every thread brings a bit of what it thinks of the sum.
__global__ void pass_on(const int* in, Word* words, int* out) {
  FD_SHARED(int, shared, 2);
  if (threadIdx.x == 0) {
    const int ticket = static_cast<int>(atomicAdd(words + gridDim.x, 1));
    Word sum = 0;
    while (ticket > 0 && (sum = peek(words + ticket - 1)) == 0) __nanosleep(20);
    sum += in[ticket];
    atomicExch(words + ticket, sum);
    shared[0] = ticket;
    shared[1] = static_cast<int>(sum);
  }
  __syncthreads();
  const int at = static_cast<int>(threadIdx.x);
  const bool any = __syncthreads_or(shared[1] == at) != 0;
  const bool none = __syncthreads_or(at < 0) == 0;
  if (at == 0) out[shared[0]] = any && none ? shared[1] : -shared[1];
}

// Through the half types and back, four at a time.
template <class T>
__global__ void convert(const float* in, float* out) {
  const int64_t i = thread_index();
  const float4 x = reinterpret_cast<const float4*>(in)[i];
  const auto through = [](float value) { return static_cast<float>(static_cast<T>(value)); };
  reinterpret_cast<float4*>(out)[i] =
      make_float4(through(x.x), through(x.y), through(x.z), through(x.w));
}

Tensor warp(const Tensor& in) {
  Tensor out = empty({23, kWarp}, ScalarType::Int, in);
  OnDevice(in).launch({1, kWarp}, ask_the_warp, in.const_data_ptr<int>(),
                      out.mutable_data_ptr<int>());
  return out;
}

// `start` is what the five totals are before.
Tensor memory(const Tensor& in, const Tensor& start) {
  constexpr int kThreads = 96;
  const int64_t blocks = in.numel() / kThreads;
  Tensor out = torch::stable::clone(start);
  OnDevice(in).launch({blocks, kThreads, kThreads * sizeof(int)}, meet_in_memory,
                      in.const_data_ptr<int>(), static_cast<int>(in.numel()),
                      out.mutable_data_ptr<int>());
  return out;
}

Tensor chain(const Tensor& in) {
  const int64_t blocks = in.numel();
  Tensor out = torch::stable::empty_like(in);
  Tensor words = full({blocks + 1}, ScalarType::Long, in, 0);
  OnDevice(in).launch({blocks, 64}, pass_on, in.const_data_ptr<int>(),
                      reinterpret_cast<Word*>(words.mutable_data_ptr<int64_t>()),
                      out.mutable_data_ptr<int>());
  return out;
}

Tensor half(const Tensor& in, bool bfloat16) {
  Tensor out = torch::stable::empty_like(in);
  OnDevice(in).launch({in.numel() / 128, 32}, bfloat16 ? convert<BFloat16> : convert<Half>,
                      in.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY(focaldet, m) {
  m.def("warp(Tensor values) -> Tensor");
  m.def("memory(Tensor values, Tensor start) -> Tensor");
  m.def("chain(Tensor values) -> Tensor");
  m.def("half(Tensor values, bool bfloat16) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("warp", TORCH_BOX(&warp));
  m.impl("memory", TORCH_BOX(&memory));
  m.impl("chain", TORCH_BOX(&chain));
  m.impl("half", TORCH_BOX(&half));
}

}  // namespace focaldet
