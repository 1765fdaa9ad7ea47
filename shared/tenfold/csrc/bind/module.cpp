// The plain C face of the shared object: what Python asks it through ctypes before any operator runs.
#include <cstring>

#include "bind/common.h"

#define TENFOLD_EXPORT extern "C" __attribute__((visibility("default")))

namespace tenfold::bind {
namespace {

constexpr int kMaxOps = 256;
struct Entry {
  const char* op;
  int number;
};
// Zero-initialised before any constructor runs, so the order of translation units does not matter.
Entry entries[kMaxOps];
int entry_count;

}  // namespace

Contract::Contract(const char* op, int number) {
  if (entry_count < kMaxOps) entries[entry_count++] = {op, number};
}

}  // namespace tenfold::bind

// The contract number of an operator this binary implements, or 0.
TENFOLD_EXPORT int tenfold_contract(const char* op) {
  using namespace tenfold::bind;
  for (int i = 0; i < entry_count; ++i)
    if (std::strcmp(entries[i].op, op) == 0) return entries[i].number;
  return 0;
}

TENFOLD_EXPORT int tenfold_cpu_level() { return tenfold::cpu_level(); }
TENFOLD_EXPORT int tenfold_set_cpu_level(int level) { return tenfold::set_cpu_level(level) ? 1 : 0; }
TENFOLD_EXPORT void tenfold_empty_cache() { tenfold::arena_empty_cache(); }
TENFOLD_EXPORT int64_t tenfold_scratch_peak(int reset) { return tenfold::arena_peak(reset != 0); }

#ifdef TENFOLD_CUDA_MAJOR
// The toolkit that compiled the kernels; torch must be built with the same major version.
TENFOLD_EXPORT int tenfold_cuda_major() { return TENFOLD_CUDA_MAJOR; }
#endif
