#include "bind/points_in_boxes.h"

namespace tenfold::bind {
namespace {

constexpr BoxNames kNames{"points_in_boxes", "boxes", "box_"};

Tensor points_in_boxes_first_op(Tensor points, Tensor boxes, double margin, double z_margin,
                                 std::optional<Tensor> lengths, std::optional<Tensor> box_lengths,
                                 std::optional<Tensor> offsets, std::optional<Tensor> box_offsets, bool validate) {
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  Tensor first = points.dim() == 3 ? new_tensor({points.size(0), points.size(1)}, ScalarType::Int)
                                   : new_tensor({points.size(0)}, ScalarType::Int);
  fill_with(first, 0xff);
  BoxOutputs outputs{BoxOutput::first};
  outputs.first = out<int32_t>(first);
  find_points(inputs, outputs);
  return first;
}

Tensor points_in_boxes_mask_op(Tensor points, Tensor boxes, double margin, double z_margin,
                                std::optional<Tensor> lengths, std::optional<Tensor> box_lengths,
                                std::optional<Tensor> offsets, std::optional<Tensor> box_offsets, bool validate) {
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  Tensor mask = points.dim() == 3 ? new_tensor({points.size(0), boxes.size(1), points.size(1)}, ScalarType::Bool)
                                  : new_tensor({boxes.size(0), points.size(0)}, ScalarType::Bool);
  fill_with(mask, 0);
  BoxOutputs outputs{BoxOutput::mask};
  outputs.mask = static_cast<uint8_t*>(mask.mutable_data_ptr());
  find_points(inputs, outputs);
  return mask;
}

std::tuple<Tensor, Tensor> points_in_boxes_csr_op(Tensor points, Tensor boxes, double margin, double z_margin,
                                                   std::optional<Tensor> offsets, std::optional<Tensor> box_offsets,
                                                   bool validate) {
  check(points.dim() == 2, "points_in_boxes: points: expected stacked points with mode csr");
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, std::nullopt, std::nullopt, offsets, box_offsets, validate);
  Scratch scratch;
  const Places places = count_hits(inputs, scratch);
  Tensor bounds = new_tensor({boxes.size(0) + 1}, ScalarType::Long);
  const int64_t total = to_lists(inputs, places, out<int64_t>(bounds));
  Tensor point = new_tensor({total}, ScalarType::Int);
  BoxOutputs outputs{BoxOutput::fill};
  outputs.place = places.entry;
  outputs.point = out<int32_t>(point);
  find_points(inputs, outputs);
  return {bounds, point};
}

std::tuple<Tensor, Tensor> points_in_boxes_padded_op(Tensor points, Tensor boxes, int64_t max_points, double margin,
                                                      double z_margin, std::optional<Tensor> lengths,
                                                      std::optional<Tensor> box_lengths,
                                                      std::optional<Tensor> offsets,
                                                      std::optional<Tensor> box_offsets, bool validate) {
  check(max_points >= 0 && max_points < kRowLimit, "points_in_boxes_padded: max_points: expected 0 to 2^31 - 1");
  const PointsBoxes inputs =
      points_boxes(kNames, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate);
  const int64_t rows = boxes.numel() / 7;
  Tensor point = boxes.dim() == 3 ? new_tensor({boxes.size(0), boxes.size(1), max_points}, ScalarType::Int)
                                  : new_tensor({rows, max_points}, ScalarType::Int);
  Tensor count = boxes.dim() == 3 ? new_tensor({boxes.size(0), boxes.size(1)}, ScalarType::Int)
                                  : new_tensor({rows}, ScalarType::Int);
  fill_with(point, 0xff);
  fill_with(count, 0);
  fill_table(inputs, max_points, out<int32_t>(point), out<int32_t>(count));
  return {point, count};
}

TENFOLD_CONTRACT(points_in_boxes_first, 1);
TENFOLD_CONTRACT(points_in_boxes_mask, 1);
TENFOLD_CONTRACT(points_in_boxes_csr, 1);
TENFOLD_CONTRACT(points_in_boxes_padded, 1);

TENFOLD_OPERATORS(m) {
  m.impl("points_in_boxes_first", TENFOLD_BOX(points_in_boxes_first_op));
  m.impl("points_in_boxes_mask", TENFOLD_BOX(points_in_boxes_mask_op));
  m.impl("points_in_boxes_csr", TENFOLD_BOX(points_in_boxes_csr_op));
  m.impl("points_in_boxes_padded", TENFOLD_BOX(points_in_boxes_padded_op));
}

}  // namespace
}  // namespace tenfold::bind
