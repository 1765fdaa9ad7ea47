// Points in boxes. `first` and `mask`: a thread for each point, or point and box. Lists: a warp for each (box, piece of
// the points) counts its hits by ballot; after a scan the same walk writes them, so a list ascends without a sort.
#include "points_in_boxes/points_in_boxes.h"

#include "common/device_check.h"
#include "common/device_scan.h"
#include "points_in_boxes/inside.h"
#include "points_in_boxes/lists.h"

namespace tenfold::cuda {
namespace {

using namespace device;

constexpr int kThreads = 256;

template <class T>
struct Placed {
  PlacedBox<T> box;
  int32_t usable;
  int32_t unused;
};

template <class T>
struct PlaceBoxes {
  const T* boxes;
  T margin, z_margin;
  Placed<T>* to;
  __device__ void operator()(int64_t j) const {
    Placed<T> p{};
    p.usable = usable(boxes + 7 * j) ? 1 : 0;
    if (p.usable != 0) place_box(boxes + 7 * j, margin, z_margin, p.box);
    to[j] = p;
  }
};

// One element; pointers are those of its first row.
template <class T>
struct Element {
  const T* points;
  int64_t point_count;
  const Placed<T>* boxes;
  int64_t box_count;
  int64_t point_base;  // of the numbers that are written
  int64_t box_base;
  __device__ bool hit(int64_t j, int64_t i) const {
    const T* p = points + 3 * i;
    return boxes[j].usable != 0 && inside_box(boxes[j].box, p[0], p[1], p[2]);
  }
};

template <class T>
struct FirstBox {
  Element<T> e;
  int32_t* first;
  __device__ void operator()(int64_t i) const {
    for (int64_t j = 0; j < e.box_count; ++j) {
      if (!e.hit(j, i)) continue;
      first[i] = static_cast<int32_t>(e.box_base + j);
      return;
    }
  }
};

template <class T>
struct Mask {
  Element<T> e;
  uint8_t* mask;  // of the element's first box and point
  int64_t columns;
  __device__ void operator()(int64_t at) const {
    const int64_t j = at / e.point_count, i = at % e.point_count;
    if (e.hit(j, i)) mask[j * columns + i] = 1;
  }
};

// `point` null: counts into place[entry]; else writes from place[entry] on, below limit[box] where there are limits.
template <class T>
__global__ void __launch_bounds__(kThreads) box_lists(Element<T> e, int64_t pieces, int64_t* place, int32_t* point,
                                                      const int64_t* limit) {
  const int64_t entry = int64_t{blockIdx.x} * (kThreads / kWarpLanes) + warp();
  if (entry >= e.box_count * pieces) return;  // whole warps
  const int64_t j = entry / pieces, begin = entry % pieces * kBoxPiece;
  const int64_t end = begin + kBoxPiece < e.point_count ? begin + kBoxPiece : e.point_count;
  int64_t next = point != nullptr ? place[entry] : 0;
  const int64_t bound = limit != nullptr ? limit[j] : INT64_MAX;
  for (int64_t first = begin; first < end && next < bound; first += kWarpLanes) {
    const int64_t i = first + lane();
    const bool hit = i < end && e.hit(j, i);
    const unsigned hits = __ballot_sync(kAllLanes, hit);
    const int64_t to = next + __popc(hits & lanes_below());
    if (hit && point != nullptr && to < bound) point[to] = static_cast<int32_t>(e.point_base + i);
    next += __popc(hits);
  }
  if (point == nullptr && lane() == 0) place[entry] = next;
}

template <class T>
void points_in_boxes(PointsInBoxesArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const bool fine = elements_finite(stream, a, [&a](const BoxElement& rows, int which) -> InputRows<T> {
    if (which == 1) return {a.points + 3 * rows.point_begin, rows.point_count, 3};
    return {a.boxes + 7 * rows.box_begin, rows.box_count, 7};
  });
  if (!fine) return;
  int64_t entries = 0;
  for (int64_t k = 0; k < a.num_elements; ++k) {
    const BoxElement& rows = a.elements[k];
    auto* boxes = stream.scratch<Placed<T>>(rows.box_count);
    each("place_boxes", stream, rows.box_count,
         PlaceBoxes<T>{a.boxes + 7 * rows.box_begin, static_cast<T>(a.margin), static_cast<T>(a.z_margin), boxes});
    const Element<T> e{a.points + 3 * rows.point_begin, rows.point_count, boxes, rows.box_count,
                       a.global_index ? rows.point_begin : 0, a.global_index ? rows.box_begin : 0};
    if (a.output == BoxOutput::first) {
      each("points_in_boxes_first", stream, rows.point_count, FirstBox<T>{e, a.first + rows.point_begin});
    } else if (a.output == BoxOutput::mask) {
      uint8_t* mask = a.mask + rows.box_begin * a.mask_columns + (a.global_index ? rows.point_begin : 0);
      each("points_in_boxes_mask", stream, rows.box_count * rows.point_count, Mask<T>{e, mask, a.mask_columns});
    } else {
      const int64_t pieces = box_pieces(rows), here = rows.box_count * pieces;
      TENFOLD_LAUNCH(box_lists<T>, blocks_for(here, kThreads / kWarpLanes), kThreads, stream, e, pieces,
                     a.place + entries, a.output == BoxOutput::fill ? a.point : nullptr,
                     a.limit != nullptr ? a.limit + rows.box_begin : nullptr);
      entries += here;
    }
  }
}

struct ListBounds {
  const int64_t* entry;  // of the element's first box; one entry behind the element's last is readable
  int64_t box_count, pieces;
  int64_t* bound;
  __device__ void operator()(int64_t j) const { bound[j] = entry[(j < box_count ? j : box_count) * pieces]; }
};

struct TablePlaces {
  int64_t* entry;
  int64_t pieces, first_row, columns;
  int64_t* limit;
  int32_t* number;
  __device__ void operator()(int64_t j) const {
    const int64_t row = first_row + j, from = row * columns;
    int64_t next = from;
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t hits = entry[j * pieces + p];
      entry[j * pieces + p] = next;
      next += hits;
    }
    limit[row] = from + columns;
    number[row] = static_cast<int32_t>(next - from);
  }
};

}  // namespace

