#include "points_in_boxes/points_in_boxes.h"

#include <cstring>
#include <vector>

#include "bind/batching.h"
#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;

// The inputs of one call, checked and contiguous.
struct Inputs {
  Tensor points;
  Tensor boxes;
  std::vector<RowRange> point_range;
  std::vector<RowRange> box_range;
  std::vector<BoxElement> elements;
  double margin;
  double z_margin;
  bool validate;
};

Inputs make_inputs(const Tensor& points, const Tensor& boxes, double margin, double z_margin,
                   const std::optional<Tensor>& lengths, const std::optional<Tensor>& box_lengths,
                   const std::optional<Tensor>& offsets, const std::optional<Tensor>& box_offsets, bool validate) {
  check(points.dim() == 2 || points.dim() == 3, "points_in_boxes: points: expected shape (N, 3) or (B, N, 3)");
  check(boxes.dim() == points.dim(), "points_in_boxes: boxes: expected as many dimensions as points");
  check(points.size(points.dim() - 1) == 3, "points_in_boxes: points: expected 3 columns");
  check(boxes.size(boxes.dim() - 1) == 7, "points_in_boxes: boxes: expected 7 columns");
  check(points.dim() == 2 || points.size(0) == boxes.size(0),
        "points_in_boxes: boxes: expected the batch size of points");
  check(points.scalar_type() == boxes.scalar_type(), "points_in_boxes: boxes: expected the dtype of points");
  check(points.numel() / 3 < kLimit, "points_in_boxes: points: expected fewer than 2^31 points");
  check(boxes.numel() / 7 < kLimit, "points_in_boxes: boxes: expected fewer than 2^31 boxes");
  check(margin >= 0 && margin < 1e30, "points_in_boxes: margin: expected a number from 0 to 1e30");
  check(z_margin >= 0 && z_margin < 1e30, "points_in_boxes: z_margin: expected a number from 0 to 1e30");
  for (const auto& o : {offsets, box_offsets}) {
    if (!o.has_value()) continue;
    check_int64_vector(*o, "points_in_boxes: offsets: expected int64 of shape (B + 1,)");
    check(o->size(0) >= 1, "points_in_boxes: offsets: expected at least one entry");
  }
  Inputs inputs{as_contiguous(points), as_contiguous(boxes), {}, {}, {}, margin, z_margin, validate};
  const int64_t batch = batch_size(points, offsets);
  check(batch == batch_size(boxes, box_offsets), "points_in_boxes: box_offsets: expected the batch size of offsets");
  inputs.point_range.resize(static_cast<size_t>(batch));
  inputs.box_range.resize(static_cast<size_t>(batch));
  row_ranges("points_in_boxes", "", points, lengths, offsets, inputs.point_range.data());
  row_ranges("points_in_boxes", "box_", boxes, box_lengths, box_offsets, inputs.box_range.data());
  for (size_t e = 0; e < inputs.point_range.size(); ++e) {
    const RowRange& p = inputs.point_range[e];
    const RowRange& b = inputs.box_range[e];
    inputs.elements.push_back({p.begin, p.count, p.rows, b.begin, b.count, b.rows});
  }
  return inputs;
}

struct Outputs {
  BoxOutput kind;
  int32_t* first = nullptr;
  uint8_t* mask = nullptr;
  int64_t* place = nullptr;
  int32_t* point = nullptr;
  const int64_t* limit = nullptr;
};

template <class T, class Kernel>
void run(Kernel kernel, const Inputs& inputs, const Outputs& outputs) {
  PointsInBoxesArgs<T> args{};
  args.points = in<T>(inputs.points);
  args.boxes = in<T>(inputs.boxes);
  args.elements = inputs.elements.data();
  args.num_elements = static_cast<int64_t>(inputs.elements.size());
  args.global_index = inputs.points.dim() == 2;
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
  value_error(std::string("points_in_boxes: ") + (point ? "points: " : "boxes: ") +
              row_text(inputs.points, point ? inputs.point_range[e] : inputs.box_range[e], args.bad_element,
                       args.bad_row) +
              (point ? " is not finite; expected finite coordinates" : " is not finite; expected finite numbers"));
}

void run(const Inputs& inputs, const Outputs& outputs) {
  if (inputs.points.scalar_type() == ScalarType::Float) return run<float>(dispatch::points_in_boxes_f32, inputs, outputs);
  check(inputs.points.scalar_type() == ScalarType::Double, "points_in_boxes: points: expected float32 or float64");
  run<double>(dispatch::points_in_boxes_f64, inputs, outputs);
}

