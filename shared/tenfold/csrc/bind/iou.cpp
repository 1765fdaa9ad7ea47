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

struct PairTensors {
  Tensor i, j, iou;
};

PairTensors pair_tensors(int64_t room, ScalarType dtype) {
  return {new_tensor({room}, ScalarType::Long), new_tensor({room}, ScalarType::Long), new_tensor({room}, dtype)};
}

// `allocate(count)` returns the tensors for the pairs; with `count` the host need not know their number.
template <class T, class Kernel, class Allocate>
void run_pairs(const char* op, Kernel kernel, const Tensor& a, const Tensor& b, double threshold, bool validate,
               const Tensor* count, Allocate& allocate) {
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
#ifdef TENFOLD_DEVICE
  if (count != nullptr) args.count_there = out<int64_t>(*count);
#endif
  args.owner = &allocate;
  args.allocate = [](PairsIouArgs<T>& self) {
    const PairTensors pairs = (*static_cast<Allocate*>(self.owner))(self.count);
    self.room = pairs.i.size(0);
    self.i = out<int64_t>(pairs.i);
    self.j = out<int64_t>(pairs.j);
    self.iou = out<T>(pairs.iou);
  };
  kernel(args);
  if (args.bad_row >= 0) bad_row(op, args.bad_which, args.bad_row);
  if (count != nullptr && args.count_there == nullptr) put_values(*count, &args.count, 1);
}

template <class Allocate>
void find_pairs(const char* op, const Tensor& a, const Tensor& b, double threshold, bool validate, const Tensor* count,
                Allocate allocate) {
  check_boxes(a, b);
  check(threshold >= 0.0, (std::string(op) + ": thr: expected a value >= 0").c_str());
  const Tensor ca = as_contiguous(a);
  const Tensor cb = as_contiguous(b);
  if (a.scalar_type() == ScalarType::Float)
    return run_pairs<float>(op, dispatch::pairs_iou_f32, ca, cb, threshold, validate, count, allocate);
  run_pairs<double>(op, dispatch::pairs_iou_f64, ca, cb, threshold, validate, count, allocate);
}

std::tuple<Tensor, Tensor, Tensor> pairs_iou_bev_op(Tensor a, Tensor b, double threshold, bool validate) {
  PairTensors pairs{a, a, a};
  find_pairs("pairs_iou_bev", a, b, threshold, validate, nullptr,
             [&](int64_t count) { return pairs = pair_tensors(count, a.scalar_type()); });
  return {pairs.i, pairs.j, pairs.iou};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pairs_iou_bev_padded_op(Tensor a, Tensor b, double threshold,
                                                                    int64_t max_pairs, bool validate) {
  check(max_pairs >= 0 && max_pairs < kRows, "pairs_iou_bev_padded: max_pairs: expected a count in [0, 2^31)");
  const Tensor count = new_tensor({}, ScalarType::Long);
  const PairTensors pairs = pair_tensors(max_pairs, a.scalar_type());
  fill_with(pairs.i, 0xff);
  fill_with(pairs.j, 0xff);
  fill_with(pairs.iou, 0);
  find_pairs("pairs_iou_bev_padded", a, b, threshold, validate, &count, [&](int64_t) { return pairs; });
  return {pairs.i, pairs.j, pairs.iou, count};
}

TENFOLD_CONTRACT(box_iou, 1);
TENFOLD_CONTRACT(pairs_iou_bev, 1);
TENFOLD_CONTRACT(pairs_iou_bev_padded, 1);

TENFOLD_OPERATORS(m) {
  m.impl("box_iou", TENFOLD_BOX(box_iou_op));
  m.impl("pairs_iou_bev", TENFOLD_BOX(pairs_iou_bev_op));
  m.impl("pairs_iou_bev_padded", TENFOLD_BOX(pairs_iou_bev_padded_op));
}

}  // namespace
}  // namespace tenfold::bind
