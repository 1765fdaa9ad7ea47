// The emulator behind emu.h: fibers, rendezvous, shadow memory, guard zones. Compiled without -fsanitize=thread.
#include "emu/emu.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace tenfold::emu {

Now now;

namespace {

constexpr int kWarp = 32;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kSharedBytes = 48 * 1024;
constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned char kGuard = 0xA5;

// ------------------------------------------------------------------ fibers

enum class Status { ready, at_barrier, at_warp, done };
enum class WarpOp { ballot, shuffle, sync };

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  char* stack = nullptr;
  Status status = Status::done;
  Site site{};
  WarpOp op{};
  unsigned mask = 0;
  uint64_t value = 0;  // posted, then the result
  int source = 0;
  uint32_t warp_epoch = 0;
};

struct Stamp {
  uint32_t run = 0;
  uint32_t block = 0;
  uint32_t thread = 0;
  uint32_t epoch = 0;
  uint32_t warp_epoch = 0;
};
enum Readers : uint8_t { one, one_warp, one_block, blocks };
struct Cell {
  Stamp write, read;
  uint8_t readers = one;
  bool atomic = false;  // the last write was
  bool known = false;   // somebody wrote it
};

struct Buffer {
  char* begin;
  char* end;
  size_t granule;
  Content content;
  std::unique_ptr<Cell[], void (*)(void*)> cells;
};
struct Guard {
  char* begin;
  size_t bytes;
};
struct SharedSlot {
  const void* tag;
  Buffer buffer;
};

struct Machine {
  std::vector<Fiber> fibers;
#if defined(__x86_64__)
  void* scheduler = nullptr;
#else
  ucontext_t scheduler;
#endif
  int current = -1;  // fiber that runs, or -1: host code
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  const char* kernel = "";
  const char* arguments = nullptr;
  size_t argument_bytes = 0;
  unsigned threads = 0;
  uint32_t run = 0, block = 0, epoch = 0;
  int host_copies = 0;
  std::string failure;
  std::vector<Buffer> buffers;  // by address
  size_t last = 0;
  std::vector<Guard> guards;
  std::vector<SharedSlot> shared;
  std::vector<char> arena;
  size_t arena_used = 0;
  int seed = 0;
  std::mt19937 random;
  const char* image_begin = nullptr;  // of this shared object: constants of kernels
  const char* image_end = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* host_stack_fake = nullptr;
  const void* host_stack = nullptr;
  size_t host_stack_bytes = 0;
#endif
};
Machine m;

#if defined(__x86_64__)
extern "C" void tenfold_emu_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl tenfold_emu_switch
.hidden tenfold_emu_switch
.type tenfold_emu_switch, @function
tenfold_emu_switch:
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
.size tenfold_emu_switch, .-tenfold_emu_switch
)");
#endif

[[noreturn]] void fiber_main();

void to_scheduler() {
  Fiber& f = m.fibers[static_cast<size_t>(m.current)];
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(f.status == Status::done ? nullptr : &fake, m.host_stack, m.host_stack_bytes);
#endif
#if defined(__x86_64__)
  tenfold_emu_switch(&f.stack_pointer, m.scheduler);
#else
  swapcontext(&f.context, &m.scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &m.host_stack, &m.host_stack_bytes);
#endif
}

void to_fiber(int index) {
  Fiber& f = m.fibers[static_cast<size_t>(index)];
  m.current = index;
  const unsigned t = static_cast<unsigned>(index);
  now.thread = {t % now.block_dim.x, t / now.block_dim.x % now.block_dim.y, t / (now.block_dim.x * now.block_dim.y)};
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&m.host_stack_fake, f.stack, kStackBytes);
#endif
#if defined(__x86_64__)
  tenfold_emu_switch(&m.scheduler, f.stack_pointer);
#else
  swapcontext(&m.scheduler, &f.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(m.host_stack_fake, nullptr, nullptr);
#endif
  m.current = -1;
}

[[noreturn]] void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.host_stack, &m.host_stack_bytes);
#endif
  m.body(m.context);
  m.fibers[static_cast<size_t>(m.current)].status = Status::done;
  to_scheduler();
  std::abort();
}

