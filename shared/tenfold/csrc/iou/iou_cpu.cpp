#include "iou/iou.h"

#include "iou/measure.h"

#include "common/radix.h"
#include "iou/rects.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kPairsPerTask = int64_t{1} << 18;
constexpr int64_t kPairedPerTask = 4096;
constexpr int kBlock = 256;

// Boxes with extent, prepared; in all-pairs ops those of b are sorted by x.
struct Prepared {
  RectArrays rects;
  int32_t* row;     // (count,) row of each, or null when every place is its own row
  int64_t count;
  double largest;   // radius
};

// Rows without extent keep their place with a NaN radius, which fails every distance test.
template <class T>
void put_rows(const RectArrays& rects, const T* boxes, int64_t n, const RectFormat& format) {
  for (int64_t i = 0; i < n; ++i) {
    const T* row = boxes + i * format.columns;
    put_rect(rects, i, row, format);
    if (box_extent(row, format) != Extent::full) {
      rects.c[i] = 0.0;
      rects.r[i] = NAN;
    }
  }
  finish_angles(rects, n);
}

// Order-preserving 32 bits of a double: a float's precision only, so near ties may be out of order.
inline uint32_t coarse_order(double x) { return float_order_bits(static_cast<float>(x)); }

template <class T>
Prepared prepare_sorted(Scratch& scratch, const T* boxes, int64_t n, const RectFormat& format) {
  Prepared p{};
  p.row = scratch.take<int32_t>(n);
  {
    Scratch temporary;
    uint32_t* key = temporary.take<uint32_t>(n);
    for (int64_t i = 0; i < n; ++i) {
      const T* row = boxes + i * format.columns;
      if (box_extent(row, format) != Extent::full) continue;
      key[p.count] = coarse_order(row[0]);
      p.row[p.count++] = static_cast<int32_t>(i);
    }
    radix_sort(key, p.row, p.count);
  }
  p.rects = take_rects(scratch, p.count);
  for (int64_t k = 0; k < p.count; ++k) {
    put_rect(p.rects, k, boxes + int64_t{p.row[k]} * format.columns, format);
    p.largest = max_of(p.largest, p.rects.r[k]);
  }
  finish_angles(p.rects, p.count);
  return p;
}

