// Drivers of the torch-free kernels for sanitizers: random inputs, naive loops, plain `main`. No Python allocator and
// no arena that would hide a read or write beyond a buffer: `arena_malloc.cpp` gives every scratch buffer its own
// allocation.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include "common/parallel.h"

#define LEVEL_PASTE(level, name) tenfold::level::name
#define LEVEL_EXPAND(level, name) LEVEL_PASTE(level, name)
// The build of a kernel under test.
#define KERNEL(name) LEVEL_EXPAND(TENFOLD_ISA, name)

namespace native {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double uniform(double low = 0.0, double high = 1.0) {
    return low + (high - low) * static_cast<double>(next() >> 11) * 0x1p-53;
  }
  // From 0 to most, both included.
  int64_t integer(int64_t most) { return static_cast<int64_t>(next() % static_cast<uint64_t>(most + 1)); }
  bool chance(double p) { return uniform() < p; }
  template <class T>
  T pick(std::initializer_list<T> options) {
    return options.begin()[integer(static_cast<int64_t>(options.size()) - 1)];
  }
  int64_t size(int64_t most) { return integer(pick<int64_t>({3, 20, most})); }
  // Values on a coarse grid (ties) or anywhere, now and then one that is not finite or extreme.
  template <class T>
  std::vector<T> floats(int64_t n, double spread, double special = 0.0) {
    std::vector<T> v(static_cast<size_t>(n));
    const bool coarse = chance(0.5);
    for (T& x : v) {
      x = static_cast<T>(uniform(-spread, spread));
      if (coarse) x = std::round(x * 4) / 4;
      if (special > 0 && chance(special))
        x = pick<T>({std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                     -std::numeric_limits<T>::infinity(), T(0), -T(0), std::numeric_limits<T>::denorm_min(),
                     std::numeric_limits<T>::max()});
    }
    return v;
  }

 private:
  uint64_t state_;
};

// Serial, or on std::threads: what libtorch's pool does, visible to ThreadSanitizer.
tenfold::Parallel parallel(Random& random);

[[noreturn]] void fail(const char* file, int line, const char* what);
#define CHECK(condition) \
  if (!(condition)) native::fail(__FILE__, __LINE__, #condition)

template <class T>
bool close(T a, T b, double tolerance) {
  return std::abs(static_cast<double>(a) - static_cast<double>(b)) <=
         tolerance * std::fmax(1.0, std::abs(static_cast<double>(b)));
}

// A test draws one input and compares one result.
using Test = void (*)(Random&);
struct Registration {
  Registration(const char* name, Test test);
};
#define NATIVE_TEST(name)                                          \
  static void name(native::Random&);                               \
  static const native::Registration name##_registration(#name, name); \
  static void name([[maybe_unused]] native::Random& random)

}  // namespace native