void start_fiber(Fiber& f) {
  if (f.stack == nullptr)
    f.stack = static_cast<char*>(
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (f.stack == MAP_FAILED) throw std::bad_alloc();
#if defined(__x86_64__)
  auto* top = reinterpret_cast<void**>(f.stack + kStackBytes) - 1;  // the ABI wants 8 mod 16 at the entry
  *--top = reinterpret_cast<void*>(&fiber_main);  // where the first switch returns to
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.stack_pointer = top;
#else
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = kStackBytes;
  f.context.uc_link = nullptr;
  makecontext(&f.context, reinterpret_cast<void (*)()>(&fiber_main), 0);
#endif
  f.status = Status::ready;
  f.warp_epoch = 0;
}

std::string where(const Site& site) {
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash == nullptr ? site.file : slash + 1) + ":" + std::to_string(site.line);
}

// Notes the first broken rule; the scheduler stops the launch. Called in a fiber, it never comes back.
void fail(const std::string& what) {
  if (m.failure.empty()) {
    m.failure = std::string("emulator: kernel ") + m.kernel + ", block " + std::to_string(m.block);
    if (m.current >= 0) m.failure += ", thread " + std::to_string(m.current);
    m.failure += ": " + what;
  }
  if (m.current >= 0) to_scheduler();
}

// ------------------------------------------------------------------ shadow memory

Buffer make_buffer(char* begin, size_t bytes, size_t element, Content content) {
  const size_t granule = element < 4 ? element : 4;
  const size_t cells = (bytes + granule - 1) / granule + 1;
  Buffer buffer{begin, begin + bytes, granule, content, {nullptr, std::free}};
  buffer.cells.reset(static_cast<Cell*>(std::calloc(cells, sizeof(Cell))));
  if (buffer.cells == nullptr) throw std::bad_alloc();
  return buffer;
}

Buffer* find_buffer(const char* address) {
  if (m.last < m.buffers.size()) {
    Buffer& b = m.buffers[m.last];
    if (address >= b.begin && address < b.end) return &b;
  }
  auto after = std::upper_bound(m.buffers.begin(), m.buffers.end(), address,
                                [](const char* a, const Buffer& b) { return a < b.begin; });
  if (after == m.buffers.begin()) return nullptr;
  --after;
  if (address >= after->end) return nullptr;
  m.last = static_cast<size_t>(after - m.buffers.begin());
  return &*after;
}

Stamp stamp() {
  const Fiber& f = m.fibers[static_cast<size_t>(m.current)];
  return {m.run, m.block, static_cast<uint32_t>(m.current), m.epoch, f.warp_epoch};
}

bool same_warp(const Stamp& a, const Stamp& b) { return a.thread / kWarp == b.thread / kWarp; }

// Whether what happened at `old` is over for a thread at `t`.
bool ordered(const Stamp& old, const Stamp& t) {
  if (old.run != t.run) return true;
  if (old.block != t.block) return false;
  if (old.thread == t.thread || old.epoch != t.epoch) return true;
  return same_warp(old, t) && old.warp_epoch != t.warp_epoch;
}

bool readers_ordered(const Cell& c, const Stamp& t) {
  const Stamp& r = c.read;
  if (r.run != t.run) return true;
  switch (c.readers) {
    case one: return ordered(r, t);
    case one_warp: return r.block == t.block && (r.epoch != t.epoch || (same_warp(r, t) && r.warp_epoch != t.warp_epoch));
    case one_block: return r.block == t.block && r.epoch != t.epoch;
    default: return false;
  }
}

void note_reader(Cell& c, const Stamp& t) {
  const Stamp& r = c.read;
  if (r.run != t.run || (r.block == t.block && r.epoch != t.epoch)) {
    c.readers = one;
  } else if (r.block != t.block) {
    c.readers = blocks;
  } else if (c.readers <= one_warp && same_warp(r, t) && r.warp_epoch != t.warp_epoch) {
    c.readers = one;  // all readers so far are over for this warp, and another one would meet this reader
  } else if (r.thread != t.thread) {
    c.readers = std::max<uint8_t>(c.readers, same_warp(r, t) ? one_warp : one_block);
  }
  c.read = t;
}