// First place whose x is not below the bound, in the coarse order that the places are sorted by.
int64_t lower_place(const Prepared& p, double bound) {
  const uint32_t key = coarse_order(bound);
  int64_t low = 0;
  int64_t high = p.count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (coarse_order(p.rects.cx[middle]) < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// z interval of lane-wise boxes; read from the input because most pairs never need it.
struct Heights {
  vdouble z, h;
};
template <class T, class Row>
Heights gather_heights(const T* boxes, Row row_of_lane) {
  double z[kWide], h[kWide];
  for (int k = 0; k < kWide; ++k) {
    const T* row = boxes + 7 * row_of_lane(k);
    z[k] = row[2];
    h[k] = 0.5 * static_cast<double>(row[5]);
  }
  return {load_lanes(z), load_lanes(h)};
}

vdouble measured(IouMode mode, const Rect<vdouble>& a, const Rect<vdouble>& b, dmask live) {
  const vdouble inter = intersection_area(a, b, vdouble{}, live);
  return overlap_measure(mode, inter, rect_area(a), rect_area(b));
}

vdouble measured(IouMode mode, const Rect<vdouble>& a, const Rect<vdouble>& b, dmask live, const Heights& za,
                 const Heights& zb) {
  const vdouble inter = intersection_area(a, b, vdouble{}, live) * interval_overlap(zb.z - za.z, za.h, zb.h);
  return overlap_measure(mode, inter, rect_area(a) * (za.h * 2.0), rect_area(b) * (zb.h * 2.0));
}

// Calls hit(lane values, places of b, number) for vectors of b that may overlap row i of a.
template <class T, class Hit>
void overlaps_of_row(const RectArrays& a, int64_t i, const T* row_a, const Prepared& b, const T* boxes_b,
                     bool volume, IouMode mode, Hit&& hit) {
  const double reach = a.r[i] + b.largest;
  if (!(reach > 0.0)) return;
  int32_t place[kBlock + kWide];
  int64_t waiting = 0;
  const Rect<vdouble> ra = rect_splat(a, i);
  const auto flush = [&] {
    for (int64_t k = 0; k < waiting; k += kWide) {
      const uint32_t lanes = first_bits(waiting - k);
      for (int64_t pad = waiting; pad < k + kWide; ++pad) place[pad] = place[k];
      const dmask live = lane_mask_of(lanes);
      const Rect<vdouble> rb = rect_gather(b.rects, place + k);
      vdouble value;
      if (volume) {
        const double z = row_a[2], h = 0.5 * static_cast<double>(row_a[5]);
        const Heights za{splat<vdouble>(z), splat<vdouble>(h)};
        const auto row_of_lane = [&](int lane) { return int64_t{b.row[place[k + lane]]}; };
        value = measured(mode, ra, rb, live, za, gather_heights(boxes_b, row_of_lane));
      } else {
        value = measured(mode, ra, rb, live);
      }
      double values[kWide];
      store_lanes(values, value);
      hit(values, place + k, static_cast<int>(waiting - k < kWide ? waiting - k : kWide));
    }
    waiting = 0;
  };
  const double slack = reach + magnitude(a.cx[i]) * 0x1p-51;  // so that rounding loses no pair
  const int64_t begin = lower_place(b, a.cx[i] - slack);
  const uint32_t last = coarse_order(a.cx[i] + slack);
  const vdouble radius = splat<vdouble>(a.r[i]);
  for (int64_t k = begin; k < b.count && coarse_order(b.rects.cx[k]) <= last; k += kWide) {
    const vdouble dx = load_lanes(b.rects.cx + k) - ra.cx;
    const vdouble dy = load_lanes(b.rects.cy + k) - ra.cy;
    const vdouble far = load_lanes(b.rects.r + k) + radius;
    uint32_t near = lane_bits(less_equal(dx * dx + dy * dy, far * far)) & first_bits(b.count - k);
    for (; near != 0; near &= near - 1) place[waiting++] = static_cast<int32_t>(k + __builtin_ctz(near));
    if (waiting >= kBlock) flush();
  }
  flush();
}

template <class T>
RectFormat format_of(const BoxIouArgs<T>& args, int columns) {
  return {columns, args.kind == IouKind::aligned_volume, args.kind != IouKind::bev};
}

template <class T>
void all_pairs(BoxIouArgs<T>& args, const RectFormat& fa, const RectFormat& fb) {
  Scratch scratch;
  const RectArrays a = take_rects(scratch, args.n);
  put_rows(a, args.a, args.n, fa);
  const Prepared b = prepare_sorted(scratch, args.b, args.m, fb);
  const int64_t piece = (kPairsPerTask + args.m - 1) / args.m;
  parallel_ranges(args.parallel, args.n, piece, [&](int64_t, int64_t begin, int64_t end) {
    std::memset(args.out + begin * args.m, 0, static_cast<size_t>((end - begin) * args.m) * sizeof(T));
    for (int64_t i = begin; i < end; ++i) {
      T* out = args.out + i * args.m;
      overlaps_of_row(a, i, args.a + i * fa.columns, b, args.b, fa.volume, args.mode,
                      [&](const double* values, const int32_t* place, int count) {
                        for (int k = 0; k < count; ++k) out[b.row[place[k]]] = static_cast<T>(values[k]);
                      });
    }
  });
}

template <class T>
void all_pairs_giou(BoxIouArgs<T>& args, const RectFormat& fa, const RectFormat& fb) {
  Scratch scratch;
  const RectArrays a = take_rects(scratch, args.n);
  const RectArrays b = take_rects(scratch, args.m);
  put_rows(a, args.a, args.n, fa);
  put_rows(b, args.b, args.m, fb);
  const int64_t piece = (kPairedPerTask + args.m - 1) / args.m;
  parallel_ranges(args.parallel, args.n, piece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < args.m; ++j) {
        const bool full = a.r[i] + b.r[j] > 0.0;
        args.out[i * args.m + j] =
            full ? static_cast<T>(giou(args, rect_at(a, i), rect_at(b, j), args.a + i * fa.columns,
                                       args.b + j * fb.columns))
                 : T(0);
      }
    }
  });
}

// Values of up to kBlock consecutive pairs of rows.
template <class T>
void paired_block(BoxIouArgs<T>& args, const RectFormat& fa, const RectFormat& fb, const RectArrays& a,
                  const RectArrays& b, int64_t begin, int64_t count) {
  const T* rows_a = args.a + begin * fa.columns;
  const T* rows_b = args.b + begin * fb.columns;
  put_rows(a, rows_a, count, fa);
  put_rows(b, rows_b, count, fb);
  T* out = args.out + begin;
  if (args.mode == IouMode::giou) {
    for (int64_t i = 0; i < count; ++i) {
      const bool full = a.r[i] + b.r[i] > 0.0;
      out[i] = full ? static_cast<T>(giou(args, rect_at(a, i), rect_at(b, i), rows_a + i * fa.columns,
                                          rows_b + i * fb.columns))
                    : T(0);
    }
    return;
  }
  for (int64_t i = 0; i < count; i += kWide) {
    const int lanes = static_cast<int>(count - i < kWide ? count - i : kWide);
    const dmask full = both(less(vdouble{}, load_lanes(a.r + i)), less(vdouble{}, load_lanes(b.r + i)));
    const uint32_t bits = lane_bits(full) & first_bits(lanes);
    const dmask live = lane_mask_of(bits);
    vdouble value;
    if (fa.volume) {
      const auto row_of_lane = [&](int lane) { return i + (lane < lanes ? lane : 0); };
      value = measured(args.mode, rect_load(a, i), rect_load(b, i), live, gather_heights(rows_a, row_of_lane),
                       gather_heights(rows_b, row_of_lane));
    } else {
      value = measured(args.mode, rect_load(a, i), rect_load(b, i), live);
    }
    double values[kWide];
    store_lanes(values, value);
    for (int k = 0; k < lanes; ++k) out[i + k] = bits >> k & 1 ? static_cast<T>(values[k]) : T(0);
  }
}

