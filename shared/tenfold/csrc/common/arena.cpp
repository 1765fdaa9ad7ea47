#include "common/arena.h"

#include <atomic>
#include <cstdlib>
#include <vector>

namespace tenfold {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kTail = 64;
constexpr size_t kFirstBlock = size_t{1} << 20;
constexpr size_t kKeep = size_t{64} << 20;

std::atomic<int64_t> bytes_in_use{0};
std::atomic<int64_t> bytes_peak{0};
std::atomic<uint64_t> cache_epoch{0};

void note_use(int64_t delta) {
  const int64_t now = bytes_in_use.fetch_add(delta, std::memory_order_relaxed) + delta;
  int64_t peak = bytes_peak.load(std::memory_order_relaxed);
  while (now > peak && !bytes_peak.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

}  // namespace

class Arena {
 public:
  ~Arena() { free_all(); }

  void* allocate(size_t bytes) {
    const size_t need = (bytes + kTail + kAlign - 1) / kAlign * kAlign;
    while (current_ < blocks_.size() && offset_ + need > blocks_[current_].size) {
      ++current_;
      offset_ = 0;
    }
    if (current_ == blocks_.size()) add_block(need);
    void* p = blocks_[current_].data + offset_;
    offset_ += need;
    in_use_ += need;
    note_use(static_cast<int64_t>(need));
    return p;
  }

  ArenaMark mark() const { return {current_, offset_, in_use_}; }

  void release(const ArenaMark& mark) {
    note_use(-static_cast<int64_t>(in_use_ - mark.in_use));
    current_ = mark.block;
    offset_ = mark.offset;
    in_use_ = mark.in_use;
    if (in_use_ == 0) tidy();
  }

  void free_all() {
    for (const Block& block : blocks_) std::free(block.data);
    blocks_.clear();
    total_ = current_ = offset_ = 0;
  }

 private:
  struct Block {
    char* data;
    size_t size;
  };

  void add_block(size_t need) {
    size_t size = total_ > kFirstBlock ? total_ : kFirstBlock;
    if (size > kKeep) size = kKeep;
    if (size < need) size = need;
    size = (size + kAlign - 1) / kAlign * kAlign;
    blocks_.reserve(blocks_.size() + 1);
    char* data = static_cast<char*>(std::aligned_alloc(kAlign, size));
    if (data == nullptr) throw std::bad_alloc();
    blocks_.push_back({data, size});
    total_ += size;
    current_ = blocks_.size() - 1;
    offset_ = 0;
  }

  // Nothing is in use: several blocks become one of their total size, and more than the cap is given back.
  void tidy() {
    const uint64_t epoch = cache_epoch.load(std::memory_order_relaxed);
    if (epoch != epoch_) {
      epoch_ = epoch;
      free_all();
      return;
    }
    if (blocks_.size() <= 1 && total_ <= kKeep) return;
    const size_t want = total_ < kKeep ? total_ : kKeep;
    free_all();
    char* data = static_cast<char*>(std::aligned_alloc(kAlign, want));
    if (data == nullptr) return;
    blocks_.push_back({data, want});
    total_ = want;
  }

  std::vector<Block> blocks_;
  size_t current_ = 0;
  size_t offset_ = 0;
  size_t in_use_ = 0;
  size_t total_ = 0;
  uint64_t epoch_ = 0;
};

Arena& thread_arena() {
  thread_local Arena arena;
  return arena;
}

void* arena_allocate(Arena& arena, size_t bytes) { return arena.allocate(bytes); }
ArenaMark arena_mark(const Arena& arena) { return arena.mark(); }
void arena_release(Arena& arena, const ArenaMark& mark) { arena.release(mark); }

void arena_empty_cache() {
  cache_epoch.fetch_add(1, std::memory_order_relaxed);
  Scratch own;  // its release sees the new epoch and frees this thread's blocks
}

int64_t arena_peak(bool reset) {
  const int64_t peak = bytes_peak.load(std::memory_order_relaxed);
  if (reset) bytes_peak.store(bytes_in_use.load(std::memory_order_relaxed), std::memory_order_relaxed);
  return peak;
}

}  // namespace tenfold
