// The machine: fibers, blocks, warps, and the schedule that a seed draws.
#include "runtime.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <utility>

#include "fiber.h"
#include "report.h"

namespace simt {

Here here;
Thread* running = nullptr;
bool in_machine = true;

namespace {

uint64_t seed = 0;
std::map<const void*, int64_t> launches;  // by kernel
std::string error_of_last_launch;

int refusal = 0;       // the error of every launch, where it is not 0
std::string left_out;  // "file:line" of a barrier that is passed by, to see what becomes of it

bool same(const Site& a, const Site& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

// One launch. Seed 0 runs threads and blocks in order, one block at a time; seed 1 the last first,
// two blocks at a time; greater ones at random, up to three blocks at a time.
class Launch {
 public:
  Launch(const void* kernel, Dim grid, Dim block, size_t shared_bytes,
         const std::function<void()>& body)
      : kernel_(kernel), grid_(grid), block_(block), shared_bytes_(shared_bytes), body_(body) {}

  // What went wrong, or nothing.
  std::string run() {
    std::vector<unsigned> order(grid_.x);
    std::iota(order.begin(), order.end(), 0u);
    if (seed == 1) std::reverse(order.begin(), order.end());
    if (seed > 1) std::shuffle(order.begin(), order.end(), random_);
    const size_t at_once = seed % 3 + 1;
    size_t started = 0;
    while (error_.empty() && (started < order.size() || !blocks_.empty())) {
      while (started < order.size() && blocks_.size() < at_once) start(order[started++]);
      if (ready_.empty()) {
        error_ = deadlock();
      } else {
        step(*next());
      }
    }
    return error_;
  }

  void wake(Thread& thread) { ready_.push_back(&thread); }

  // The running thread's atomic operation happens now.
  void touch(Atomic kind) {
    if (kind == Atomic::update) {
      ++changes_;
      for (Thread* thread : pausing_) wake(*thread);
      pausing_.clear();
    }
    running->changes_seen = changes_;
  }

  void pause(Site site) {
    if (running->changes_seen != changes_) return;
    pausing_.push_back(running);
    suspend("a wait for another thread", site);
  }

  // Gives the processor to others until woken.
  void suspend(const char* waits_in, Site site) {
    Thread& self = *running;
    self.waits_in = waits_in;
    self.site = site;
    ferry_.leave(self.context);
    in_machine = true;
    self.waits_in = nullptr;
  }

  [[noreturn]] void fail(const std::string& what) {
    const std::string kernel = symbol(kernel_);
    error_ = text("simt: %s, block %u, thread %u: ", kernel.c_str(), here.block.x, running->index);
    error_ += what;
    finish();
  }

  void* array(const void* declaration, const char* name, size_t bytes) {
    Block& block = *running->block;
    size_t used = bytes;
    for (const SharedArray& each : block.shared) {
      if (each.declaration == declaration) return each.data();
      used += each.size;
    }
    if (used > kMaxShared) fail(text("%s takes shared memory to %zu bytes", name, used));
    block.shared.push_back(
        {declaration, name, std::make_unique<unsigned char[]>(bytes + 2 * kMargin), bytes});
    poison(block.shared.back().data(), bytes);
    return block.shared.back().data();
  }

  void* dynamic_array() { return array(this, "dynamic memory", shared_bytes_); }

 private:
  void start(unsigned index) {
    blocks_.push_back(std::make_unique<Block>());
    Block& block = *blocks_.back();
    block.index = index;
    block.threads.resize(block_.x);
    block.warps.resize((block_.x + kLanes - 1) / kLanes);
    for (unsigned i = 0; i < block_.x; ++i) {
      Warp& warp = block.warps[i / kLanes];
      const int lane = static_cast<int>(i % kLanes);
      Thread& thread = block.threads[i];
      thread.index = i;
      thread.block = &block;
      thread.warp = &warp;
      thread.lane = lane;
      thread.clock[lane] = 1;
      warp.lanes[lane] = &thread;
      warp.present |= 1u << lane;
      wake(thread);
    }
  }

  Thread* next() {
    if (seed > 1) std::swap(ready_[random_() % ready_.size()], ready_.back());
    Thread* thread = seed == 0 ? ready_.front() : ready_.back();
    seed == 0 ? ready_.pop_front() : ready_.pop_back();
    return thread;
  }

  void step(Thread& thread) {
    running = &thread;
    here = {{thread.index}, {thread.block->index}, block_, grid_};
    if (thread.stack == nullptr) {
      thread.stack = std::make_unique<Stack>();
      thread.context = new_context(*thread.stack, begin, this);
    }
    ferry_.enter(*thread.stack, thread.context);
    running = nullptr;
    if (!std::exchange(finished_, false)) return;
    thread.stack.reset();
    Block& block = *thread.block;
    if (error_.empty() && block.exited == block.threads.size()) retire(block);
  }

  static void begin(void* launch) {
    static_cast<Launch*>(launch)->ferry_.begin();
    static_cast<Launch*>(launch)->live();
  }

  [[noreturn]] void live() {
    in_machine = false;
    body_();
    in_machine = true;
    Thread& self = *running;
    Block& block = *self.block;
    if (block.arrived > 0) {
      const Thread& first = *block.first_arrived;
      fail(text("leaves the kernel, while thread %u waits in __syncthreads at %s", first.index,
                name(first.site).c_str()));
    }
    for (const Group& group : self.warp->groups) {
      if (group.arrived != 0 && (group.mask >> self.lane & 1) != 0) {
        fail(text("leaves the kernel, while %s at %s waits for its lane %d", group.collective,
                  name(group.site).c_str(), self.lane));
      }
    }
    ++block.exited;
    self.warp->exited |= 1u << self.lane;
    finish();
  }

  [[noreturn]] void finish() {
    finished_ = true;
    ferry_.leave_for_good();
  }

  void retire(const Block& block) {
    for (const SharedArray& each : block.shared) race_forget(each.data(), each.size);
    blocks_.erase(std::find_if(blocks_.begin(), blocks_.end(),
                               [&](const auto& each) { return each.get() == &block; }));
  }

  std::string deadlock() const {
    std::string some;
    size_t waiting = 0;
    for (const auto& block : blocks_) {
      for (const Thread& thread : block->threads) {
        if (thread.waits_in == nullptr || ++waiting > 4) continue;
        some += text("%s block %u, thread %u in %s at %s", some.empty() ? "" : ";", block->index,
                     thread.index, thread.waits_in, name(thread.site).c_str());
      }
    }
    return text("simt: %s: deadlock of %zu threads:", symbol(kernel_).c_str(), waiting) + some;
  }

  const void* kernel_;
  const Dim grid_, block_;
  const size_t shared_bytes_;
  const std::function<void()>& body_;
  std::mt19937_64 random_{seed};
  std::vector<std::unique_ptr<Block>> blocks_;  // under way
  std::deque<Thread*> ready_;
  std::vector<Thread*> pausing_;
  uint64_t changes_ = 0;  // by atomic operations
  Ferry ferry_;
  bool finished_ = false;  // the thread that ran last will not go on
  std::string error_;
};

Launch* current = nullptr;

}  // namespace

void fail(const std::string& what) {
  in_machine = true;
  current->fail(what);
}

bool barrier(Site site, bool vote) {
  const InMachine machine;
  if (!left_out.empty() && name(site) == left_out) return vote;
  Block& block = *running->block;
  if (block.exited > 0) fail("__syncthreads at " + name(site) + " after threads left the kernel");
  if (block.arrived == 0) block.first_arrived = running;
  const Thread& first = *block.first_arrived;
  if (&first != running && !same(first.site, site)) {
    fail(text("__syncthreads at %s, while thread %u waits in that at %s", name(site).c_str(),
              first.index, name(first.site).c_str()));
  }
  block.vote |= vote;
  if (++block.arrived == block.threads.size()) {
    block.arrived = 0;
    block.voted = std::exchange(block.vote, false);
    ++block.barriers;
    for (Thread& thread : block.threads) current->wake(thread);
  }
  current->suspend("__syncthreads", site);
  return block.voted;
}

uint64_t collective(const char* what, unsigned mask, uint64_t value, int source, Fold fold,
                    Site site) {
  const InMachine machine;
  if (!left_out.empty() && name(site) == left_out) return 0;
  Thread& self = *running;
  Warp& warp = *self.warp;
  const auto refuse = [&](const std::string& why) { fail(what + (" at " + name(site)) + why); };
  mask &= warp.present;
  if ((mask >> self.lane & 1) == 0) {
    refuse(text(" by lane %d, which is not in its mask %08x", self.lane, mask));
  }
  if (const unsigned gone = mask & warp.exited; gone != 0) {
    refuse(text(" waits for lane %d, which has left the kernel", __builtin_ctz(gone)));
  }
  if (fold == nullptr && (mask >> source & 1) == 0) {
    refuse(text(" reads lane %d, which is not in its mask %08x", source, mask));
  }
  for (const Group& other : warp.groups) {
    if (other.arrived == 0 || (other.mask & mask) == 0) continue;
    if (other.mask != mask || std::strcmp(other.collective, what) != 0) {
      refuse(text(" with mask %08x, while %s at %s with mask %08x waits", mask, other.collective,
                  name(other.site).c_str(), other.mask));
    }
  }
  Group& group = warp.groups[__builtin_ctz(mask)];
  group.mask = mask;
  group.collective = what;
  group.site = site;
  group.arrived |= 1u << self.lane;
  warp.value[self.lane] = value;
  warp.source[self.lane] = source;
  if (group.arrived == mask) {
    group.arrived = 0;
    if (std::strcmp(what, "__syncwarp") == 0) race_syncwarp(warp, mask);
    const uint64_t total = fold == nullptr ? 0 : fold(warp.value, mask);
    for (int i = 0; i < kLanes; ++i) {
      if ((mask >> i & 1) == 0) continue;
      warp.lanes[i]->result = fold == nullptr ? warp.value[warp.source[i]] : total;
      current->wake(*warp.lanes[i]);
    }
  }
  current->suspend(what, site);
  return self.result;
}

void* shared_array(const void* declaration, const char* name, size_t bytes) {
  const InMachine machine;
  return current->array(declaration, name, bytes);
}

void* dynamic_shared() {
  const InMachine machine;
  return current->dynamic_array();
}

void atomic(const void* address, size_t bytes, const void* code, Atomic kind) {
  race_atomic(address, bytes, code, kind);
  const InMachine machine;
  current->wake(*running);
  current->suspend("an atomic operation", {"", 0});
  current->touch(kind);
}

void pause(Site site) {
  const InMachine machine;
  current->pause(site);
}

int launch(const void* kernel, Dim grid, Dim block, size_t shared_bytes,
           const std::function<void()>& body) {
  if (refusal != 0) {
    error_of_last_launch = text("simt: refused with %d", refusal);
    return refusal;
  }
  if (grid.x == 0 || block.x == 0 || block.x > kMaxThreads || shared_bytes > kMaxShared) {
    error_of_last_launch =
        text("simt: %s: refused: %u blocks of %u threads, %zu bytes of shared memory",
             symbol(kernel).c_str(), grid.x, block.x, shared_bytes);
    return 1;
  }
  ++launches[kernel];
  race_launch();
  Launch launch(kernel, grid, block, shared_bytes, body);
  current = &launch;
  error_of_last_launch = launch.run();
  current = nullptr;
  return error_of_last_launch.empty() ? 0 : 1;
}

const std::string& last_error() { return error_of_last_launch; }

void poison(void* memory, size_t bytes) {
  if (bytes != 0) std::memset(memory, static_cast<int>(0xfe - seed % 64), bytes);
}

}  // namespace simt

// What Python sees.
extern "C" {

__attribute__((visibility("default"))) void simt_seed(uint64_t value) { simt::seed = value; }

// Every launch fails with this error of CUDA's from now on; 0: none does.
__attribute__((visibility("default"))) void simt_refuse(int error) { simt::refusal = error; }

// No launch waits at the barrier in this line, "file:line", from now on; nor at none, "".
__attribute__((visibility("default"))) void simt_leave_out(const char* barrier) {
  simt::left_out = barrier;
}

// A line "launches name" for each kernel.
__attribute__((visibility("default"))) const char* simt_launches() {
  static std::string lines;
  lines.clear();
  for (const auto& [kernel, count] : simt::launches) {
    lines += std::to_string(count) + " " + simt::symbol(kernel) + "\n";
  }
  return lines.c_str();
}
}
