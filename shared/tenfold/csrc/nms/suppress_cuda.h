// Greedy suppression on the device, for any overlap test. Candidates come in chunks: against the boxes kept so far, then
// among themselves through a bit mask that one block resolves. The number of kept boxes never leaves the device, and
// memory is linear in the number of boxes.
#pragma once
#include "common/device.h"

namespace tenfold::device {

constexpr int kChunk = 2048;
constexpr int kWord = 64;
constexpr int kChunkWords = kChunk / kWord;
constexpr int kSuppressThreads = 256;
constexpr int kRowsEach = kWord * kChunkWords / kSuppressThreads;  // of a word's candidates, for each thread

struct Suppression {
  const int32_t* row;        // candidates, best first
  const int32_t* candidates; // their number
  int32_t* kept_row;         // out: rows
  int32_t* kept;             // out: their number
  int64_t limit;             // of kept rows
};

// Candidates [from, from + kChunk) that a kept box suppresses: a warp for each candidate.
template <class Test>
__global__ void __launch_bounds__(kSuppressThreads) suppress_by_kept(Suppression s, Test test, int64_t from,
                                                                     uint8_t* gone) {
  const int64_t place = int64_t{blockIdx.x} * (kSuppressThreads / kWarpLanes) + warp();
  const int64_t i = from + place;
  if (i >= *s.candidates || *s.kept >= s.limit) {  // whole warps
    if (lane() == 0) gone[place] = 1;
    return;
  }
  const int32_t mine = s.row[i];
  const int32_t kept = *s.kept;
  bool hit = false;
  for (int32_t first = 0; first < kept && !hit; first += kWarpLanes) {
    const int32_t k = first + lane();
    hit = __any_sync(kAllLanes, k < kept && test(s.kept_row[k], mine)) != 0;
  }
  if (lane() == 0) gone[place] = hit ? 1 : 0;
}

// mask[i][w]: which of the 64 candidates of word w, behind i, candidate i would suppress.
template <class Test>
__global__ void __launch_bounds__(kSuppressThreads) suppress_mask(Suppression s, Test test, int64_t from,
                                                                  const uint8_t* gone, unsigned long long* mask) {
  const int64_t at = int64_t{blockIdx.x} * kSuppressThreads + threadIdx.x;
  const int64_t i = at / kChunkWords, w = at % kChunkWords;
  unsigned long long bits = 0;
  const int64_t count = *s.candidates - from;
  if (i < count && gone[i] == 0 && *s.kept < s.limit) {
    const int32_t mine = s.row[from + i];
    for (int b = 0; b < kWord; ++b) {
      const int64_t j = w * kWord + b;
      if (j > i && j < count && gone[j] == 0 && test(mine, s.row[from + j])) bits |= 1ull << b;
    }
  }
  mask[at] = bits;
}

// One block walks the chunk in order, a word of 64 candidates at a time.
static __global__ void __launch_bounds__(kSuppressThreads) suppress_resolve(Suppression s, int64_t from, const uint8_t* gone,
                                                                     const unsigned long long* mask) {
  TENFOLD_SHARED(unsigned long long, removed, kChunkWords);
  TENFOLD_SHARED(unsigned long long, inside, kWord);  // of the word at hand: whom each of its candidates suppresses
  TENFOLD_SHARED(unsigned long long, chosen, 1);
  TENFOLD_SHARED(int32_t, number, 1);
  const int64_t count = *s.candidates - from;
  if (threadIdx.x < kChunkWords) {
    unsigned long long bits = 0;
    for (int b = 0; b < kWord; ++b) {
      const int64_t i = int64_t{threadIdx.x} * kWord + b;
      if (i >= count || gone[i] != 0) bits |= 1ull << b;
    }
    removed[threadIdx.x] = bits;
  }
  if (threadIdx.x == 0) number[0] = *s.kept;
  __syncthreads();
  for (int w = 0; w < kChunkWords; ++w) {
    if (threadIdx.x < kWord) {
      const int64_t i = int64_t{w} * kWord + threadIdx.x;
      inside[threadIdx.x] = i < count ? mask[i * kChunkWords + w] : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long out = removed[w], keep = 0;
      int32_t kept = number[0];
      for (int b = 0; b < kWord && kept < s.limit; ++b) {
        if ((out >> b) & 1) continue;
        keep |= 1ull << b;
        out |= inside[b];
        s.kept_row[kept++] = s.row[from + w * kWord + b];
      }
      chosen[0] = keep;
      number[0] = kept;
    }
    __syncthreads();
    const unsigned long long keep = chosen[0];
    const int word = static_cast<int>(threadIdx.x) % kChunkWords;  // a warp reads a candidate's words, eight each
    const int first = static_cast<int>(threadIdx.x) / kChunkWords * kRowsEach;
    unsigned long long out = 0;
    for (int b = first; word > w && b < first + kRowsEach; ++b)
      if ((keep >> b) & 1) out |= mask[(w * kWord + b) * kChunkWords + word];
    if (out != 0) atomicOr(&removed[word], out);
    __syncthreads();
  }
  if (threadIdx.x == 0) *s.kept = number[0];
}

// `most`: a bound of the number of candidates that the host knows. *s.kept must be 0.
template <class Test>
void suppress(const Stream& stream, const Suppression& s, int64_t most, Test test) {
  auto* gone = stream.scratch<uint8_t>(kChunk);
  auto* mask = stream.scratch<unsigned long long>(int64_t{kChunk} * kChunkWords);
  for (int64_t from = 0; from < most; from += kChunk) {
    const int64_t here = most - from < kChunk ? most - from : kChunk;
    TENFOLD_LAUNCH(suppress_by_kept<Test>, blocks_for(here, kSuppressThreads / kWarpLanes), kSuppressThreads, stream, s,
                   test, from, gone);
    TENFOLD_LAUNCH(suppress_mask<Test>, blocks_for(here * kChunkWords, kSuppressThreads), kSuppressThreads, stream, s,
                   test, from, static_cast<const uint8_t*>(gone), mask);
    TENFOLD_LAUNCH(suppress_resolve, 1, kSuppressThreads, stream, s, from, static_cast<const uint8_t*>(gone),
                   static_cast<const unsigned long long*>(mask));
  }
}

}  // namespace tenfold::device