std::string describe(const Buffer& b, const char* address, const char* verb, const Stamp& other) {
  return std::string(verb) + " at byte " + std::to_string(address - b.begin) + " of a buffer of " +
         std::to_string(b.end - b.begin) + " bytes, in conflict with thread " + std::to_string(other.thread) +
         " of block " + std::to_string(other.block);
}

void check_cell(const Buffer& b, Cell& c, const char* address, Access kind, const Stamp& t) {
  const bool write_ordered = ordered(c.write, t);
  if (kind == Access::read) {
    if (!c.known && b.content == Content::fresh)
      return fail("read of a word that nobody wrote, at byte " + std::to_string(address - b.begin) +
                  " of a buffer of " + std::to_string(b.end - b.begin) + " bytes");
    if (!write_ordered) return fail(describe(b, address, "race: read", c.write));
    return note_reader(c, t);
  }
  const bool atomic = kind == Access::atomic;
  if (atomic && !c.known && b.content == Content::fresh)
    return fail("atomic on a word that nobody wrote, at byte " + std::to_string(address - b.begin));
  if (!write_ordered && !(atomic && c.atomic)) return fail(describe(b, address, "race: write", c.write));
  if (!readers_ordered(c, t)) return fail(describe(b, address, "race: write of a word being read", c.read));
  c.write = t;
  c.atomic = atomic;
  c.known = true;
}

void check_buffer(Buffer& b, const char* address, size_t bytes, Access kind) {
  if (address + bytes > b.end) return fail("access across the end of a buffer of " + std::to_string(b.end - b.begin) + " bytes");
  if (kind != Access::read && b.content == Content::constant) return fail("write to an input");
  const Stamp t = stamp();
  const size_t first = static_cast<size_t>(address - b.begin) / b.granule;
  const size_t last = (static_cast<size_t>(address - b.begin) + bytes - 1) / b.granule;
  for (size_t i = first; i <= last; ++i) check_cell(b, b.cells[i], address, kind, t);
}

bool harmless(const char* address) {
  const Fiber& f = m.fibers[static_cast<size_t>(m.current)];
  if (address >= f.stack && address < f.stack + kStackBytes) return true;
  if (address >= m.arguments && address < m.arguments + m.argument_bytes) return true;
  if (address >= reinterpret_cast<char*>(&now) && address < reinterpret_cast<char*>(&now + 1)) return true;
  return address >= m.image_begin && address < m.image_end;
}

// Under AddressSanitizer nobody may touch a guard zone, and the access itself is reported.
void forbid(const Guard& g) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(g.begin, g.bytes);
#endif
  (void)g;
}

void allow(const Guard& g) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(g.begin, g.bytes);
#endif
  (void)g;
}

void check_guards() {
  for (const Guard& g : m.guards) {
    allow(g);
    for (size_t i = 0; i < g.bytes; ++i)
      if (static_cast<unsigned char>(g.begin[i]) != kGuard) return fail("a guard zone was written to");
    forbid(g);
  }
}

// ------------------------------------------------------------------ rendezvous

void wait(Status status, Site site) {
  Fiber& f = m.fibers[static_cast<size_t>(m.current)];
  f.status = status;
  f.site = site;
  to_scheduler();
}

