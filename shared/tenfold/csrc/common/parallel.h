// Kernels are torch-free: the caller hands in how tasks are run (libtorch's pool, std::thread, or serially).
// Work is split by data size into numbered tasks, never by thread count, so results cannot depend on it.
#pragma once
#include <atomic>
#include <cstdint>
#include <new>

#include "common/isa.h"

namespace tenfold {

namespace device {
struct Stream;
}

struct Parallel {
  using Body = void (*)(void* context, int64_t task);
  // Runs body for every task in [0, tasks), in any order, and returns when all are done.
  void (*run)(int64_t tasks, Body body, void* context) = nullptr;
  int threads = 1;
  const device::Stream* stream = nullptr;  // CUDA kernels: where they are launched
};

}  // namespace tenfold

TENFOLD_BEGIN

// Calls f(task) for task in [0, tasks). An exception (only std::bad_alloc can occur in a kernel) never
// leaves a worker: it is noted and raised again on the calling thread.
template <class F>
void parallel_tasks(const Parallel& parallel, int64_t tasks, F&& f) {
  if (tasks <= 1 || parallel.threads <= 1 || parallel.run == nullptr) {
    for (int64_t task = 0; task < tasks; ++task) f(task);
    return;
  }
  struct Context {
    F* f;
    std::atomic<bool> failed;
  } context{&f, {false}};
  parallel.run(
      tasks,
      [](void* opaque, int64_t task) {
        auto* c = static_cast<Context*>(opaque);
        try {
          (*c->f)(task);
        } catch (...) {
          c->failed.store(true, std::memory_order_relaxed);
        }
      },
      &context);
  if (context.failed.load(std::memory_order_relaxed)) throw std::bad_alloc();
}

// Fixed split of [0, n) into pieces of `piece` items: f(task, begin, end).
template <class F>
void parallel_ranges(const Parallel& parallel, int64_t n, int64_t piece, F&& f) {
  const int64_t tasks = (n + piece - 1) / piece;
  parallel_tasks(parallel, tasks, [&](int64_t task) {
    const int64_t begin = task * piece;
    f(task, begin, begin + piece < n ? begin + piece : n);
  });
}

TENFOLD_END
