// What the operators on points and boxes share: checked inputs, and lists of the points in every box.
#pragma once
#include "points_in_boxes/points_in_boxes.h"

#ifdef TENFOLD_DEVICE
#include "points_in_boxes/lists.h"
#endif

#include <string>
#include <vector>

#include "bind/batching.h"
#include "bind/common.h"

namespace tenfold::bind {

constexpr int64_t kRowLimit = int64_t{1} << 31;

// How an operator calls itself and its boxes in messages.
struct BoxNames {
  const char* op;
  const char* boxes;
  const char* prefix;  // of the boxes' lengths and offsets
};

// The inputs of one call, checked and contiguous.
struct PointsBoxes {
  BoxNames names;
  Tensor points;
  Tensor boxes;
  TwoRanges ranges;  // of points and boxes
  std::vector<BoxElement> elements;
  double margin;
  double z_margin;
  bool validate;
  bool global_rows;  // lists hold rows of the flattened points; else they count from the element's first
};

inline PointsBoxes points_boxes(const BoxNames& names, const Tensor& points, const Tensor& boxes, double margin,
                                double z_margin, const std::optional<Tensor>& lengths,
                                const std::optional<Tensor>& box_lengths, const std::optional<Tensor>& offsets,
                                const std::optional<Tensor>& box_offsets, bool validate) {
  check(points.dim() == 2 || points.dim() == 3, "points_in_boxes: points: expected shape (N, 3) or (B, N, 3)");
  check(boxes.dim() == points.dim(), "points_in_boxes: boxes: expected as many dimensions as points");
  check(points.size(points.dim() - 1) == 3, "points_in_boxes: points: expected 3 columns");
  check(boxes.size(boxes.dim() - 1) == 7, "points_in_boxes: boxes: expected 7 columns");
  check(points.dim() == 2 || points.size(0) == boxes.size(0),
        "points_in_boxes: boxes: expected the batch size of points");
  check(points.scalar_type() == boxes.scalar_type(), "points_in_boxes: boxes: expected the dtype of points");
  check(points.scalar_type() == ScalarType::Float || points.scalar_type() == ScalarType::Double,
        "points_in_boxes: points: expected float32 or float64");
  check(points.numel() / 3 < kRowLimit, "points_in_boxes: points: expected fewer than 2^31 points");
  check(boxes.numel() / 7 < kRowLimit, "points_in_boxes: boxes: expected fewer than 2^31 boxes");
  check(margin >= 0 && margin < 1e30, "points_in_boxes: margin: expected a number from 0 to 1e30");
  check(z_margin >= 0 && z_margin < 1e30, "points_in_boxes: z_margin: expected a number from 0 to 1e30");
  PointsBoxes inputs{
      names, as_contiguous(points), as_contiguous(boxes),
      two_ranges(names.op, names.prefix, points, boxes, lengths, box_lengths, offsets, box_offsets),
      {}, margin, z_margin, validate, points.dim() == 2};
  for (size_t e = 0; e < inputs.ranges.first.size(); ++e) {
    const RowRange& p = inputs.ranges.first[e];
    const RowRange& b = inputs.ranges.second[e];
    inputs.elements.push_back({p.begin, p.count, p.rows, b.begin, b.count, b.rows});
  }
  return inputs;
}

struct BoxOutputs {
  BoxOutput kind;
  int32_t* first = nullptr;
  uint8_t* mask = nullptr;
  int64_t* place = nullptr;
  int32_t* point = nullptr;
  const int64_t* limit = nullptr;
};

template <class T, class Kernel>
void find_points(Kernel kernel, const PointsBoxes& inputs, const BoxOutputs& outputs) {
  PointsInBoxesArgs<T> args{};
  args.points = in<T>(inputs.points);
  args.boxes = in<T>(inputs.boxes);
  args.elements = inputs.elements.data();
  args.num_elements = static_cast<int64_t>(inputs.elements.size());
  args.global_index = inputs.global_rows;
  args.margin = inputs.margin;
  args.z_margin = inputs.z_margin;
  args.validate = inputs.validate && outputs.kind != BoxOutput::fill;
  args.output = outputs.kind;
  args.first = outputs.first;
  args.mask = outputs.mask;
  args.mask_columns = inputs.points.size(inputs.points.dim() - 2);
  args.place = outputs.place;
  args.point = outputs.point;
  args.limit = outputs.limit;
  args.parallel = torch_parallel();
  kernel(args);
  if (args.bad_what == 0) return;
  const bool point = args.bad_what == 1;
  const auto e = static_cast<size_t>(args.bad_element);
  value_error(std::string(inputs.names.op) + ": " + (point ? "points" : inputs.names.boxes) + ": " +
              row_text(inputs.points, point ? inputs.ranges.first[e] : inputs.ranges.second[e], args.bad_element,
                       args.bad_row) +
              (point ? " is not finite; expected finite coordinates" : " is not finite; expected finite numbers"));
}

inline void find_points(const PointsBoxes& inputs, const BoxOutputs& outputs) {
  if (inputs.points.scalar_type() == ScalarType::Float)
    return find_points<float>(dispatch::points_in_boxes_f32, inputs, outputs);
  find_points<double>(dispatch::points_in_boxes_f64, inputs, outputs);
}

// Hits of every (box, piece of points), box after box; padded boxes behind their element's length have none.
struct Places {
  int64_t* entry;
  int64_t count;
};

inline Places count_hits(const PointsBoxes& inputs, Scratch& scratch) {
  int64_t count = 0;
  for (const BoxElement& e : inputs.elements) count += box_pieces(e) * e.box_count;
  Places places{scratch.zeros<int64_t>(count + 1), count};
  BoxOutputs outputs{BoxOutput::count};
  outputs.place = places.entry;
  find_points(inputs, outputs);
  return places;
}

#ifdef TENFOLD_DEVICE
inline int64_t to_lists(const PointsBoxes& inputs, const Places& places, int64_t* bound) {
  return cuda::places_of_lists(stream(), inputs.elements.data(), static_cast<int64_t>(inputs.elements.size()),
                               inputs.boxes.numel() / 7, places.entry, places.count, bound);
}

inline void to_table(const PointsBoxes& inputs, const Places& places, int64_t columns, int64_t* limit, int32_t* number) {
  cuda::places_of_table(stream(), inputs.elements.data(), static_cast<int64_t>(inputs.elements.size()), columns,
                        places.entry, limit, number);
}
#else
// Replaces the hits of a box by the places of its pieces, from `from` on; returns where they end.
inline int64_t to_places(int64_t* entry, int64_t pieces, int64_t from) {
  for (int64_t p = 0; p < pieces; ++p) {
    const int64_t hits = entry[p];
    entry[p] = from;
    from += hits;
  }
  return from;
}

// Turns the hits to places one behind the other and writes where the list of every box begins, bound[boxes] being
// the end of the last; returns that end.
inline int64_t to_lists(const PointsBoxes& inputs, const Places& places, int64_t* bound) {
  const int64_t rows = inputs.boxes.numel() / 7;
  int64_t total = 0, next = 0, row = 0;
  for (const BoxElement& e : inputs.elements) {
    const int64_t pieces = box_pieces(e);
    for (; row < e.box_begin; ++row) bound[row] = total;  // unused rows of the element before
    for (int64_t j = 0; j < e.box_count; ++j, next += pieces) {
      bound[row++] = total;
      total = to_places(places.entry + next, pieces, total);
    }
  }
  for (; row <= rows; ++row) bound[row] = total;
  return total;
}

// Turns the hits to places in the rows of a table and writes the end of each row and the number of its hits.
inline void to_table(const PointsBoxes& inputs, const Places& places, int64_t columns, int64_t* limit, int32_t* number) {
  int64_t next = 0;
  for (const BoxElement& e : inputs.elements) {
    const int64_t pieces = box_pieces(e);
    for (int64_t j = 0; j < e.box_count; ++j, next += pieces) {
      const int64_t row = e.box_begin + j;
      limit[row] = (row + 1) * columns;
      number[row] = static_cast<int32_t>(to_places(places.entry + next, pieces, row * columns) - row * columns);
    }
  }
}
#endif

// Writes the first `columns` points of every box into the rows of a table preset to -1, and the number of all its
// points into `number`, preset to 0.
inline void fill_table(const PointsBoxes& inputs, int64_t columns, int32_t* table, int32_t* number) {
  Scratch scratch;
  const Places places = count_hits(inputs, scratch);
  int64_t* limit = scratch.take<int64_t>(inputs.boxes.numel() / 7);
  to_table(inputs, places, columns, limit, number);
  BoxOutputs outputs{BoxOutput::fill};
  outputs.place = places.entry;
  outputs.point = table;
  outputs.limit = limit;
  find_points(inputs, outputs);
}

}  // namespace tenfold::bind
