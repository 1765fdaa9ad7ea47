#include "fps/fps.h"

#include <vector>

#include "bind/batching.h"
#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr const char* kOp = "farthest_point_sample";
constexpr int64_t kLimit = int64_t{1} << 31;

int64_t one_of(const std::vector<int64_t>& values, size_t element) {
  return values.size() == 1 ? values[0] : values[element];
}

struct Plan {
  std::vector<FpsElement> elements;
  std::vector<int64_t> size;  // of the result
  int64_t width;              // padded: columns of the result; otherwise 0
};

// Padded results have one row for each element, as long as the longest.
Plan make_plan(const std::vector<RowRange>& ranges, const std::vector<int64_t>& m, const std::vector<int64_t>& start,
               bool padded) {
  check(m.size() == 1 || m.size() == ranges.size(), "farthest_point_sample: m: expected one number, or one each");
  check(start.size() == 1 || start.size() == ranges.size(),
        "farthest_point_sample: start: expected one number, or one each");
  Plan plan{{}, {}, 0};
  for (const int64_t samples : m) {
    check(samples >= 0 && samples < kLimit, "farthest_point_sample: m: expected 0 to 2^31 - 1");
    if (padded && samples > plan.width) plan.width = samples;
  }
  int64_t place = 0;
  for (size_t e = 0; e < ranges.size(); ++e) {
    const RowRange& range = ranges[e];
    const int64_t first = one_of(start, e);
    if (range.count > 0 && (first < 0 || first >= range.count))
      value_error(std::string(kOp) + ": start: got " + std::to_string(first) + " for batch element " +
                  std::to_string(e) + "; expected a row from 0 to " + std::to_string(range.count - 1));
    const int64_t samples = one_of(m, e);
    plan.elements.push_back({range.begin, range.count, first, samples, place});
    place += padded ? plan.width : samples;
  }
  if (padded)
    plan.size = {static_cast<int64_t>(ranges.size()), plan.width};
  else
    plan.size = {place};
  return plan;
}

template <class T, class Kernel>
void run(Kernel kernel, const Tensor& xyz, int64_t dims, const std::vector<RowRange>& ranges, const Plan& plan,
         bool validate, const Tensor& result) {
  FpsArgs<T> args{};
  args.xyz = in<T>(xyz);
  args.columns = xyz.size(xyz.dim() - 1);
  args.dims = dims;
  args.elements = plan.elements.data();
  args.num_elements = static_cast<int64_t>(plan.elements.size());
  args.global_index = xyz.dim() == 2;
  args.validate = validate;
  args.parallel = torch_parallel();
  args.out = out<int64_t>(result);
  kernel(args);
  if (args.bad_element < 0) return;
  value_error(std::string(kOp) + ": xyz: " +
              row_text(xyz, ranges[static_cast<size_t>(args.bad_element)], args.bad_element, args.bad_row) +
              " is not finite; expected finite coordinates");
}

Tensor fps_op(Tensor xyz, std::vector<int64_t> m, std::vector<int64_t> start, int64_t dims,
               std::optional<Tensor> lengths, std::optional<Tensor> offsets, bool validate) {
  check(xyz.dim() == 2 || xyz.dim() == 3, "farthest_point_sample: xyz: expected shape (N, C) or (B, N, C)");
  check(dims >= 1 && dims <= xyz.size(xyz.dim() - 1), "farthest_point_sample: dims: expected 1 to C");
  check(xyz.size(xyz.dim() - 2) < kLimit, "farthest_point_sample: xyz: expected fewer than 2^31 points");
  check_offsets(kOp, offsets);
  const Tensor p = as_contiguous(xyz);
  std::vector<RowRange> ranges(static_cast<size_t>(batch_size(p, offsets)));
  row_ranges(kOp, "", p, lengths, offsets, ranges.data());
  const Plan plan = make_plan(ranges, m, start, p.dim() == 3);
  Tensor result = new_tensor(plan.size, ScalarType::Long);
  fill_with(result, 0xff);  // entries behind an element's own samples
  if (p.scalar_type() == ScalarType::Float) {
    run<float>(dispatch::fps_f32, p, dims, ranges, plan, validate, result);
  } else {
    check(p.scalar_type() == ScalarType::Double, "farthest_point_sample: xyz: expected float32 or float64");
    run<double>(dispatch::fps_f64, p, dims, ranges, plan, validate, result);
  }
  return result;
}

template <class T, class Kernel>
void run_dist(Kernel kernel, const Tensor& dist, const Plan& plan, bool validate, const Tensor& result) {
  FpsDistArgs<T> args{};
  args.dist = in<T>(dist);
  args.n = dist.size(1);
  args.elements = plan.elements.data();
  args.num_elements = static_cast<int64_t>(plan.elements.size());
  args.validate = validate;
  args.parallel = torch_parallel();
  args.out = out<int64_t>(result);
  kernel(args);
  if (args.bad_element < 0) return;
  value_error(std::string(kOp) + ": dist: entry (" + std::to_string(args.bad_element) + ", " +
              std::to_string(args.bad_row) + ", " + std::to_string(args.bad_column) +
              ") is not finite; expected finite distances");
}

Tensor fps_dist_op(Tensor dist, std::vector<int64_t> m, std::vector<int64_t> start, std::optional<Tensor> lengths,
                    bool validate) {
  check(dist.dim() == 3 && dist.size(1) == dist.size(2), "farthest_point_sample: dist: expected shape (B, N, N)");
  check(dist.size(1) < kLimit, "farthest_point_sample: dist: expected fewer than 2^31 points");
  const Tensor d = as_contiguous(dist);
  std::vector<RowRange> ranges(static_cast<size_t>(d.size(0)));
  row_ranges(kOp, "", d, lengths, std::nullopt, ranges.data());
  const Plan plan = make_plan(ranges, m, start, true);
  Tensor result = new_tensor(plan.size, ScalarType::Long);
  fill_with(result, 0xff);
  if (d.scalar_type() == ScalarType::Float) {
    run_dist<float>(dispatch::fps_dist_f32, d, plan, validate, result);
  } else {
    check(d.scalar_type() == ScalarType::Double, "farthest_point_sample: dist: expected float32 or float64");
    run_dist<double>(dispatch::fps_dist_f64, d, plan, validate, result);
  }
  return result;
}

TENFOLD_CONTRACT(farthest_point_sample, 1);
TENFOLD_CONTRACT(farthest_point_sample_dist, 1);

TENFOLD_OPERATORS(m) {
  m.impl("farthest_point_sample", TENFOLD_BOX(fps_op));
  m.impl("farthest_point_sample_dist", TENFOLD_BOX(fps_dist_op));
}

}  // namespace
}  // namespace tenfold::bind
