#include "common/isa.h"

#include <cstdlib>
#include <cstring>

namespace tenfold {
namespace {

int detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
  return v4 ? 4 : v3 ? 3 : 2;
#else
  return 2;
#endif
}

int initial() {
  const int best = detect();
  const char* wish = std::getenv("TENFOLD_CPU");
  if (wish == nullptr) return best;
  for (int level = 2; level <= best; ++level) {
    const char name[3] = {'v', static_cast<char>('0' + level), '\0'};
    if (std::strcmp(wish, name) == 0) return level;
  }
  return best;
}

int level_in_use = initial();

}  // namespace

int cpu_level() { return level_in_use; }

bool set_cpu_level(int level) {
  if (level < 2 || level > detect()) return false;
  level_in_use = level;
  return true;
}

}  // namespace tenfold
