#include "bind/points_in_boxes.h"

#include <cstring>

namespace tenfold::bind {
namespace {

constexpr BoxNames kNames{"points_in_boxes", "boxes", "box_"};

Tensor points_in_boxes_first_cpu(Tensor points, Tensor boxes, double margin, double z_margin,
                                 std::optional<Tensor> lengths, std::optional<Tensor> box_lengths,
                                 std::optional<Tensor> offsets, std::optional<Tensor> box_offsets, bool validate) {
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  Tensor first = points.dim() == 3 ? empty_cpu({points.size(0), points.size(1)}, ScalarType::Int)
                                   : empty_cpu({points.size(0)}, ScalarType::Int);
  std::memset(out<int32_t>(first), 0xff, static_cast<size_t>(first.numel()) * sizeof(int32_t));
  BoxOutputs outputs{BoxOutput::first};
  outputs.first = out<int32_t>(first);
  find_points(inputs, outputs);
  return first;
}

Tensor points_in_boxes_mask_cpu(Tensor points, Tensor boxes, double margin, double z_margin,
                                std::optional<Tensor> lengths, std::optional<Tensor> box_lengths,
                                std::optional<Tensor> offsets, std::optional<Tensor> box_offsets, bool validate) {
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  Tensor mask = points.dim() == 3 ? empty_cpu({points.size(0), boxes.size(1), points.size(1)}, ScalarType::Bool)
                                  : empty_cpu({boxes.size(0), points.size(0)}, ScalarType::Bool);
  auto* bytes = static_cast<uint8_t*>(mask.mutable_data_ptr());
  std::memset(bytes, 0, static_cast<size_t>(mask.numel()));
  BoxOutputs outputs{BoxOutput::mask};
  outputs.mask = bytes;
  find_points(inputs, outputs);
  return mask;
}

std::tuple<Tensor, Tensor> points_in_boxes_csr_cpu(Tensor points, Tensor boxes, double margin, double z_margin,
                                                   std::optional<Tensor> offsets, std::optional<Tensor> box_offsets,
                                                   bool validate) {
  check(points.dim() == 2, "points_in_boxes: points: expected stacked points with mode csr");
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, std::nullopt, std::nullopt, offsets, box_offsets, validate);
  Scratch scratch;
  const Places places = count_hits(inputs, scratch);
  Tensor bounds = empty_cpu({boxes.size(0) + 1}, ScalarType::Long);
  const int64_t total = to_lists(inputs, places, out<int64_t>(bounds));
  Tensor point = empty_cpu({total}, ScalarType::Int);
  BoxOutputs outputs{BoxOutput::fill};
  outputs.place = places.entry;
  outputs.point = out<int32_t>(point);
  find_points(inputs, outputs);
  return {bounds, point};
}

std::tuple<Tensor, Tensor> points_in_boxes_padded_cpu(Tensor points, Tensor boxes, int64_t max_points, double margin,
                                                      double z_margin, std::optional<Tensor> lengths,
                                                      std::optional<Tensor> box_lengths,
                                                      std::optional<Tensor> offsets,
                                                      std::optional<Tensor> box_offsets, bool validate) {
  check(max_points >= 0 && max_points < kRowLimit, "points_in_boxes_padded: max_points: expected 0 to 2^31 - 1");
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  const int64_t rows = boxes.numel() / 7;
  Tensor point = boxes.dim() == 3 ? empty_cpu({boxes.size(0), boxes.size(1), max_points}, ScalarType::Int)
                                  : empty_cpu({rows, max_points}, ScalarType::Int);
  Tensor count = boxes.dim() == 3 ? empty_cpu({boxes.size(0), boxes.size(1)}, ScalarType::Int)
                                  : empty_cpu({rows}, ScalarType::Int);
  std::memset(out<int32_t>(point), 0xff, static_cast<size_t>(point.numel()) * sizeof(int32_t));
  std::memset(out<int32_t>(count), 0, static_cast<size_t>(rows) * sizeof(int32_t));
  fill_table(inputs, max_points, out<int32_t>(point), out<int32_t>(count));
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
