// One kernel source is compiled once per instruction-set level; every function it defines lives in the
// level's own inline namespace so that no symbol of one build can be merged with another's.
#pragma once
#include <cstdint>

#ifndef TENFOLD_ISA
#define TENFOLD_ISA base  // bindings and host code
#endif

// Functions that kernels of every device share.
#if defined(__CUDACC__)
#define TENFOLD_HD __host__ __device__
#else
#define TENFOLD_HD
#endif

#define TENFOLD_BEGIN namespace tenfold { inline namespace TENFOLD_ISA {
#define TENFOLD_END } }

// A kernel is `void name(Args&)`. The declaration names its builds; the dispatcher picks one at call time.
#if defined(TENFOLD_DEVICE)
// Bindings and kernels of the CUDA library: one build, which the launcher of the same name belongs to.
#define TENFOLD_KERNEL(name, Args)                                            \
  namespace tenfold {                                                         \
  namespace cuda { void name(Args&); }                                        \
  namespace dispatch {                                                        \
  static inline void name(Args& args) { cuda::name(args); }                   \
  }                                                                           \
  }
#elif defined(__x86_64__) || defined(_M_X64)
#define TENFOLD_KERNEL(name, Args)                                            \
  namespace tenfold {                                                         \
  namespace v2 { void name(Args&); }                                          \
  namespace v3 { void name(Args&); }                                          \
  namespace v4 { void name(Args&); }                                          \
  namespace dispatch {                                                        \
  static inline void name(Args& args) {                                       \
    switch (cpu_level()) {                                                    \
      case 4: return v4::name(args);                                          \
      case 3: return v3::name(args);                                          \
      default: return v2::name(args);                                         \
    }                                                                         \
  }                                                                           \
  }                                                                           \
  }
#else
#define TENFOLD_KERNEL(name, Args)                                            \
  namespace tenfold {                                                         \
  namespace v2 { void name(Args&); }                                          \
  namespace dispatch {                                                        \
  static inline void name(Args& args) { v2::name(args); }                     \
  }                                                                           \
  }
#endif

namespace tenfold {
// 2, 3 or 4 (x86-64-v2 .. v4); elsewhere always 2, the portable build.
int cpu_level();
// Returns false when this processor cannot run the level.
bool set_cpu_level(int level);
}  // namespace tenfold
