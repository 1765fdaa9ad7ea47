// Scratch memory of the kernels: a bump allocator per thread that keeps up to 64 MB between calls, because
// fresh pages cost several times the work done on them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>

namespace tenfold {

class Arena;
Arena& thread_arena();
void* arena_allocate(Arena& arena, size_t bytes);
struct ArenaMark {
  size_t block = 0;
  size_t offset = 0;
  size_t in_use = 0;
};
ArenaMark arena_mark(const Arena& arena);
void arena_release(Arena& arena, const ArenaMark& mark);

// Frees what the calling thread's arena keeps and asks the other threads to do so at their next use.
void arena_empty_cache();
// Largest number of scratch bytes in use at once, over all threads, since the last reset.
int64_t arena_peak(bool reset);

// Everything allocated through a Scratch is released when it goes out of scope (last in, first out).
class Scratch {
 public:
  Scratch() : arena_(thread_arena()), mark_(arena_mark(arena_)) {}
  ~Scratch() { arena_release(arena_, mark_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Uninitialised, 64-byte aligned, with 64 readable and writable bytes behind the end for vector tails.
  template <class T>
  T* take(int64_t count) {
    if (count < 0 || static_cast<uint64_t>(count) > (std::numeric_limits<size_t>::max() / 2) / sizeof(T))
      throw std::bad_alloc();
    return static_cast<T*>(arena_allocate(arena_, static_cast<size_t>(count) * sizeof(T)));
  }

  template <class T>
  T* zeros(int64_t count) {
    T* p = take<T>(count);
    __builtin_memset(static_cast<void*>(p), 0, static_cast<size_t>(count) * sizeof(T));
    return p;
  }

 private:
  Arena& arena_;
  ArenaMark mark_;
};

}  // namespace tenfold
