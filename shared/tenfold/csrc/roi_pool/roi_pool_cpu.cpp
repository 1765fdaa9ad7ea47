#include "roi_pool/roi_pool.h"

#include "roi_pool/cells.h"

#include <cmath>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/row_groups.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kChannels = 16;  // of a backward task
constexpr int64_t kCells = 4096;   // pooled rows of a forward task, at least

// Calls f(first channel, end) for the tasks of a backward pass. Each owns its channels of all rows and adds to them
// in one order, whatever the number of threads.
template <class F>
void by_channels(const Parallel& parallel, int64_t channels, F&& f) {
  if (parallel.threads <= 1) return f(int64_t{0}, channels);
  parallel_ranges(parallel, channels, kChannels, [&](int64_t, int64_t begin, int64_t end) { f(begin, end); });
}

template <class T>
void clear(T* rows, int64_t number, int64_t pitch, int64_t first, int64_t end) {
  if (first == 0 && end == pitch) {
    fill_bytes(rows, 0, static_cast<size_t>(number * pitch) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < number; ++i)
    fill_bytes(rows + i * pitch + first, 0, static_cast<size_t>(end - first) * sizeof(T));
}

// ---- slots -----------------------------------------------------------------------------------------------

template <class T>
int64_t first_row(const RoiPointArgs<T>& a, int64_t box) {
  return a.boxes_per_element > 0 ? box / a.boxes_per_element * a.points_per_element : 0;
}

template <class T>
void fill_slots(const RoiPointArgs<T>& a, int64_t box) {
  const int64_t width = 3 + a.channels;
  T* out = a.pooled + box * a.k * width;
  const int64_t stored = a.count[box] < a.k ? a.count[box] : a.k;
  if (stored <= 0) {
    fill_bytes(out, 0, static_cast<size_t>(a.k * width) * sizeof(T));
    return;
  }
  const int64_t base = first_row(a, box);
  for (int64_t j = 0; j < stored; ++j) {
    const int64_t row = base + a.point[box * a.k + j];
    copy_bytes(out + j * width, a.points + 3 * row, 3 * sizeof(T));
    copy_bytes(out + j * width + 3, a.feats + row * a.channels, static_cast<size_t>(a.channels) * sizeof(T));
  }
  // Everything behind repeats what is there, so blocks double.
  for (int64_t done = stored; done < a.k;) {
    const int64_t next = done < a.k - done ? done : a.k - done;
    copy_bytes(out + done * width, out, static_cast<size_t>(next * width) * sizeof(T));
    done += next;
  }
}

template <class T>
void point_pool(RoiPointArgs<T>& a) {
  const int64_t piece = 1 + kCells / (a.k + 1);
  parallel_ranges(a.parallel, a.boxes, piece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t box = begin; box < end; ++box) fill_slots(a, box);
  });
}

template <class T>
void point_backward(RoiPointArgs<T>& a) {
  const int64_t width = 3 + a.channels;
  by_channels(a.parallel, a.channels, [&](int64_t first, int64_t end) {
    clear(a.grad_feats, a.rows, a.channels, first, end);
    Scratch scratch;
    T* total = scratch.take<T>(end - first);
    for (int64_t box = 0; box < a.boxes; ++box) {
      const int64_t stored = a.count[box] < a.k ? a.count[box] : a.k;
      const T* grad = a.grad + box * a.k * width + 3 + first;
      for (int64_t j = 0; j < stored; ++j) {
        const int64_t row = first_row(a, box) + a.point[box * a.k + j];
        if (row < 0 || row >= a.rows) continue;
        copy_bytes(total, grad + j * width, static_cast<size_t>(end - first) * sizeof(T));
        for (int64_t again = j + stored; again < a.k; again += stored)
          for (int64_t c = 0; c < end - first; ++c) total[c] += grad[again * width + c];
        T* to = a.grad_feats + row * a.channels + first;
        for (int64_t c = 0; c < end - first; ++c) to[c] += total[c];
      }
    }
  });
}

// ---- grid ------------------------------------------------------------------------------------------------