Tensor points_in_boxes_first_cpu(Tensor points, Tensor boxes, double margin, double z_margin,
                                 std::optional<Tensor> lengths, std::optional<Tensor> box_lengths,
                                 std::optional<Tensor> offsets, std::optional<Tensor> box_offsets, bool validate) {
  const Inputs inputs = make_inputs(points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  Tensor first = points.dim() == 3 ? empty_cpu({points.size(0), points.size(1)}, ScalarType::Int)
                                   : empty_cpu({points.size(0)}, ScalarType::Int);
  std::memset(out<int32_t>(first), 0xff, static_cast<size_t>(first.numel()) * sizeof(int32_t));
  Outputs outputs{BoxOutput::first};
  outputs.first = out<int32_t>(first);
  run(inputs, outputs);
  return first;
}

Tensor points_in_boxes_mask_cpu(Tensor points, Tensor boxes, double margin, double z_margin,
                                std::optional<Tensor> lengths, std::optional<Tensor> box_lengths,
                                std::optional<Tensor> offsets, std::optional<Tensor> box_offsets, bool validate) {
  const Inputs inputs = make_inputs(points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  Tensor mask = points.dim() == 3 ? empty_cpu({points.size(0), boxes.size(1), points.size(1)}, ScalarType::Bool)
                                  : empty_cpu({boxes.size(0), points.size(0)}, ScalarType::Bool);
  auto* bytes = static_cast<uint8_t*>(mask.mutable_data_ptr());
  std::memset(bytes, 0, static_cast<size_t>(mask.numel()));
  Outputs outputs{BoxOutput::mask};
  outputs.mask = bytes;
  run(inputs, outputs);
  return mask;
}

// Hits of every (box, piece of points), box after box; padded boxes behind their element's length have none.
struct Places {
  int64_t* entry;
  int64_t count;
};
Places count_hits(const Inputs& inputs, Scratch& scratch) {
  int64_t count = 0;
  for (const BoxElement& e : inputs.elements) count += box_pieces(e) * e.box_count;
  Places places{scratch.zeros<int64_t>(count), count};
  Outputs outputs{BoxOutput::count};
  outputs.place = places.entry;
  run(inputs, outputs);
  return places;
}

// Replaces the hits of a box by the places of its pieces, from `from` on; returns where they end.
int64_t to_places(int64_t* entry, int64_t pieces, int64_t from) {
  for (int64_t p = 0; p < pieces; ++p) {
    const int64_t hits = entry[p];
    entry[p] = from;
    from += hits;
  }
  return from;
}

std::tuple<Tensor, Tensor> points_in_boxes_csr_cpu(Tensor points, Tensor boxes, double margin, double z_margin,
                                                   std::optional<Tensor> offsets, std::optional<Tensor> box_offsets,
                                                   bool validate) {
  check(points.dim() == 2, "points_in_boxes: points: expected stacked points with mode csr");
  const Inputs inputs =
      make_inputs(points, boxes, margin, z_margin, std::nullopt, std::nullopt, offsets, box_offsets, validate);
  Scratch scratch;
  const Places places = count_hits(inputs, scratch);
  Tensor bounds = empty_cpu({boxes.size(0) + 1}, ScalarType::Long);
  int64_t* bound = out<int64_t>(bounds);
  int64_t total = 0, next = 0;
  for (const BoxElement& e : inputs.elements) {
    const int64_t pieces = box_pieces(e);
    for (int64_t j = 0; j < e.box_count; ++j, next += pieces) {
      bound[e.box_begin + j] = total;
      total = to_places(places.entry + next, pieces, total);
    }
  }
  bound[boxes.size(0)] = total;
  Tensor point = empty_cpu({total}, ScalarType::Int);
  Outputs outputs{BoxOutput::fill};
  outputs.place = places.entry;
  outputs.point = out<int32_t>(point);
  run(inputs, outputs);
  return {bounds, point};
}

std::tuple<Tensor, Tensor> points_in_boxes_padded_cpu(Tensor points, Tensor boxes, int64_t max_points, double margin,
                                                      double z_margin, std::optional<Tensor> lengths,
                                                      std::optional<Tensor> box_lengths,
                                                      std::optional<Tensor> offsets,
                                                      std::optional<Tensor> box_offsets, bool validate) {
  check(max_points >= 0 && max_points < kLimit, "points_in_boxes_padded: max_points: expected 0 to 2^31 - 1");
  const Inputs inputs = make_inputs(points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  const int64_t rows = boxes.numel() / 7;
  Tensor point = boxes.dim() == 3 ? empty_cpu({boxes.size(0), boxes.size(1), max_points}, ScalarType::Int)
                                  : empty_cpu({rows, max_points}, ScalarType::Int);
  Tensor count = boxes.dim() == 3 ? empty_cpu({boxes.size(0), boxes.size(1)}, ScalarType::Int)
                                  : empty_cpu({rows}, ScalarType::Int);
  std::memset(out<int32_t>(point), 0xff, static_cast<size_t>(point.numel()) * sizeof(int32_t));
  std::memset(out<int32_t>(count), 0, static_cast<size_t>(rows) * sizeof(int32_t));
  Scratch scratch;
  const Places places = count_hits(inputs, scratch);
  int64_t* limit = scratch.take<int64_t>(rows);
  int64_t next = 0;
  for (const BoxElement& e : inputs.elements) {
    const int64_t pieces = box_pieces(e);
    for (int64_t j = 0; j < e.box_count; ++j, next += pieces) {
      const int64_t row = e.box_begin + j;
      limit[row] = (row + 1) * max_points;
      out<int32_t>(count)[row] =
          static_cast<int32_t>(to_places(places.entry + next, pieces, row * max_points) - row * max_points);
    }
  }
  Outputs outputs{BoxOutput::fill};
  outputs.place = places.entry;
  outputs.point = out<int32_t>(point);
  outputs.limit = limit;
  run(inputs, outputs);
  return {point, count};
}

TENFOLD_CONTRACT(points_in_boxes_first, 1);
TENFOLD_CONTRACT(points_in_boxes_mask, 1);
TENFOLD_CONTRACT(points_in_boxes_csr, 1);
TENFOLD_CONTRACT(points_in_boxes_padded, 1);

STABLE_TORCH_LIBRARY_IMPL(tenfold, CPU, m) {
  m.impl("points_in_boxes_first", TORCH_BOX(&points_in_boxes_first_cpu));
  m.impl("points_in_boxes_mask", TORCH_BOX(&points_in_boxes_mask_cpu));
  m.impl("points_in_boxes_csr", TORCH_BOX(&points_in_boxes_csr_cpu));
  m.impl("points_in_boxes_padded", TORCH_BOX(&points_in_boxes_padded_cpu));
}

}  // namespace
}  // namespace tenfold::bind
