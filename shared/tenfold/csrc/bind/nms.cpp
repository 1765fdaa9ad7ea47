#include "nms/nms.h"

#include <cstring>

#include "bind/common.h"

namespace tenfold::bind {
namespace {

[[noreturn]] void bad_row(int what, int64_t row) {
  const std::string where = "row " + std::to_string(row);
  switch (what) {
    case 1: value_error("nms: boxes: " + where + " is not finite; expected finite coordinates");
    case 2: value_error("nms: boxes: " + where + " is inverted; expected x1 <= x2 and y1 <= y2");
    default: value_error("nms: scores: " + where + " is NaN; expected numbers");
  }
}

template <class T, class Kernel>
Tensor run(Kernel kernel, const Tensor& boxes, const Tensor& scores, double iou_threshold,
           std::optional<double> score_threshold, std::optional<int64_t> max_out, bool validate) {
  NmsArgs<T> args{};
  args.boxes = in<T>(boxes);
  args.scores = in<T>(scores);
  args.n = boxes.size(0);
  args.iou_threshold = iou_threshold;
  args.use_score_threshold = score_threshold.has_value();
  args.score_threshold = score_threshold.value_or(0.0);
  args.max_out = max_out.value_or(-1);
  args.validate = validate;
  args.parallel = torch_parallel();
  Scratch scratch;
  args.keep = scratch.take<int64_t>(args.n);
  kernel(args);
  if (args.bad_row >= 0) bad_row(args.bad_what, args.bad_row);
  Tensor keep = empty_cpu({args.kept}, ScalarType::Long);
  std::memcpy(out<int64_t>(keep), args.keep, static_cast<size_t>(args.kept) * sizeof(int64_t));
  return keep;
}

Tensor nms_cpu(Tensor boxes, Tensor scores, double iou_threshold, std::optional<double> score_threshold,
               std::optional<int64_t> max_out, bool validate) {
  check(boxes.dim() == 2 && boxes.size(1) == 4, "nms: boxes: expected shape (N, 4)");
  check(scores.dim() == 1 && scores.size(0) == boxes.size(0), "nms: scores: expected shape (N,)");
  check(boxes.scalar_type() == scores.scalar_type(), "nms: scores: expected the dtype of boxes");
  check(boxes.size(0) < (int64_t{1} << 31), "nms: boxes: expected fewer than 2^31 rows");
  const Tensor b = as_contiguous(boxes);
  const Tensor s = as_contiguous(scores);
  if (b.scalar_type() == ScalarType::Float)
    return run<float>(dispatch::nms_f32, b, s, iou_threshold, score_threshold, max_out, validate);
  check(b.scalar_type() == ScalarType::Double, "nms: boxes: expected float32 or float64");
  return run<double>(dispatch::nms_f64, b, s, iou_threshold, score_threshold, max_out, validate);
}

TENFOLD_CONTRACT(nms, 1);

STABLE_TORCH_LIBRARY_IMPL(tenfold, CPU, m) { m.impl("nms", TORCH_BOX(&nms_cpu)); }

}  // namespace
}  // namespace tenfold::bind