template <class T>
void paired(BoxIouArgs<T>& args, const RectFormat& fa, const RectFormat& fb) {
  parallel_ranges(args.parallel, args.n, kPairedPerTask, [&](int64_t, int64_t begin, int64_t end) {
    Scratch scratch;
    const RectArrays a = take_rects(scratch, kBlock);
    const RectArrays b = take_rects(scratch, kBlock);
    for (int64_t i = begin; i < end; i += kBlock)
      paired_block(args, fa, fb, a, b, i, end - i < kBlock ? end - i : kBlock);
  });
}

template <class T>
void box_iou(BoxIouArgs<T>& args) {
  const RectFormat fa = format_of(args, args.a_columns);
  const RectFormat fb = format_of(args, args.b_columns);
  const BoxRows<T> rows_a{args.a, args.n, fa}, rows_b{args.b, args.m, fb};
  if (!boxes_finite(args, rows_a, rows_b, first_not_finite<T>) || args.n == 0 || args.m == 0) return;
  if (args.paired) return paired(args, fa, fb);
  if (args.mode == IouMode::giou) return all_pairs_giou(args, fa, fb);
  all_pairs(args, fa, fb);
}

template <class T>
void pairs_iou(PairsIouArgs<T>& args) {
  const RectFormat fa{args.a_columns, false, false};
  const RectFormat fb{args.b_columns, false, false};
  const BoxRows<T> rows_a{args.a, args.n, fa}, rows_b{args.b, args.m, fb};
  if (!boxes_finite(args, rows_a, rows_b, first_not_finite<T>)) return;
  args.count = 0;
  if (args.n == 0 || args.m == 0) return args.allocate(args);
  Scratch scratch;
  const RectArrays a = take_rects(scratch, args.n);
  put_rows(a, args.a, args.n, fa);
  const Prepared b = prepare_sorted(scratch, args.b, args.m, fb);
  const int64_t piece = (kPairsPerTask + args.m - 1) / args.m;
  const auto for_hits = [&](int64_t i, auto&& use) {
    overlaps_of_row(a, i, args.a + i * fa.columns, b, args.b, false, IouMode::iou,
                    [&](const double* values, const int32_t* place, int count) {
                      for (int k = 0; k < count; ++k) {
                        const T iou = static_cast<T>(values[k]);
                        if (static_cast<double>(iou) > args.threshold) use(b.row[place[k]], iou);
                      }
                    });
  };
  // Counting first and computing again costs less than keeping every candidate pair.
  int64_t* start = scratch.zeros<int64_t>(args.n + 1);
  parallel_ranges(args.parallel, args.n, piece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) for_hits(i, [&](int32_t, T) { ++start[i + 1]; });
  });
  for (int64_t i = 0; i < args.n; ++i) start[i + 1] += start[i];
  args.count = start[args.n];
  args.allocate(args);
  parallel_ranges(args.parallel, args.n, piece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t count = start[i + 1] - start[i];
      if (count == 0 || start[i] >= args.room) continue;
      Scratch row_scratch;
      uint32_t* key = row_scratch.take<uint32_t>(count);
      int32_t* order = row_scratch.take<int32_t>(count);
      T* value = row_scratch.take<T>(count);
      int32_t found = 0;
      for_hits(i, [&](int32_t j, T iou) {
        key[found] = static_cast<uint32_t>(j);
        order[found] = found;
        value[found++] = iou;
      });
      radix_sort(key, order, count);
      const int64_t left = args.room - start[i];
      for (int64_t k = 0; k < count && k < left; ++k) {
        args.i[start[i] + k] = i;
        args.j[start[i] + k] = key[k];
        args.iou[start[i] + k] = value[order[k]];
      }
    }
  });
}

}  // namespace

void box_iou_f32(BoxIouArgs<float>& args) { box_iou(args); }
void box_iou_f64(BoxIouArgs<double>& args) { box_iou(args); }
void pairs_iou_f32(PairsIouArgs<float>& args) { pairs_iou(args); }
void pairs_iou_f64(PairsIouArgs<double>& args) { pairs_iou(args); }

TENFOLD_END
