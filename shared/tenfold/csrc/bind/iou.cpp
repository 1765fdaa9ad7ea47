#include "iou/iou.h"

#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kRows = int64_t{1} << 31;

[[noreturn]] void bad_row(const std::string& op, int which, int64_t row) {
  value_error(op + ": " + (which == 0 ? "a" : "b") + ": row " + std::to_string(row) +
              " is not finite; expected finite boxes");
}

void check_boxes(const Tensor& a, const Tensor& b) {
  for (const Tensor* t : {&a, &b}) {
    check(t->dim() == 2 && (t->size(1) == 5 || t->size(1) == 7), "box_iou: boxes: expected shape (N, 5) or (N, 7)");
    check(t->size(0) < kRows, "box_iou: boxes: expected fewer than 2^31 rows");
  }
  check(a.scalar_type() == b.scalar_type(), "box_iou: b: expected the dtype of a");
  check(a.scalar_type() == ScalarType::Float || a.scalar_type() == ScalarType::Double,
        "box_iou: boxes: expected float32 or float64");
}

const char* name_of(IouKind kind) {
  switch (kind) {
    case IouKind::bev: return "box_iou_bev";
    case IouKind::volume: return "box_iou_3d";
    default: return "box_iou_aligned_3d";
  }
}

template <class T, class Kernel>
Tensor run(Kernel kernel, const Tensor& a, const Tensor& b, IouKind kind, IouMode mode, bool paired, bool validate) {
  BoxIouArgs<T> args{};
  args.a = in<T>(a);
  args.b = in<T>(b);
  args.n = a.size(0);
  args.m = b.size(0);
  args.a_columns = static_cast<int>(a.size(1));
  args.b_columns = static_cast<int>(b.size(1));
  args.kind = kind;
  args.mode = mode;
  args.paired = paired;
  args.validate = validate;
  args.parallel = torch_parallel();
  Tensor result = paired ? new_tensor({args.n}, a.scalar_type()) : new_tensor({args.n, args.m}, a.scalar_type());
  args.out = out<T>(result);
  kernel(args);
  if (args.bad_row >= 0) bad_row(name_of(kind), args.bad_which, args.bad_row);
  return result;
}

Tensor box_iou_op(Tensor a, Tensor b, int64_t kind, int64_t mode, bool paired, bool validate) {
  check_boxes(a, b);
  check(kind >= 0 && kind <= 2, "box_iou: kind: expected 0 (bev), 1 (3d) or 2 (aligned 3d)");
  check(mode >= 0 && mode <= 3, "box_iou: mode: expected 0 (iou), 1 (inter), 2 (iof) or 3 (giou)");
  check(kind == 0 || (a.size(1) == 7 && b.size(1) == 7), "box_iou: boxes: expected 7 columns for volumes");
  check(!paired || a.size(0) == b.size(0), "box_iou: b: expected as many rows as a when paired");
  const Tensor ca = as_contiguous(a);
  const Tensor cb = as_contiguous(b);
  const auto k = static_cast<IouKind>(kind);
  const auto m = static_cast<IouMode>(mode);
  if (a.scalar_type() == ScalarType::Float) return run<float>(dispatch::box_iou_f32, ca, cb, k, m, paired, validate);
  return run<double>(dispatch::box_iou_f64, ca, cb, k, m, paired, validate);
}

using Pairs = std::tuple<Tensor, Tensor, Tensor>;

template <class T, class Kernel>
Pairs run_pairs(Kernel kernel, const Tensor& a, const Tensor& b, double threshold, bool validate) {
  struct Owner {
    std::optional<Tensor> i, j, iou;
    ScalarType dtype;
  } owner{{}, {}, {}, a.scalar_type()};
  PairsIouArgs<T> args{};
  args.a = in<T>(a);
  args.b = in<T>(b);
  args.n = a.size(0);
  args.m = b.size(0);
  args.a_columns = static_cast<int>(a.size(1));
  args.b_columns = static_cast<int>(b.size(1));
  args.threshold = threshold;
  args.validate = validate;
  args.parallel = torch_parallel();
  args.owner = &owner;
  args.allocate = [](PairsIouArgs<T>& self, int64_t count) {
    auto* o = static_cast<Owner*>(self.owner);
    o->i = new_tensor({count}, ScalarType::Long);
    o->j = new_tensor({count}, ScalarType::Long);
    o->iou = new_tensor({count}, o->dtype);
    self.i = out<int64_t>(*o->i);
    self.j = out<int64_t>(*o->j);
    self.iou = out<T>(*o->iou);
  };
  kernel(args);
  if (args.bad_row >= 0) bad_row("pairs_iou_bev", args.bad_which, args.bad_row);
  return {*owner.i, *owner.j, *owner.iou};
}

Pairs pairs_iou_bev_op(Tensor a, Tensor b, double threshold, bool validate) {
  check_boxes(a, b);
  check(threshold >= 0.0, "pairs_iou_bev: thr: expected a value >= 0");
  const Tensor ca = as_contiguous(a);
  const Tensor cb = as_contiguous(b);
  if (a.scalar_type() == ScalarType::Float)
    return run_pairs<float>(dispatch::pairs_iou_f32, ca, cb, threshold, validate);
  return run_pairs<double>(dispatch::pairs_iou_f64, ca, cb, threshold, validate);
}

TENFOLD_CONTRACT(box_iou, 1);
TENFOLD_CONTRACT(pairs_iou_bev, 1);

TENFOLD_OPERATORS(m) {
  m.impl("box_iou", TENFOLD_BOX(box_iou_op));
  m.impl("pairs_iou_bev", TENFOLD_BOX(pairs_iou_bev_op));
}

}  // namespace
}  // namespace tenfold::bind
