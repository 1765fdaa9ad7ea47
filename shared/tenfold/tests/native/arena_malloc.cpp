// Stands in for csrc/common/arena.cpp: one allocation for each buffer, exactly as large as promised, filled with a
// pattern, so that sanitizers see what the arena would hide and stale content cannot look like zeros.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/arena.h"

namespace tenfold {

class Arena {
 public:
  std::vector<void*> buffers;
};

Arena& thread_arena() {
  thread_local Arena arena;
  return arena;
}

void* arena_allocate(Arena& arena, size_t bytes) {
  constexpr size_t kAlign = 64;
  constexpr size_t kTail = 64;
  // posix_memalign keeps the exact size, so that the red zone begins right behind the promised tail.
  void* p = nullptr;
  if (posix_memalign(&p, kAlign, bytes + kTail) != 0) throw std::bad_alloc();
  std::memset(p, 0xCD, bytes + kTail);
  arena.buffers.push_back(p);
  return p;
}

ArenaMark arena_mark(const Arena& arena) { return {arena.buffers.size(), 0, 0}; }

void arena_release(Arena& arena, const ArenaMark& mark) {
  while (arena.buffers.size() > mark.block) {
    std::free(arena.buffers.back());
    arena.buffers.pop_back();
  }
}

void arena_empty_cache() {}
int64_t arena_peak(bool) { return 0; }

}  // namespace tenfold