bool same_site(const Site& a, const Site& b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

uint64_t warp_wait(WarpOp op, unsigned mask, uint64_t value, int source, Site site) {
  Fiber& f = m.fibers[static_cast<size_t>(m.current)];
  f.op = op;
  f.mask = mask;
  f.value = value;
  f.source = source;
  if (((mask >> (m.current % kWarp)) & 1u) == 0)
    fail("a lane calls a warp operation whose mask leaves it out, " + where(site));
  wait(Status::at_warp, site);
  return f.value;
}

// Lets a warp operation happen when exactly the lanes of its mask have come to it.
void try_warp(int index) {
  const Fiber& f = m.fibers[static_cast<size_t>(index)];
  const int first = index / kWarp * kWarp;
  unsigned arrived = 0;
  for (int lane = 0; lane < kWarp && first + lane < static_cast<int>(m.threads); ++lane) {
    const Fiber& o = m.fibers[static_cast<size_t>(first + lane)];
    if (o.status == Status::at_warp && o.mask == f.mask && o.op == f.op && same_site(o.site, f.site))
      arrived |= 1u << lane;
  }
  if (arrived != f.mask) return;
  uint64_t posted[kWarp] = {};
  unsigned votes = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (((arrived >> lane) & 1u) == 0) continue;
    posted[lane] = m.fibers[static_cast<size_t>(first + lane)].value;
    votes |= (posted[lane] != 0 ? 1u : 0u) << lane;
  }
  const WarpOp op = f.op;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (((arrived >> lane) & 1u) == 0) continue;
    Fiber& o = m.fibers[static_cast<size_t>(first + lane)];
    if (op == WarpOp::ballot) o.value = votes;
    if (op == WarpOp::shuffle) {
      if (((arrived >> o.source) & 1u) == 0) fail("a shuffle reads a lane outside its mask, " + where(o.site));
      o.value = posted[o.source];
    }
    if (op == WarpOp::sync) ++o.warp_epoch;
    o.status = Status::ready;
  }
}

void explain_standstill() {
  unsigned count[4] = {};
  const Fiber* at_barrier = nullptr;
  const Fiber* at_warp = nullptr;
  for (unsigned t = 0; t < m.threads; ++t) {
    const Fiber& f = m.fibers[t];
    ++count[static_cast<int>(f.status)];
    if (f.status == Status::at_warp) at_warp = &f;
    if (f.status == Status::at_barrier) {
      if (at_barrier != nullptr && !same_site(at_barrier->site, f.site))
        return fail("barriers at " + where(at_barrier->site) + " and at " + where(f.site) + " are reached by parts of the block");
      at_barrier = &f;
    }
  }
  if (at_warp != nullptr)
    return fail("lanes of the mask never come to the warp operation at " + where(at_warp->site));
  fail("the barrier at " + where(at_barrier->site) + " is reached by " + std::to_string(count[static_cast<int>(Status::at_barrier)]) +
       " of " + std::to_string(m.threads) + " threads");
}

// ------------------------------------------------------------------ orders

// Seed 0: ascending, 1: descending, others: shuffled.
template <class T>
void put_in_order(std::vector<T>& items) {
  if (m.seed == 1) std::reverse(items.begin(), items.end());
  if (m.seed > 1) std::shuffle(items.begin(), items.end(), m.random);
}

void run_round(const std::vector<int>& warps) {
  std::vector<int> lanes(kWarp);
  for (int warp : warps) {
    for (int i = 0; i < kWarp; ++i) lanes[static_cast<size_t>(i)] = i;
    put_in_order(lanes);
    for (int lane : lanes) {
      const int index = warp * kWarp + lane;
      if (index >= static_cast<int>(m.threads)) continue;
      if (m.fibers[static_cast<size_t>(index)].status != Status::ready) continue;
      to_fiber(index);
      if (!m.failure.empty()) return;
      if (m.fibers[static_cast<size_t>(index)].status == Status::at_warp) try_warp(index);
    }
  }
}

// Releases a barrier that all threads wait at. False at the end of the block.
bool next_phase() {
  bool all_done = true, all_waiting = true;
  for (unsigned t = 0; t < m.threads; ++t) {
    const Status s = m.fibers[t].status;
    if (s == Status::ready) return true;
    all_done &= s == Status::done;
    all_waiting &= s == Status::at_barrier && same_site(m.fibers[t].site, m.fibers[0].site);
  }
  if (all_done) return false;
  if (!all_waiting) {
    explain_standstill();
    return false;
  }
  ++m.epoch;
  for (unsigned t = 0; t < m.threads; ++t) m.fibers[t].status = Status::ready;
  return true;
}

