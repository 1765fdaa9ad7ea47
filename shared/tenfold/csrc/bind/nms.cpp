#include "nms/nms.h"

#include "bind/common.h"
#include "bind/kept.h"

namespace tenfold::bind {
namespace {

[[noreturn]] void bad_row(const char* op, int what, int64_t row) {
  const std::string where = "row " + std::to_string(row);
  const std::string name(op);
  switch (what) {
    case 1: value_error(name + ": boxes: " + where + " is not finite; expected finite coordinates");
    case 2: value_error(name + ": boxes: " + where + " is inverted; expected x1 <= x2 and y1 <= y2");
    default: value_error(name + ": scores: " + where + " is NaN; expected numbers");
  }
}

struct Options {
  const char* op;
  double iou_threshold;
  std::optional<double> score_threshold;
  std::optional<int64_t> max_out;
  bool validate;
};

// Calls result(kept rows) while the scratch that holds them lives.
template <class T, class Kernel, class F>
auto run_as(Kernel kernel, const Options& options, const Tensor& boxes, const Tensor& scores, const int64_t* labels,
            const int64_t* batch, F&& result) {
  NmsArgs<T> args{};
  args.boxes = in<T>(boxes);
  args.scores = in<T>(scores);
  args.labels = labels;
  args.batch = batch;
  args.n = boxes.size(0);
  args.iou_threshold = options.iou_threshold;
  args.use_score_threshold = options.score_threshold.has_value();
  args.score_threshold = options.score_threshold.value_or(0.0);
  args.max_out = options.max_out.value_or(-1);
  args.validate = options.validate;
  constexpr int64_t kWorthThreads = 4096;
  if (args.n >= kWorthThreads) args.parallel = torch_parallel();
  Scratch scratch;
  args.keep = scratch.take<int32_t>(args.n);
#ifdef TENFOLD_DEVICE
  args.parallel = torch_parallel();
  args.kept_count = scratch.take<int32_t>(1);
#endif
  kernel(args);
  if (args.bad_row >= 0) bad_row(options.op, args.bad_what, args.bad_row);
  return result(Kept{args.keep, args.kept, args.kept_count});
}

template <class F>
auto run(const Options& options, const Tensor& boxes, const Tensor& scores, const int64_t* labels,
         const int64_t* batch, F&& result) {
  const std::string op(options.op);
  const auto expect = [&](bool ok, const char* message) {
    if (!ok) value_error(op + message);
  };
  expect(boxes.dim() == 2 && boxes.size(1) == 4, ": boxes: expected shape (N, 4)");
  expect(scores.dim() == 1 && scores.size(0) == boxes.size(0), ": scores: expected shape (N,)");
  const ScalarType dtype = boxes.scalar_type();
  expect(scores.scalar_type() == dtype, ": scores: expected the dtype of boxes");
  expect(boxes.size(0) < (int64_t{1} << 31), ": boxes: expected fewer than 2^31 rows");
  expect(options.iou_threshold >= 0 && options.iou_threshold <= 1, ": iou_threshold: expected a value in [0, 1]");
  expect(dtype == ScalarType::Float || dtype == ScalarType::Double, ": boxes: expected float32 or float64");
  const Tensor b = as_contiguous(boxes);
  const Tensor s = as_contiguous(scores);
  if (dtype == ScalarType::Float) return run_as<float>(dispatch::nms_f32, options, b, s, labels, batch, result);
  return run_as<double>(dispatch::nms_f64, options, b, s, labels, batch, result);
}

Tensor nms_op(Tensor boxes, Tensor scores, double iou_threshold, std::optional<double> score_threshold,
               std::optional<int64_t> max_out, bool validate) {
  return run({"nms", iou_threshold, score_threshold, max_out, validate}, boxes, scores, nullptr, nullptr, row_list);
}

Tensor group_column(const Tensor& t, const Tensor& boxes, const std::string& name) {
  const bool fits = t.dim() == 1 && t.size(0) == boxes.size(0) && t.scalar_type() == ScalarType::Long;
  check(fits, (name + ": expected int64 of shape (N,)").c_str());
  return as_contiguous(t);
}

template <class F>
auto run_batched(const Options& options, const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                 const std::optional<Tensor>& batch, F&& result) {
  const std::string op(options.op);
  check(boxes.dim() == 2, (op + ": boxes: expected shape (N, 4)").c_str());
  const Tensor l = group_column(labels, boxes, op + ": labels");
  std::optional<Tensor> g;
  if (batch.has_value()) g = group_column(*batch, boxes, op + ": batch");
  return run(options, boxes, scores, in<int64_t>(l), g.has_value() ? in<int64_t>(*g) : nullptr, result);
}

Tensor batched_nms_op(Tensor boxes, Tensor scores, Tensor labels, double iou_threshold, std::optional<Tensor> batch,
                       std::optional<double> score_threshold, std::optional<int64_t> max_out, bool validate) {
  return run_batched({"batched_nms", iou_threshold, score_threshold, max_out, validate}, boxes, scores, labels, batch,
                     row_list);
}

using Padded = std::tuple<Tensor, Tensor>;

// Calls suppress(options, result) for a result of fixed size: rows with -1 behind them, and their number.
template <class F>
Padded padded(const Options& options, F&& suppress) {
  const int64_t size = *options.max_out;
  if (size < 0 || size >= (int64_t{1} << 31))
    value_error(std::string(options.op) + ": max_out: expected a count in [0, 2^31)");
  const Tensor keep = new_tensor({size}, ScalarType::Long);
  const Tensor count = new_tensor({}, ScalarType::Int);
  suppress(options, [&](const Kept& kept) { write_rows(kept, keep, &count); });
  return {keep, count};
}

Padded nms_padded_op(Tensor boxes, Tensor scores, double iou_threshold, int64_t max_out,
                      std::optional<double> score_threshold, bool validate) {
  return padded({"nms_padded", iou_threshold, score_threshold, max_out, validate}, [&](const Options& o, auto write) {
    run(o, boxes, scores, nullptr, nullptr, write);
  });
}

Padded batched_nms_padded_op(Tensor boxes, Tensor scores, Tensor labels, double iou_threshold, int64_t max_out,
                              std::optional<Tensor> batch, std::optional<double> score_threshold, bool validate) {
  return padded({"batched_nms_padded", iou_threshold, score_threshold, max_out, validate},
                [&](const Options& o, auto write) { run_batched(o, boxes, scores, labels, batch, write); });
}

TENFOLD_CONTRACT(nms, 1);
TENFOLD_CONTRACT(batched_nms, 1);
TENFOLD_CONTRACT(nms_padded, 1);
TENFOLD_CONTRACT(batched_nms_padded, 1);

TENFOLD_OPERATORS(m) {
  m.impl("nms", TENFOLD_BOX(nms_op));
  m.impl("batched_nms", TENFOLD_BOX(batched_nms_op));
  m.impl("nms_padded", TENFOLD_BOX(nms_padded_op));
  m.impl("batched_nms_padded", TENFOLD_BOX(batched_nms_padded_op));
}

}  // namespace
}  // namespace tenfold::bind
