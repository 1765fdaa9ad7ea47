#include "interpolate/interpolate.h"

#include <vector>

#include "bind/common.h"
#include "bind/table.h"

namespace tenfold::bind {
namespace {

void check_inputs(const Tensor& feats, const Tensor& idx, const Tensor& weight) {
  check(feats.dim() == 2 || feats.dim() == 3, "three_interpolate: feats: expected shape (M, C) or (B, M, C)");
  check(idx.dim() >= 1 && sizes_of(weight) == sizes_of(idx), "three_interpolate: weight: expected the shape of idx");
  check(weight.scalar_type() == feats.scalar_type(), "three_interpolate: weight: expected the dtype of feats");
  check(feats.scalar_type() == ScalarType::Float || feats.scalar_type() == ScalarType::Double,
        "three_interpolate: feats: expected float32 or float64");
}

std::vector<int64_t> result_sizes(const Tensor& feats, const Tensor& idx) {
  std::vector<int64_t> size = sizes_of(idx);
  size.back() = feats.size(feats.dim() - 1);
  return size;
}

template <class T, class Kernel>
void run(Kernel kernel, const Tensor& feats, const Tensor& idx, const Tensor& weight, bool validate,
         const Tensor& result) {
  InterpolateArgs<T> args{};
  args.feats = in<T>(feats);
  args.channels = feats.size(feats.dim() - 1);
  args.table = index_table("three_interpolate", feats, idx, true, validate);
  args.weight = in<T>(weight);
  args.parallel = torch_parallel();
  args.out = out<T>(result);
  kernel(args);
  require_good_table("three_interpolate", args.table, idx);
}

Tensor interpolate_op(Tensor feats, Tensor idx, Tensor weight, bool validate) {
  check_inputs(feats, idx, weight);
  const Tensor f = as_contiguous(feats);
  const Tensor i = as_contiguous(idx);
  const Tensor w = as_contiguous(weight);
  Tensor result = new_tensor(result_sizes(f, i), f.scalar_type());
  if (f.scalar_type() == ScalarType::Float)
    run<float>(dispatch::interpolate_f32, f, i, w, validate, result);
  else
    run<double>(dispatch::interpolate_f64, f, i, w, validate, result);
  return result;
}

template <class T, class Kernel>
void run_backward(Kernel kernel, const Tensor& grad, const Tensor& feats, const Tensor& idx, const Tensor& weight,
                  const Tensor* grad_feats, const Tensor* grad_weight) {
  InterpolateBackwardArgs<T> args{};
  args.grad = in<T>(grad);
  args.feats = in<T>(feats);
  args.channels = feats.size(feats.dim() - 1);
  args.table = index_table("three_interpolate", feats, idx, true, false);
  args.weight = in<T>(weight);
  args.parallel = torch_parallel();
  args.grad_feats = grad_feats != nullptr ? out<T>(*grad_feats) : nullptr;
  args.grad_weight = grad_weight != nullptr ? out<T>(*grad_weight) : nullptr;
  kernel(args);
}

std::tuple<Tensor, Tensor> interpolate_backward_op(Tensor grad, Tensor feats, Tensor idx, Tensor weight,
                                                    bool need_feats, bool need_weight) {
  check_inputs(feats, idx, weight);
  check(grad.scalar_type() == feats.scalar_type() && sizes_of(grad) == result_sizes(feats, idx),
        "three_interpolate: grad: expected the shape and dtype of the result");
  const Tensor g = as_contiguous(grad);
  const Tensor f = as_contiguous(feats);
  const Tensor i = as_contiguous(idx);
  const Tensor w = as_contiguous(weight);
  const std::vector<int64_t> none = {0};
  Tensor grad_feats = new_tensor(need_feats ? sizes_of(f) : none, f.scalar_type());
  Tensor grad_weight = new_tensor(need_weight ? sizes_of(w) : none, f.scalar_type());
  const Tensor* to_feats = need_feats ? &grad_feats : nullptr;
  const Tensor* to_weight = need_weight ? &grad_weight : nullptr;
  if (f.scalar_type() == ScalarType::Float)
    run_backward<float>(dispatch::interpolate_backward_f32, g, f, i, w, to_feats, to_weight);
  else
    run_backward<double>(dispatch::interpolate_backward_f64, g, f, i, w, to_feats, to_weight);
  return {grad_feats, grad_weight};
}

TENFOLD_CONTRACT(interpolate, 1);
TENFOLD_CONTRACT(interpolate_backward, 1);

TENFOLD_OPERATORS(m) {
  m.impl("interpolate", TENFOLD_BOX(interpolate_op));
  m.impl("interpolate_backward", TENFOLD_BOX(interpolate_backward_op));
}

}  // namespace
}  // namespace tenfold::bind