void run_block() {
  m.epoch = 0;
  m.shared.clear();
  m.arena_used = 0;
  for (unsigned t = 0; t < m.threads; ++t) start_fiber(m.fibers[t]);
  std::vector<int> warps;
  for (int w = 0; w * kWarp < static_cast<int>(m.threads); ++w) warps.push_back(w);
  put_in_order(warps);
  do {
    run_round(warps);
  } while (m.failure.empty() && next_phase());
}

void find_image() {
  if (m.image_begin != nullptr) return;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        const auto here = reinterpret_cast<uintptr_t>(&now);
        uintptr_t begin = UINTPTR_MAX, end = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
          const uintptr_t at = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
          begin = std::min(begin, at);
          end = std::max(end, at + info->dlpi_phdr[i].p_memsz);
        }
        if (here < begin || here >= end) return 0;
        m.image_begin = reinterpret_cast<const char*>(begin);
        m.image_end = reinterpret_cast<const char*>(end);
        return 1;
      },
      nullptr);
}

unsigned char poison() { return m.seed % 2 == 0 ? 0xFF : 0xCD; }  // NaN, or a number nobody expects

}  // namespace

// ------------------------------------------------------------------ the face

void access(const void* address, size_t bytes, Access kind) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr bool kWatched = false;  // without hooks only atomics come here, and say nothing of what is between them
#else
  constexpr bool kWatched = true;
#endif
  if (!kWatched || m.current < 0) return;
  const auto* a = static_cast<const char*>(address);
  if (Buffer* b = find_buffer(a)) return check_buffer(*b, a, bytes, kind);
  for (SharedSlot& s : m.shared)
    if (a >= s.buffer.begin && a < s.buffer.end) return check_buffer(s.buffer, a, bytes, kind);
  if (!harmless(a)) fail(kind == Access::read ? "read outside every buffer" : "write outside every buffer");
}

void barrier(Site site) { wait(Status::at_barrier, site); }
unsigned ballot(unsigned mask, bool predicate, Site site) {
  return static_cast<unsigned>(warp_wait(WarpOp::ballot, mask, predicate ? 1 : 0, 0, site));
}
uint64_t shuffle(unsigned mask, uint64_t value, int source, Site site) {
  return warp_wait(WarpOp::shuffle, mask, value, source, site);
}
void sync_warp(unsigned mask, Site site) { warp_wait(WarpOp::sync, mask, 0, 0, site); }

void may_yield() {
  if (m.current < 0 || m.seed < 2 || (m.random() & 3u) != 0) return;
  to_scheduler();  // still ready: comes back in a later round
}

void* shared_slot(const void* tag, size_t bytes, size_t element) {
  for (SharedSlot& s : m.shared)
    if (s.tag == tag) return s.buffer.begin;
  constexpr size_t kGap = 64;
  if (m.arena.empty()) m.arena.resize(2 * kSharedBytes + 64 * kGap);
  m.arena_used = (m.arena_used + 15) / 16 * 16;
  size_t used = bytes;
  for (const SharedSlot& s : m.shared) used += static_cast<size_t>(s.buffer.end - s.buffer.begin);
  if (used > kSharedBytes) {
    fail("more than 48 KB of shared memory");
    return nullptr;
  }
  char* begin = m.arena.data() + m.arena_used;
  std::memset(begin, poison(), bytes);
  m.arena_used += bytes + kGap;
  m.shared.push_back({tag, make_buffer(begin, bytes, element, Content::fresh)});
  return begin;
}