template <class T>
void pool_box(const RoiGridArgs<T>& a, int64_t box, int64_t cells, int32_t* number) {
  T* const out = a.pooled + box * cells * a.channels;
  int32_t* const arg = a.arg == nullptr ? nullptr : a.arg + box * cells * a.channels;
  fill_bytes(out, 0, static_cast<size_t>(cells * a.channels) * sizeof(T));
  if (arg != nullptr) fill_bytes(arg, 0xff, static_cast<size_t>(cells * a.channels) * sizeof(int32_t));
  if (a.begin[box] == a.begin[box + 1]) return;
  fill_bytes(number, 0, static_cast<size_t>(cells) * sizeof(int32_t));
  const CellFinder<T> cell_of(a.rois + 7 * box, a.grid);
  for (int64_t i = a.begin[box]; i < a.begin[box + 1]; ++i) {
    const int32_t row = a.point[i];
    const int64_t cell = cell_of(a.points + 3 * int64_t{row});
    if (number[cell] >= a.max_points) continue;
    const bool first = number[cell]++ == 0;
    const T* from = a.feats + row * a.channels;
    T* to = out + cell * a.channels;
    if (!a.maximum && first) {
      copy_bytes(to, from, static_cast<size_t>(a.channels) * sizeof(T));
    } else if (!a.maximum) {
      for (int64_t c = 0; c < a.channels; ++c) to[c] += from[c];
    } else if (arg == nullptr) {
      for (int64_t c = 0; c < a.channels; ++c) to[c] = first || better(from[c], to[c]) ? from[c] : to[c];
    } else {
      int32_t* who = arg + cell * a.channels;
      for (int64_t c = 0; c < a.channels; ++c) {
        const bool take = first | better(from[c], to[c]);
        to[c] = take ? from[c] : to[c];
        who[c] = take ? row : who[c];
      }
    }
  }
  for (int64_t cell = 0; !a.maximum && cell < cells; ++cell) {
    if (number[cell] < 2) continue;
    const T n = static_cast<T>(number[cell]);
    for (int64_t c = 0; c < a.channels; ++c) out[cell * a.channels + c] /= n;
  }
}

template <class T>
void grid_pool(RoiGridArgs<T>& a) {
  const int64_t cells = a.grid[0] * a.grid[1] * a.grid[2];
  const int64_t piece = 1 + kCells / cells;
  parallel_ranges(a.parallel, a.boxes, piece, [&](int64_t, int64_t begin, int64_t end) {
    Scratch scratch;
    int32_t* number = scratch.take<int32_t>(cells);
    for (int64_t box = begin; box < end; ++box) pool_box(a, box, cells, number);
  });
}

template <class T>
void maximum_backward(const RoiGridArgs<T>& a, int64_t first, int64_t end) {
  const int64_t pooled = a.boxes * a.grid[0] * a.grid[1] * a.grid[2];
  for (int64_t p = 0; p < pooled; ++p) {
    const int32_t* arg = a.arg_in + p * a.channels;
    const T* grad = a.grad + p * a.channels;
    for (int64_t c = first; c < end; ++c)
      if (arg[c] >= 0 && arg[c] < a.rows) a.grad_feats[arg[c] * a.channels + c] += grad[c];
  }
}

template <class T>
void average_backward(const RoiGridArgs<T>& a, int64_t first, int64_t end) {
  const int64_t cells = a.grid[0] * a.grid[1] * a.grid[2];
  Scratch scratch;
  int32_t* number = scratch.take<int32_t>(cells);
  for (int64_t box = 0; box < a.boxes; ++box) {
    const int64_t from = a.begin[box], to = a.begin[box + 1];
    if (from == to) continue;
    Scratch own;
    int64_t* cell = own.take<int64_t>(to - from);
    const CellFinder<T> cell_of(a.rois + 7 * box, a.grid);
    fill_bytes(number, 0, static_cast<size_t>(cells) * sizeof(int32_t));
    for (int64_t i = from; i < to; ++i) {
      const int64_t at = cell_of(a.points + 3 * int64_t{a.point[i]});
      cell[i - from] = number[at] < a.max_points ? at : -1;
      number[at] += number[at] < a.max_points;
    }
    for (int64_t i = from; i < to; ++i) {
      const int64_t at = cell[i - from];
      if (at < 0) continue;
      const T n = static_cast<T>(number[at]);
      const T* grad = a.grad + (box * cells + at) * a.channels;
      T* out = a.grad_feats + a.point[i] * a.channels;
      for (int64_t c = first; c < end; ++c) out[c] += grad[c] / n;
    }
  }
}

template <class T>
void grid_backward(RoiGridArgs<T>& a) {
  by_channels(a.parallel, a.channels, [&](int64_t first, int64_t end) {
    clear(a.grad_feats, a.rows, a.channels, first, end);
    if (a.maximum)
      maximum_backward(a, first, end);
    else
      average_backward(a, first, end);
  });
}

}  // namespace

void roi_point_pool_f32(RoiPointArgs<float>& args) { point_pool(args); }
void roi_point_pool_f64(RoiPointArgs<double>& args) { point_pool(args); }
void roi_point_pool_backward_f32(RoiPointArgs<float>& args) { point_backward(args); }
void roi_point_pool_backward_f64(RoiPointArgs<double>& args) { point_backward(args); }
void roi_grid_pool_f32(RoiGridArgs<float>& args) { grid_pool(args); }
void roi_grid_pool_f64(RoiGridArgs<double>& args) { grid_pool(args); }
void roi_grid_pool_backward_f32(RoiGridArgs<float>& args) { grid_backward(args); }
void roi_grid_pool_backward_f64(RoiGridArgs<double>& args) { grid_backward(args); }

TENFOLD_END