int64_t places_of_lists(const Stream& stream, const BoxElement* elements, int64_t num_elements, int64_t boxes,
                        int64_t* entry, int64_t count, int64_t* bound) {
  exclusive_scan<int64_t>(stream, entry, count, entry, entry + count);
  int64_t next = 0;
  for (int64_t k = 0; k < num_elements; ++k) {
    const BoxElement& e = elements[k];
    const int64_t pieces = box_pieces(e);
    each("box_list_bounds", stream, e.box_rows, ListBounds{entry + next, e.box_count, pieces, bound + e.box_begin});
    next += e.box_count * pieces;
  }
  each("box_list_end", stream, 1, ListBounds{entry + count, 0, 0, bound + boxes});
  return read_back(stream, entry + count);
}

void places_of_table(const Stream& stream, const BoxElement* elements, int64_t num_elements, int64_t columns,
                     int64_t* entry, int64_t* limit, int32_t* number) {
  for (int64_t k = 0; k < num_elements; ++k) {
    const BoxElement& e = elements[k];
    each("box_table_places", stream, e.box_count,
         TablePlaces{entry, box_pieces(e), e.box_begin, columns, limit, number});
    entry += e.box_count * box_pieces(e);
  }
}

void points_in_boxes_f32(PointsInBoxesArgs<float>& args) { points_in_boxes(args); }
void points_in_boxes_f64(PointsInBoxesArgs<double>& args) { points_in_boxes(args); }

}  // namespace tenfold::cuda
