#include "ttf_targets/ttf_targets.h"

#include "bind/common.h"

namespace tenfold::bind {
namespace {

std::tuple<Tensor, Tensor, Tensor> ttf_targets_op(Tensor boxes, Tensor labels, int64_t num_classes, int64_t height,
                                                   int64_t width, int64_t stride, double alpha, double beta,
                                                   int64_t area, int64_t weight, int64_t shape, bool validate) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  check(boxes.dim() == 3 && boxes.size(2) == 4 && boxes.scalar_type() == ScalarType::Float,
        "ttf_targets: boxes: expected float32 of shape (B, M, 4)");
  check(labels.dim() == 2 && labels.size(0) == boxes.size(0) && labels.size(1) == boxes.size(1) &&
            labels.scalar_type() == ScalarType::Long,
        "ttf_targets: labels: expected int64 of shape (B, M)");
  check(boxes.size(1) < kLimit, "ttf_targets: boxes: expected fewer than 2^31 rows");
  check(num_classes >= 0 && height >= 0 && width >= 0 && num_classes < kLimit && height < kLimit && width < kLimit,
        "ttf_targets: sizes: expected 0 to 2^31 - 1");
  const double entries = static_cast<double>(num_classes > 4 ? num_classes : 4) * static_cast<double>(height) *
                         static_cast<double>(width) * static_cast<double>(boxes.size(0));
  check(entries < static_cast<double>(kLimit), "ttf_targets: sizes: expected maps of fewer than 2^31 entries");
  check(stride >= 1, "ttf_targets: stride: expected at least 1");
  check(alpha >= 0 && alpha <= 1e3 && beta >= 0 && beta <= 1e3, "ttf_targets: alpha, beta: expected 0 to 1000");
  check(area >= 0 && area <= 3 && weight >= 0 && weight <= 2 && shape >= 0 && shape <= 1,
        "ttf_targets: area, weight, shape: expected known codes");
  const Tensor b = as_contiguous(boxes), l = as_contiguous(labels);
  TtfTargetsArgs args{};
  args.boxes = in<float>(b);
  args.labels = in<int64_t>(l);
  args.batch = b.size(0);
  args.boxes_per_image = b.size(1);
  args.classes = num_classes;
  args.height = height;
  args.width = width;
  args.stride = stride;
  args.alpha = alpha;
  args.beta = beta;
  args.importance = static_cast<BoxImportance>(area);
  args.weight = static_cast<CellWeight>(weight);
  args.circular = shape == 1;
  args.validate = validate;
  args.parallel = torch_parallel();
  Tensor heat = new_tensor({args.batch, num_classes, height, width}, ScalarType::Float);
  Tensor target = new_tensor({args.batch, 4, height, width}, ScalarType::Float);
  Tensor weights = new_tensor({args.batch, height, width}, ScalarType::Float);
  args.heat = out<float>(heat);
  args.target = out<float>(target);
  args.weight_map = out<float>(weights);
  dispatch::ttf_targets(args);
  if (args.bad_what != 0) {
    const std::string where = "row " + std::to_string(args.bad_row) + " of image " + std::to_string(args.bad_image);
    if (args.bad_what == 1)
      value_error("ttf_targets: labels: " + where + " is above " + std::to_string(num_classes - 1) +
                  "; expected -1 (padding) or a class");
    value_error("ttf_targets: boxes: " + where + " is not finite; expected finite numbers");
  }
  return {heat, target, weights};
}

TENFOLD_CONTRACT(ttf_targets, 1);

TENFOLD_OPERATORS(m) { m.impl("ttf_targets", TENFOLD_BOX(ttf_targets_op)); }

}  // namespace
}  // namespace tenfold::bind
