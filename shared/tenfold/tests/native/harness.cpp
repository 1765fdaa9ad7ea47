#include "harness.h"

#include <atomic>
#include <cstring>
#include <thread>

namespace native {
namespace {

struct Entry {
  const char* name;
  Test test;
};
std::vector<Entry>& entries() {
  static std::vector<Entry> all;
  return all;
}
const char* current_name = "";
long current_seed = 0;

void run_threads(int64_t tasks, tenfold::Parallel::Body body, void* context) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      for (int64_t task = next++; task < tasks; task = next++) body(context, task);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

tenfold::Parallel parallel(Random& random) {
  tenfold::Parallel p;
  if (random.chance(0.5)) {
    p.run = run_threads;
    p.threads = 3;
  }
  return p;
}

void fail(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s, seed %ld: %s:%d: %s\n", current_name, current_seed, file, line, what);
  std::exit(1);
}

Registration::Registration(const char* name, Test test) { entries().push_back({name, test}); }

}  // namespace native

// main COUNT [NAME [FIRST_SEED]]: every test with COUNT seeds, or the one named.
int main(int argc, char** argv) {
  const long count = argc > 1 ? std::atol(argv[1]) : 300;
  const char* only = argc > 2 ? argv[2] : "";
  const long first = argc > 3 ? std::atol(argv[3]) : 0;
  for (const native::Entry& entry : native::entries()) {
    if (*only != 0 && std::strcmp(only, entry.name) != 0) continue;
    native::current_name = entry.name;
    for (native::current_seed = first; native::current_seed < first + count; ++native::current_seed) {
      native::Random random(static_cast<uint64_t>(native::current_seed));
      entry.test(random);
    }
    std::printf("%s: %ld inputs\n", entry.name, count);
    std::fflush(stdout);
  }
  return 0;
}
