// Fibers: stacks, and the few instructions that change from one to another. swapcontext would do,
// and does on processors other than x86-64, but tells the kernel about signals each time: a thread
// that waits at a barrier then costs 490 ns instead of 33.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT
#endif
#if defined(SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace simt {

// Memory with a page at its lower end that nobody may touch. Stacks are used again: to map one
// costs more than most threads' whole work.
struct Stack {
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kSize = 256 * 1024;
#else
  static constexpr size_t kSize = 64 * 1024;
#endif
  static constexpr size_t kGuard = 64 * 1024;  // the largest page there is

  Stack() {
    if (!unused().empty()) {
      bottom = unused().back();
      unused().pop_back();
      return;
    }
    void* memory = mmap(nullptr, kGuard + kSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) std::abort();
    bottom = static_cast<char*>(memory) + kGuard;
  }
  ~Stack() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bottom, kSize);  // frames that were never left
#endif
    unused().push_back(bottom);
  }
  Stack(const Stack&) = delete;

  bool holds(const void* address) const { return address >= bottom && address < bottom + kSize; }

  char* bottom;

 private:
  static std::vector<char*>& unused() {
    static std::vector<char*> stacks;
    return stacks;
  }
};

using Entry = void (*)(void*);

#if !defined(SIMT_UCONTEXT)

extern "C" void simt_switch(void** from, void* to);
// Saves what the calling convention lets a callee keep; the rest of the registers is free.
asm(R"(
.pushsection .text
.local simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
.local simt_begin
.type simt_begin, @function
simt_begin:
  movq %r12, %rdi
  callq *%r13
  ud2
.size simt_begin, .-simt_begin
.popsection
)");
extern "C" void simt_begin();

inline void* new_context(Stack& stack, Entry entry, void* argument) {
  void** top = reinterpret_cast<void**>(stack.bottom + Stack::kSize);
  *--top = nullptr;  // keeps the stack aligned, and ends a debugger's walk
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(simt_begin);
  *--top = nullptr;                         // rbp
  *--top = nullptr;                         // rbx
  *--top = argument;                        // r12
  *--top = reinterpret_cast<void*>(entry);  // r13
  *--top = nullptr;                         // r14
  *--top = nullptr;                         // r15
  return top;
}

#else

// The context is a ucontext_t: a new one lies at the top of its stack, a suspended one in the frame
// that waits in simt_switch.
inline void simt_switch(void** from, void* to) {
  ucontext_t self;
  *from = &self;
  swapcontext(&self, static_cast<ucontext_t*>(to));
}

inline void* new_context(Stack& stack, Entry entry, void* argument) {
  struct Start {
    ucontext_t context;
    Entry entry;
    void* argument;
  };
  const size_t room = (sizeof(Start) + 63) / 64 * 64;
  auto* start = new (stack.bottom + Stack::kSize - room) Start{{}, entry, argument};
  getcontext(&start->context);
  start->context.uc_stack.ss_sp = stack.bottom;
  start->context.uc_stack.ss_size = Stack::kSize - room;
  const auto begin = [](unsigned high, unsigned low) {  // makecontext passes ints alone
    const auto* self = reinterpret_cast<Start*>(uint64_t{high} << 32 | low);
    self->entry(self->argument);
  };
  const auto address = reinterpret_cast<uint64_t>(start);
  makecontext(&start->context, reinterpret_cast<void (*)()>(+begin), 2,
              static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
  return start;
}

#endif

// From the host into a fiber and back. AddressSanitizer must hear of every change of stacks; a null
// place for its fake stack says that the fiber is done.
class Ferry {
 public:
  void enter([[maybe_unused]] const Stack& stack, void* context) {
    void* fake_stack = nullptr;
    depart(&fake_stack, stack.bottom, Stack::kSize);
    simt_switch(&host_, context);
    arrive(fake_stack, nullptr, nullptr);
  }
  void begin() { arrive(nullptr, &host_bottom_, &host_size_); }  // first thing in a new fiber
  void leave(void*& context) {
    void* fake_stack = nullptr;
    depart(&fake_stack, host_bottom_, host_size_);
    simt_switch(&context, host_);
    arrive(fake_stack, &host_bottom_, &host_size_);
  }
  [[noreturn]] void leave_for_good() {
    depart(nullptr, host_bottom_, host_size_);
    simt_switch(&nowhere_, host_);
    std::abort();
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static void depart(void** fake_stack, const void* bottom, size_t size) {
    __sanitizer_start_switch_fiber(fake_stack, bottom, size);
  }
  static void arrive(void* fake_stack, const void** bottom, size_t* size) {
    __sanitizer_finish_switch_fiber(fake_stack, bottom, size);
  }
#else
  static void depart(void**, const void*, size_t) {}
  static void arrive(void*, const void**, size_t*) {}
#endif

  void* host_ = nullptr;
  void* nowhere_ = nullptr;  // not on the stack that is left: AddressSanitizer may have unmapped it
  const void* host_bottom_ = nullptr;
  size_t host_size_ = 0;
};

}  // namespace simt
