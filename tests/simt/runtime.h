// A SIMT machine on the host: it runs the unchanged kernels of csrc/cuda and reports what a GPU
// would forgive or hide.
//
// Each CUDA thread is a fiber that runs until it waits: at a block's barrier, in a warp's
// collective, or for another block. Who runs next, in which order blocks start and how many are
// under way at once is drawn from a seed, so that a result that depends on the schedule differs
// between seeds. There is one processor and no preemption; races that no schedule shows are found
// by races.cpp instead.
//
// One launch at a time, from one thread of the host.
//
// Stricter than a GPU on purpose: a barrier or a mask that names threads which have left the kernel
// is an error here, while hardware since Volta lets it pass. Blocks tell each other things
// by atomics alone: what lies beside a flag is a race, for fences are not known here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace simt {

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;         // of a block
constexpr size_t kMaxShared = 48 * 1024;  // of a block, without asking the driver for more

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

// What threadIdx and its kin are, for the thread that runs.
struct Here {
  Dim thread, block, block_dim, grid_dim;
};
extern Here here;

struct Site {
  const char* file;
  int line;
};

struct Block;
struct Warp;
struct Stack;

struct Thread {
  unsigned index;  // in its block
  Block* block;
  Warp* warp;
  int lane;
  std::unique_ptr<Stack> stack;  // from its first step to its last
  void* context = nullptr;       // where it goes on
  const char* waits_in = nullptr;
  Site site{};
  uint64_t result = 0;        // of its last collective
  uint64_t changes_seen = 0;  // Launch::changes_ at its last atomic operation
  // races.cpp: what this thread knows of its warp's clocks; its own stands at [lane].
  uint32_t clock[kLanes] = {};
};

// The lanes of one mask on their way through a collective. Masks that are under way at once have no
// lane in common, so the lowest lane of a mask finds its group.
struct Group {
  unsigned mask = 0, arrived = 0;
  const char* collective = nullptr;
  Site site{};
};

struct Warp {
  Thread* lanes[kLanes] = {};
  unsigned present = 0, exited = 0;
  uint64_t value[kLanes] = {};
  int source[kLanes] = {};
  Group groups[kLanes];
};

// Around shared arrays lies memory that is nobody's, to tell who goes there. AddressSanitizer has
// its own.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kMargin = 0;
#else
constexpr size_t kMargin = 256;
#endif

struct SharedArray {
  const void* declaration;
  const char* name;
  std::unique_ptr<unsigned char[]> memory;
  size_t size;
  unsigned char* data() const { return memory.get() + kMargin; }
};

struct Block {
  unsigned index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<SharedArray> shared;
  unsigned arrived = 0, exited = 0;
  const Thread* first_arrived = nullptr;
  uint32_t barriers = 0;             // passed
  bool vote = false, voted = false;  // of __syncthreads_or: so far, and of the last one
};

extern Thread* running;  // nobody while the host runs

// Is it the machine's own code that runs? Its memory is no kernel's business.
extern bool in_machine;
struct InMachine {
  InMachine() { in_machine = true; }
  ~InMachine() { in_machine = false; }
};

// Called by a thread: ends the launch with this message, and does not return.
[[noreturn]] void fail(const std::string& what);

// Did any thread of the block come here with a vote?
bool barrier(Site site, bool vote = false);

// A collective of the lanes in `mask`: each brings a value and gets, without `fold`, the value of
// the lane `source`, else what `fold` makes of all of them.
using Fold = uint64_t (*)(const uint64_t* values, unsigned mask);
uint64_t collective(const char* name, unsigned mask, uint64_t value, int source, Fold fold,
                    Site site);

// The block's array of this declaration, made of poison by the first thread that comes here.
void* shared_array(const void* declaration, const char* name, size_t bytes);
void* dynamic_shared();

// An atomic operation, called for at `code`, happens when this returns: the one place where others
// may run in between.
enum class Atomic { load, update };
void atomic(const void* address, size_t bytes, const void* code, Atomic kind = Atomic::update);

// Called in a loop by a thread that has not yet seen what it looks for: it goes on when an atomic
// operation has changed memory since its last one. Nothing else can help it, so that a wait which
// nobody ends is a deadlock and not forever.
void pause(Site site);

// Runs body() as every thread of the grid. Not 0 if something went wrong, which last_error() tells.
int launch(const void* kernel, Dim grid, Dim block, size_t shared_bytes,
           const std::function<void()>& body);

const std::string& last_error();

// What fresh memory holds: neither 0 nor -1, and something else under every seed of 64.
void poison(void* memory, size_t bytes);

// What races.cpp needs to hear. It knows memory accesses from the compiler's own instrumentation.
void race_launch();
void race_syncwarp(Warp& warp, unsigned mask);
void race_atomic(const void* address, size_t bytes, const void* code, Atomic kind);
void race_forget(const void* address, size_t bytes);

}  // namespace simt