void run(const char* kernel, Dim grid, Dim block, void (*body)(void*), void* context, const void* arguments,
         size_t argument_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  m.kernel = kernel;
  m.failure.clear();
  if (threads == 0 || threads > kMostThreads) throw std::runtime_error(std::string("emulator: kernel ") + kernel + ": block of " + std::to_string(threads) + " threads");
  if (grid.x > 0x7fffffffu || grid.y > 65535u || grid.z > 65535u || grid.x == 0 || grid.y == 0 || grid.z == 0)
    throw std::runtime_error(std::string("emulator: kernel ") + kernel + ": grid outside its limits");
  find_image();
  m.body = body;
  m.context = context;
  m.arguments = static_cast<const char*>(arguments);
  m.argument_bytes = argument_bytes;
  m.threads = static_cast<unsigned>(threads);
  if (m.fibers.size() < threads) m.fibers.resize(threads);
  m.random.seed(static_cast<unsigned>(m.seed) * 7919u + m.run);
  ++m.run;
  now.grid_dim = grid;
  now.block_dim = block;
  std::vector<uint32_t> order(static_cast<size_t>(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  put_in_order(order);
  for (uint32_t b : order) {
    m.block = b;
    now.block = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
    run_block();
    if (!m.failure.empty()) break;
  }
  if (m.failure.empty()) check_guards();
  if (!m.failure.empty()) throw std::runtime_error(m.failure);
}

void add_buffer(void* begin, size_t bytes, size_t element, Content content) {
  if (bytes == 0) return;
  if (content == Content::fresh) std::memset(begin, poison(), bytes);
  Buffer buffer = make_buffer(static_cast<char*>(begin), bytes, element, content);
  auto at = std::upper_bound(m.buffers.begin(), m.buffers.end(), buffer.begin,
                             [](const char* a, const Buffer& b) { return a < b.begin; });
  m.buffers.insert(at, std::move(buffer));
}

void written(void* begin, size_t bytes) {
  if (bytes == 0) return;
  Buffer* b = find_buffer(static_cast<char*>(begin));
  if (b == nullptr) throw std::runtime_error("emulator: a copy to memory that is no buffer");
  const size_t first = static_cast<size_t>(static_cast<char*>(begin) - b->begin) / b->granule;
  for (size_t i = 0; i * b->granule < bytes; ++i) b->cells[first + i].known = true;
}

void host_copy() { ++m.host_copies; }

void add_guards(void* begin, size_t bytes) {
  char* const p = static_cast<char*>(begin);
  for (char* g : {p - kGuardBytes, p + bytes}) {
    std::memset(g, kGuard, kGuardBytes);
    m.guards.push_back({g, kGuardBytes});
    forbid(m.guards.back());
  }
}

void clear_buffers() {
  for (const Guard& g : m.guards) allow(g);
  m.buffers.clear();
  m.guards.clear();
  m.last = 0;
}

}  // namespace tenfold::emu

#define TENFOLD_EXPORT extern "C" __attribute__((visibility("default")))
TENFOLD_EXPORT void tenfold_emu_seed(int seed) { tenfold::emu::m.seed = seed; }
TENFOLD_EXPORT int tenfold_emu_launches() { return static_cast<int>(tenfold::emu::m.run); }
TENFOLD_EXPORT int tenfold_emu_host_copies() { return tenfold::emu::m.host_copies; }

// ------------------------------------------------------------------ hooks of -fsanitize=thread

using tenfold::emu::Access;
using tenfold::emu::access;

#define TENFOLD_HOOKS(bytes)                                                                              \
  extern "C" void __tsan_read##bytes(void* p) { access(p, bytes, Access::read); }                     \
  extern "C" void __tsan_write##bytes(void* p) { access(p, bytes, Access::write); }                   \
  extern "C" void __tsan_unaligned_read##bytes(void* p) { access(p, bytes, Access::read); }           \
  extern "C" void __tsan_unaligned_write##bytes(void* p) { access(p, bytes, Access::write); }         \
  extern "C" void __tsan_volatile_read##bytes(void* p) { access(p, bytes, Access::read); }            \
  extern "C" void __tsan_volatile_write##bytes(void* p) { access(p, bytes, Access::write); }
TENFOLD_HOOKS(1)
TENFOLD_HOOKS(2)
TENFOLD_HOOKS(4)
TENFOLD_HOOKS(8)
TENFOLD_HOOKS(16)
extern "C" void __tsan_read_range(void* p, unsigned long bytes) { access(p, bytes, Access::read); }
extern "C" void __tsan_write_range(void* p, unsigned long bytes) { access(p, bytes, Access::write); }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
