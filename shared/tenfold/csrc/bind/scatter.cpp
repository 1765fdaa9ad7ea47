#include "scatter/scatter.h"

#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kIndexLimit = int64_t{1} << 31;

template <class Args>
void set_index(Args& args, const Tensor& index) {
  if (index.scalar_type() == ScalarType::Int)
    args.index32 = in<int32_t>(index);
  else
    args.index64 = in<int64_t>(index);
}

void check_index(const Tensor& index) {
  check(index.dim() == 1, "scatter: index: expected shape (N,)");
  check(index.scalar_type() == ScalarType::Int || index.scalar_type() == ScalarType::Long,
        "scatter: index: expected int32 or int64");
  check(index.size(0) < kIndexLimit, "scatter: index: expected fewer than 2^31 rows");
}

Reduce as_reduce(int64_t reduce) {
  check(reduce >= 0 && reduce <= 3, "scatter: reduce: expected 0 (sum), 1 (mean), 2 (max) or 3 (min)");
  return static_cast<Reduce>(reduce);
}

template <class T, class Kernel>
void run(Kernel kernel, const Tensor& feats, const Tensor& index, Reduce reduce, bool validate, const Tensor& result,
         const Tensor& arg, const Tensor& count) {
  ScatterArgs<T> args{};
  args.feats = in<T>(feats);
  set_index(args, index);
  args.n = feats.size(0);
  args.channels = feats.size(1);
  args.num = result.size(0);
  args.reduce = reduce;
  args.validate = validate;
  args.parallel = torch_parallel();
  args.out = out<T>(result);
  args.arg = arg.size(0) > 0 ? out<int32_t>(arg) : nullptr;
  args.count = out<int32_t>(count);
  kernel(args);
  if (args.bad_row < 0) return;
  value_error("scatter: index: row " + std::to_string(args.bad_row) + " holds " + std::to_string(host_value(index, args.bad_row)) +
              "; expected values from -1 to " + std::to_string(args.num - 1));
}

std::tuple<Tensor, Tensor, Tensor> scatter_op(Tensor feats, Tensor index, int64_t num, int64_t reduce, bool need_arg,
                                               bool validate) {
  check(feats.dim() == 2, "scatter: feats: expected shape (N, C)");
  check_index(index);
  check(index.size(0) == feats.size(0), "scatter: index: expected one per row of feats");
  check(num >= 0 && num < kIndexLimit, "scatter: num: expected from 0 to 2^31 - 1");
  const Reduce r = as_reduce(reduce);
  const bool best = r == Reduce::max || r == Reduce::min;
  const Tensor f = as_contiguous(feats);
  const Tensor i = as_contiguous(index);
  const int64_t channels = f.size(1);
  Tensor result = new_tensor({num, channels}, f.scalar_type());
  Tensor arg = best && need_arg ? new_tensor({num, channels}, ScalarType::Int) : new_tensor({0, channels}, ScalarType::Int);
  Tensor count = new_tensor({num}, ScalarType::Int);
  if (f.scalar_type() == ScalarType::Float) {
    run<float>(dispatch::scatter_f32, f, i, r, validate, result, arg, count);
  } else {
    check(f.scalar_type() == ScalarType::Double, "scatter: feats: expected float32 or float64");
    run<double>(dispatch::scatter_f64, f, i, r, validate, result, arg, count);
  }
  return {result, arg, count};
}

template <class T, class Kernel>
Tensor run_backward(Kernel kernel, const Tensor& grad, const Tensor& index, const Tensor& arg, const Tensor& count,
                    Reduce reduce) {
  Tensor grad_feats = new_tensor({index.size(0), grad.size(1)}, grad.scalar_type());
  ScatterBackwardArgs<T> args{};
  args.grad = in<T>(grad);
  set_index(args, index);
  args.arg = in<int32_t>(arg);
  args.count = in<int32_t>(count);
  args.n = index.size(0);
  args.channels = grad.size(1);
  args.num = grad.size(0);
  args.reduce = reduce;
  args.parallel = torch_parallel();
  args.grad_feats = out<T>(grad_feats);
  kernel(args);
  return grad_feats;
}

Tensor scatter_backward_op(Tensor grad, Tensor index, Tensor arg, Tensor count, int64_t reduce) {
  check(grad.dim() == 2, "scatter_backward: grad: expected shape (num, C)");
  check_index(index);
  const Reduce r = as_reduce(reduce);
  const bool best = r == Reduce::max || r == Reduce::min;
  const auto is_table = [&](const Tensor& t) {
    return t.scalar_type() == ScalarType::Int && t.dim() >= 1 && t.size(0) == grad.size(0);
  };
  check(!best || (is_table(arg) && arg.dim() == 2 && arg.size(1) == grad.size(1)),
        "scatter_backward: arg: expected (num, C) int32");
  check(r != Reduce::mean || (is_table(count) && count.dim() == 1), "scatter_backward: count: expected (num,) int32");
  check(arg.scalar_type() == ScalarType::Int && count.scalar_type() == ScalarType::Int,
        "scatter_backward: arg, count: expected int32");
  const Tensor g = as_contiguous(grad);
  const Tensor i = as_contiguous(index);
  const Tensor a = as_contiguous(arg);
  const Tensor c = as_contiguous(count);
  if (g.scalar_type() == ScalarType::Float) return run_backward<float>(dispatch::scatter_backward_f32, g, i, a, c, r);
  check(g.scalar_type() == ScalarType::Double, "scatter_backward: grad: expected float32 or float64");
  return run_backward<double>(dispatch::scatter_backward_f64, g, i, a, c, r);
}

TENFOLD_CONTRACT(scatter, 1);
TENFOLD_CONTRACT(scatter_backward, 1);

TENFOLD_OPERATORS(m) {
  m.impl("scatter", TENFOLD_BOX(scatter_op));
  m.impl("scatter_backward", TENFOLD_BOX(scatter_backward_op));
}

}  // namespace
}  // namespace tenfold::bind
