#include "ball_query/ball_query.h"

#include <vector>

#include "bind/batching.h"
#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;

struct Batch {
  TwoRanges ranges;  // of points and centres
  std::vector<BallElement> elements;
};

void check_points(const Tensor& xyz, const Tensor& centers) {
  check(xyz.dim() == 2 || xyz.dim() == 3, "ball_query: xyz: expected shape (N, 3) or (B, N, 3)");
  check(centers.dim() == xyz.dim(), "ball_query: centers: expected as many dimensions as xyz");
  check(xyz.size(xyz.dim() - 1) == 3, "ball_query: xyz: expected 3 columns");
  check(centers.size(centers.dim() - 1) == 3, "ball_query: centers: expected 3 columns");
  check(xyz.dim() == 2 || xyz.size(0) == centers.size(0), "ball_query: centers: expected the batch size of xyz");
  check(xyz.scalar_type() == centers.scalar_type(), "ball_query: centers: expected the dtype of xyz");
  check(xyz.numel() / 3 < kLimit, "ball_query: xyz: expected fewer than 2^31 points");
  check(centers.numel() / 3 < kLimit, "ball_query: centers: expected fewer than 2^31 centres");
}

Batch make_batch(const Tensor& xyz, const Tensor& centers, const std::optional<Tensor>& lengths,
                 const std::optional<Tensor>& center_lengths, const std::optional<Tensor>& offsets,
                 const std::optional<Tensor>& center_offsets) {
  Batch batch{two_ranges("ball_query", "center_", xyz, centers, lengths, center_lengths, offsets, center_offsets), {}};
  for (size_t e = 0; e < batch.ranges.first.size(); ++e) {
    const RowRange& p = batch.ranges.first[e];
    const RowRange& c = batch.ranges.second[e];
    batch.elements.push_back({p.begin, p.count, c.begin, c.count, c.rows});
  }
  return batch;
}

template <class T, class Kernel>
void run(Kernel kernel, const Tensor& xyz, const Tensor& centers, const Batch& batch,
         const std::vector<BallScale>& scales, bool validate) {
  BallQueryArgs<T> args{};
  args.xyz = in<T>(xyz);
  args.centers = in<T>(centers);
  args.elements = batch.elements.data();
  args.num_elements = static_cast<int64_t>(batch.elements.size());
  args.global_index = xyz.dim() == 2;
  args.scales = scales.data();
  args.num_scales = static_cast<int64_t>(scales.size());
  args.validate = validate;
  args.parallel = torch_parallel();
  kernel(args);
  if (args.bad_what == 0) return;
  const bool point = args.bad_what == 1;
  const auto e = static_cast<size_t>(args.bad_element);
  value_error(std::string("ball_query: ") + (point ? "xyz: " : "centers: ") +
              row_text(xyz, point ? batch.ranges.first[e] : batch.ranges.second[e], args.bad_element, args.bad_row) +
              " is not finite; expected finite coordinates");
}

// idx and count of every radius in turn.
std::vector<Tensor> ball_query_multi_op(Tensor xyz, Tensor centers, std::vector<double> radii,
                                         std::vector<double> min_radii, std::vector<int64_t> ks,
                                         std::optional<Tensor> lengths, std::optional<Tensor> center_lengths,
                                         std::optional<Tensor> offsets, std::optional<Tensor> center_offsets,
                                         bool validate) {
  check_points(xyz, centers);
  check(!radii.empty() && min_radii.size() == radii.size() && ks.size() == radii.size(),
        "ball_query: radii: expected as many radii, minimum radii and ks, at least one");
  const Tensor p = as_contiguous(xyz);
  const Tensor q = as_contiguous(centers);
  const Batch batch = make_batch(p, q, lengths, center_lengths, offsets, center_offsets);
  std::vector<Tensor> tables;
  std::vector<BallScale> scales;
  for (size_t s = 0; s < radii.size(); ++s) {
    const double r = radii[s];
    const double r_min = min_radii[s];
    check(r > 0 && r <= std::numeric_limits<double>::max(), "ball_query: radius: expected a positive, finite number");
    check(r_min >= 0 && r_min <= r, "ball_query: min_radius: expected a number from 0 to radius");
    check(ks[s] >= 1 && ks[s] < kLimit, "ball_query: k: expected 1 to 2^31 - 1");
    if (q.dim() == 3) {
      tables.push_back(new_tensor({q.size(0), q.size(1), ks[s]}, ScalarType::Int));
      tables.push_back(new_tensor({q.size(0), q.size(1)}, ScalarType::Int));
    } else {
      tables.push_back(new_tensor({q.size(0), ks[s]}, ScalarType::Int));
      tables.push_back(new_tensor({q.size(0)}, ScalarType::Int));
    }
    scales.push_back({r, r_min, ks[s], out<int32_t>(tables[2 * s]), out<int32_t>(tables[2 * s + 1])});
  }
  if (p.scalar_type() == ScalarType::Float) {
    run<float>(dispatch::ball_query_f32, p, q, batch, scales, validate);
  } else {
    check(p.scalar_type() == ScalarType::Double, "ball_query: xyz: expected float32 or float64");
    run<double>(dispatch::ball_query_f64, p, q, batch, scales, validate);
  }
  return tables;
}

std::tuple<Tensor, Tensor> ball_query_op(Tensor xyz, Tensor centers, double radius, double min_radius, int64_t k,
                                          std::optional<Tensor> lengths, std::optional<Tensor> center_lengths,
                                          std::optional<Tensor> offsets, std::optional<Tensor> center_offsets,
                                          bool validate) {
  const std::vector<Tensor> tables = ball_query_multi_op(xyz, centers, {radius}, {min_radius}, {k}, lengths,
                                                          center_lengths, offsets, center_offsets, validate);
  return {tables[0], tables[1]};
}

TENFOLD_CONTRACT(ball_query, 1);
TENFOLD_CONTRACT(ball_query_multi, 1);

TENFOLD_OPERATORS(m) {
  m.impl("ball_query", TENFOLD_BOX(ball_query_op));
  m.impl("ball_query_multi", TENFOLD_BOX(ball_query_multi_op));
}

}  // namespace
}  // namespace tenfold::bind
