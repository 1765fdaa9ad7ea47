// Which points lie in which rotated boxes: contract in tenfold-core 6.10.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

// Rows of one batch element in the flattened points and boxes.
struct BoxElement {
  int64_t point_begin;
  int64_t point_count;
  int64_t point_rows;  // >= point_count: the rows behind are in no box
  int64_t box_begin;
  int64_t box_count;
  int64_t box_rows;
};

enum class BoxOutput { first, mask, count, fill };

template <class T>
struct PointsInBoxesArgs {
  const T* points;  // (N, 3)
  const T* boxes;   // (M, 7)
  const BoxElement* elements;
  int64_t num_elements;
  bool global_index;  // point and box numbers are rows; otherwise they count from the element's first row
  double margin;
  double z_margin;
  bool validate;
  BoxOutput output;
  int32_t* first;         // first: (N,), preset to -1
  uint8_t* mask;          // mask: one row of mask_columns per box, preset to 0
  int64_t mask_columns;
  int64_t* place;         // count, fill: per box one entry for each piece of its element's points. `count` writes
                          // the number of hits, `fill` reads where in `point` they go
  int32_t* point;         // fill
  const int64_t* limit;   // fill: per box the end of its places in `point`, or null
  Parallel parallel;
  int bad_what;         // out: 0 fine, 1 non-finite point, 2 non-finite box
  int64_t bad_element;  // out
  int64_t bad_row;      // out: inside the element
};

// Points are worked on in pieces of this many rows of an element.
#ifdef TENFOLD_DEVICE
constexpr int64_t kBoxPiece = 2048;  // a warp's walk
#else
constexpr int64_t kBoxPiece = 32768;
#endif
inline int64_t box_pieces(const BoxElement& e) { return (e.point_count + kBoxPiece - 1) / kBoxPiece; }

}  // namespace tenfold

TENFOLD_KERNEL(points_in_boxes_f32, PointsInBoxesArgs<float>)
TENFOLD_KERNEL(points_in_boxes_f64, PointsInBoxesArgs<double>)
