#include "nms/nms_rotated.h"

#include "bind/common.h"
#include "bind/kept.h"

namespace tenfold::bind {
namespace {

struct Options {
  std::optional<Tensor> labels, batch;
  double iou_threshold;
  NmsMetric metric;
  std::optional<int64_t> pre_max, post_max;
  bool validate;
};

const char* name_of(NmsMetric metric) {
  switch (metric) {
    case NmsMetric::bev: return "nms_rotated";
    case NmsMetric::volume: return "nms_3d";
    default: return "nms_bev_aligned";
  }
}

[[noreturn]] void bad_row(const std::string& op, int what, int64_t row) {
  const std::string where = "row " + std::to_string(row);
  if (what == 1) value_error(op + ": boxes: " + where + " is not finite; expected finite boxes");
  value_error(op + ": scores: " + where + " is NaN; expected numbers");
}

// Calls result(kept rows) while the scratch that holds them lives.
template <class T, class Kernel, class Result>
void run(Kernel kernel, const Tensor& boxes, const Tensor& scores, const Options& options, Result&& result) {
  NmsRotatedArgs<T> args{};
  args.boxes = in<T>(boxes);
  args.columns = static_cast<int>(boxes.size(1));
  args.scores = in<T>(scores);
  args.labels = options.labels ? in<int64_t>(*options.labels) : nullptr;
  args.batch = options.batch ? in<int64_t>(*options.batch) : nullptr;
  args.n = boxes.size(0);
  args.metric = options.metric;
  args.iou_threshold = options.iou_threshold;
  args.pre_max = options.pre_max.value_or(-1);
  args.post_max = options.post_max.value_or(-1);
  args.validate = options.validate;
  args.parallel = torch_parallel();
  Scratch scratch;
  args.keep = scratch.take<int32_t>(args.n);
#ifdef TENFOLD_DEVICE
  args.kept_count = scratch.take<int32_t>(1);
#endif
  kernel(args);
  if (args.bad_row >= 0) bad_row(name_of(options.metric), args.bad_what, args.bad_row);
  result(Kept{args.keep, args.kept, args.kept_count});
}

void check_groups(const std::optional<Tensor>& groups, int64_t n) {
  if (!groups) return;
  check(groups->dim() == 1 && groups->size(0) == n && groups->scalar_type() == ScalarType::Long,
        "nms_rotated: labels, batch: expected int64 of shape (N,)");
}

template <class Result>
void dispatch_dtype(const Tensor& boxes, const Tensor& scores, Options options, Result&& result) {
  check(boxes.dim() == 2 && (boxes.size(1) == 5 || boxes.size(1) == 7),
        "nms_rotated: boxes: expected shape (N, 5) or (N, 7)");
  check(options.metric != NmsMetric::volume || boxes.size(1) == 7, "nms_3d: boxes: expected shape (N, 7)");
  check(scores.dim() == 1 && scores.size(0) == boxes.size(0), "nms_rotated: scores: expected shape (N,)");
  check(boxes.scalar_type() == scores.scalar_type(), "nms_rotated: scores: expected the dtype of boxes");
  check(boxes.size(0) < (int64_t{1} << 31), "nms_rotated: boxes: expected fewer than 2^31 rows");
  check(options.iou_threshold >= 0.0, "nms_rotated: iou_threshold: expected a value >= 0");
  check_groups(options.labels, boxes.size(0));
  check_groups(options.batch, boxes.size(0));
  const Tensor b = as_contiguous(boxes);
  const Tensor s = as_contiguous(scores);
  if (options.labels) options.labels = as_contiguous(*options.labels);
  if (options.batch) options.batch = as_contiguous(*options.batch);
  if (b.scalar_type() == ScalarType::Float) return run<float>(dispatch::nms_rotated_f32, b, s, options, result);
  check(b.scalar_type() == ScalarType::Double, "nms_rotated: boxes: expected float32 or float64");
  run<double>(dispatch::nms_rotated_f64, b, s, options, result);
}

NmsMetric metric_of(int64_t metric) {
  check(metric >= 0 && metric <= 2, "nms_rotated: metric: expected 0 (bev), 1 (3d) or 2 (aligned bev)");
  return static_cast<NmsMetric>(metric);
}

Tensor nms_rotated_op(Tensor boxes, Tensor scores, std::optional<Tensor> labels, std::optional<Tensor> batch,
                       double iou_threshold, int64_t metric, std::optional<int64_t> pre_max,
                       std::optional<int64_t> post_max, bool validate) {
  std::optional<Tensor> keep;
  const Options options{labels, batch, iou_threshold, metric_of(metric), pre_max, post_max, validate};
  dispatch_dtype(boxes, scores, options, [&](const Kept& kept) { keep = row_list(kept); });
  return *keep;
}

std::tuple<Tensor, Tensor> nms_rotated_padded_op(Tensor boxes, Tensor scores, std::optional<Tensor> labels,
                                                  double iou_threshold, int64_t metric,
                                                  std::optional<int64_t> pre_max, int64_t post_max, bool validate) {
  check(post_max >= 0 && post_max < (int64_t{1} << 31), "nms_rotated_padded: post_max: expected a count < 2^31");
  Tensor keep = new_tensor({post_max}, ScalarType::Long);
  Tensor count = new_tensor({}, ScalarType::Int);
  const Options options{labels, {}, iou_threshold, metric_of(metric), pre_max, post_max, validate};
  dispatch_dtype(boxes, scores, options, [&](const Kept& kept) { write_rows(kept, keep, &count); });
  return {keep, count};
}

TENFOLD_CONTRACT(nms_rotated, 1);
TENFOLD_CONTRACT(nms_rotated_padded, 1);

TENFOLD_OPERATORS(m) {
  m.impl("nms_rotated", TENFOLD_BOX(nms_rotated_op));
  m.impl("nms_rotated_padded", TENFOLD_BOX(nms_rotated_padded_op));
}

}  // namespace
}  // namespace tenfold::bind
