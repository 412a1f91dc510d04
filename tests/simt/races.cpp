// Races between threads of a kernel, whatever the schedule.
//
// The kernels are compiled with -fsanitize=thread, which makes GCC announce each access to memory
// that others could see (all but what memcpy and memset do when they are called); but the functions
// that hear of it are these, not ThreadSanitizer's, which knows neither warps nor barriers. Two
// accesses of different threads to one byte, one of them a write, are a race unless something
// orders them: a barrier of their block between them, or a __syncwarp of both. Blocks are ordered
// by nothing, and atomics only exclude each other. A read of shared memory that no thread has
// written is reported as well.
//
// A byte remembers its last write and two of its reads since, which is what it takes for most races
// and keeps the cost at a few comparisons an access (the idea of Flanagan and Freund 2009). A write
// can therefore hide an earlier one from a reader that races with both.
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "fiber.h"
#include "report.h"
#include "runtime.h"

namespace simt {
namespace {

struct Access {
  uint32_t block = 0, thread = 0;  // block 0: none; they count from 1
  uint32_t barriers = 0, clock = 0;
  const char* code = nullptr;
  bool atomic = false;
};

struct Byte {
  Access write, reads[2];
};

constexpr uintptr_t kPage = 4096;
struct Page {
  Byte bytes[kPage];
};
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;

Byte& byte_at(uintptr_t address) {
  std::unique_ptr<Page>& page = pages[address / kPage];
  if (page == nullptr) page = std::make_unique<Page>();
  return page->bytes[address % kPage];
}

bool same_warp(const Access& a, const Access& b) {
  return a.block == b.block && a.thread / kLanes == b.thread / kLanes;
}

bool ordered(const Access& before, const Access& now) {
  if (before.block != now.block) return before.block == 0;
  if (before.thread == now.thread || before.barriers < now.barriers) return true;
  return same_warp(before, now) && before.clock <= running->clock[before.thread % kLanes];
}

// The block's shared array that an address lies in, or in the margins of.
const SharedArray* shared_at(uintptr_t address) {
  for (const SharedArray& array : running->block->shared) {
    const auto first = reinterpret_cast<uintptr_t>(array.data());
    if (address + kMargin >= first && address < first + array.size + kMargin) return &array;
  }
  return nullptr;
}

std::string place(uintptr_t address, const SharedArray* array) {
  if (array == nullptr) return "global memory";
  const auto offset = static_cast<intptr_t>(address - reinterpret_cast<uintptr_t>(array->data()));
  return "byte " + std::to_string(offset) + " of shared " + array->name;
}

void check(const Access& before, const char* what, const Access& now, const char* doing,
           uintptr_t address) {
  if (ordered(before, now) || (before.atomic && now.atomic)) return;
  fail(std::string("race: ") + doing + " " + place(address, shared_at(address)) + " in " +
       symbol(now.code) + ", which block " + std::to_string(before.block - 1) + ", thread " +
       std::to_string(before.thread) + " " + what + " in " + symbol(before.code) +
       " with nothing to order them");
}

void access(const void* memory, size_t size, bool write, bool atomic, const void* code) {
  if (in_machine || running->stack->holds(memory) || (memory >= &here && memory < &here + 1)) {
    return;
  }
  const Access now{running->block->index + 1,          running->index,
                   running->block->barriers,           running->clock[running->lane],
                   static_cast<const char*>(code) - 1, atomic};
  const auto first = reinterpret_cast<uintptr_t>(memory);
  for (uintptr_t address = first; address < first + size; ++address) {
    const SharedArray* shared = shared_at(address);
    if (shared != nullptr &&
        address - reinterpret_cast<uintptr_t>(shared->data()) >= shared->size) {
      fail(std::string(write ? "writes " : "reads ") + place(address, shared) + ", which has " +
           std::to_string(shared->size) + ", in " + symbol(now.code));
    }
    Byte& byte = byte_at(address);
    if (write) {
      check(byte.write, "has written", now, "writes", address);
      for (const Access& read : byte.reads) check(read, "has read", now, "writes", address);
      byte = {now, {}};
      continue;
    }
    check(byte.write, "has written", now, "reads", address);
    if (byte.write.block == 0 && shared != nullptr) {
      fail("reads " + place(address, shared) + " in " + symbol(now.code) +
           ", which nobody has written");
    }
    // Readers of two warps, if there are: no __syncwarp can order both before a writer.
    Access &one = byte.reads[0], &other = byte.reads[1];
    if (one.block == 0 || (same_warp(one, now) && ordered(one, now))) {
      one = now;
    } else if (!same_warp(one, now) || other.block == 0 || same_warp(one, other)) {
      other = now;
    }
  }
}

}  // namespace

void race_launch() { pages.clear(); }

// Each lane of the mask now knows what all of them knew, and goes on with a new time of its own.
void race_syncwarp(Warp& warp, unsigned mask) {
  uint32_t latest[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1) == 0) continue;
    for (int j = 0; j < kLanes; ++j) {
      if (warp.lanes[i]->clock[j] > latest[j]) latest[j] = warp.lanes[i]->clock[j];
    }
  }
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1) == 0) continue;
    for (int j = 0; j < kLanes; ++j) warp.lanes[i]->clock[j] = latest[j];
    ++warp.lanes[i]->clock[i];
  }
}

void race_atomic(const void* address, size_t bytes, const void* code, Atomic kind) {
  access(address, bytes, kind == Atomic::update, true, code);
}

void race_forget(const void* memory, size_t size) {
  if (pages.empty()) return;
  const auto first = reinterpret_cast<uintptr_t>(memory);
  for (uintptr_t address = first; address < first + size; ++address) byte_at(address) = {};
}

}  // namespace simt

// What -fsanitize=thread calls.

#define SIMT_HOOKS(bytes)                                              \
  void __tsan_read##bytes(void* p) {                                   \
    simt::access(p, bytes, false, false, __builtin_return_address(0)); \
  }                                                                    \
  void __tsan_write##bytes(void* p) {                                  \
    simt::access(p, bytes, true, false, __builtin_return_address(0));  \
  }                                                                    \
  void __tsan_unaligned_read##bytes(void* p) {                         \
    simt::access(p, bytes, false, false, __builtin_return_address(0)); \
  }                                                                    \
  void __tsan_unaligned_write##bytes(void* p) {                        \
    simt::access(p, bytes, true, false, __builtin_return_address(0));  \
  }

extern "C" {
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)
void __tsan_read_range(void* p, size_t n) {
  simt::access(p, n, false, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t n) {
  simt::access(p, n, true, false, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
// Reference counts and guards of the host's code.
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t* p, uint32_t value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
}
