#include "group/group.h"

#include <vector>

#include "bind/common.h"
#include "bind/table.h"

namespace tenfold::bind {
namespace {

// Of a tensor that exists already, each line that is written was read first, unless the store goes past the caches. A
// fresh one gets its pages, and with them its lines, from the first stores. Smaller ones may still be cached when they
// are used next.
constexpr int64_t kStreamFrom = int64_t{16} << 20;

void check_parts(const Tensor& idx, const std::optional<Tensor>& count, const char* op, bool per_group) {
  if (!count.has_value()) return;
  check(per_group && count->scalar_type() == ScalarType::Int && count->dim() == idx.dim() - 1,
        (std::string(op) + ": count: expected int32, one for each group").c_str());
  for (int64_t d = 0; d < count->dim(); ++d)
    check(count->size(d) == idx.size(d), (std::string(op) + ": count: expected one for each group").c_str());
}

template <class T, class Kernel>
void run_group(Kernel kernel, const Tensor& feats, const Tensor& idx, const std::optional<Tensor>& count,
               const std::optional<Tensor>& center, bool validate, const Tensor& result, int64_t stream_from) {
  GroupArgs<T> args{};
  args.stream_from = stream_from;
  args.feats = in<T>(feats);
  args.channels = feats.size(feats.dim() - 1);
  const bool grouped = count.has_value() || center.has_value();
  args.table = index_table("group", feats, idx, grouped, validate);
  args.count = count.has_value() ? in<int32_t>(*count) : nullptr;
  args.center = center.has_value() ? in<T>(*center) : nullptr;
  args.parallel = torch_parallel();
  args.out = out<T>(result);
  kernel(args);
  require_good_table("group", args.table, idx);
}

void group_into(const Tensor& feats, const Tensor& idx, const std::optional<Tensor>& count,
                const std::optional<Tensor>& center, bool validate, const Tensor& result, int64_t stream_from) {
  check_parts(idx, count, "group", idx.dim() >= 1);
  const ScalarType dtype = feats.scalar_type();
  if (center.has_value()) {
    check(center->scalar_type() == dtype && center->dim() == idx.dim() && idx.dim() >= 1 &&
              center->size(center->dim() - 1) == 3 && feats.size(feats.dim() - 1) >= 3,
          "group: center: expected (..., 3) of the dtype of feats, which have at least 3 channels");
    for (int64_t d = 0; d + 1 < idx.dim(); ++d)
      check(center->size(d) == idx.size(d), "group: center: expected one for each group");
  }
  const Tensor f = as_contiguous(feats);
  const Tensor i = as_contiguous(idx);
  std::optional<Tensor> n;
  std::optional<Tensor> c;
  if (count.has_value()) n = as_contiguous(*count);
  if (center.has_value()) c = as_contiguous(*center);
  if (dtype == ScalarType::Float)
    return run_group<float>(dispatch::group_f32, f, i, n, c, validate, result, stream_from);
  if (dtype == ScalarType::Double)
    return run_group<double>(dispatch::group_f64, f, i, n, c, validate, result, stream_from);
  check((dtype == ScalarType::Half || dtype == ScalarType::BFloat16) && !center.has_value(),
        "group: feats: expected float32 or float64, or without a centre float16 or bfloat16");
  run_group<uint16_t>(dispatch::group_b16, f, i, n, c, validate, result, stream_from);
}

std::vector<int64_t> gathered_sizes(const Tensor& feats, const Tensor& idx) {
  check(feats.dim() == 2 || feats.dim() == 3, "group: feats: expected shape (N, C) or (B, N, C)");
  std::vector<int64_t> size = sizes_of(idx);
  size.push_back(feats.size(feats.dim() - 1));
  return size;
}

Tensor group_op(Tensor feats, Tensor idx, std::optional<Tensor> count, std::optional<Tensor> center, bool validate) {
  Tensor result = new_tensor(gathered_sizes(feats, idx), feats.scalar_type());
  group_into(feats, idx, count, center, validate, result, 0);
  return result;
}

void group_out_op(Tensor feats, Tensor idx, std::optional<Tensor> count, std::optional<Tensor> center, bool validate,
                   Tensor result) {
  check(result.is_contiguous() && result.scalar_type() == feats.scalar_type() &&
            sizes_of(result) == gathered_sizes(feats, idx),
        "group: out: expected a contiguous tensor of the result's shape and dtype");
  adopt(result);
  group_into(feats, idx, count, center, validate, result, kStreamFrom);
}

template <class T, class Kernel>
void run_max(Kernel kernel, const Tensor& feats, const Tensor& idx, const std::optional<Tensor>& count, bool validate,
             const Tensor& best, const Tensor& arg) {
  GroupMaxArgs<T> args{};
  args.feats = in<T>(feats);
  args.channels = feats.size(feats.dim() - 1);
  args.table = index_table("group_max", feats, idx, true, validate);
  args.count = count.has_value() ? in<int32_t>(*count) : nullptr;
  args.parallel = torch_parallel();
  args.out = out<T>(best);
  args.arg = out<int32_t>(arg);
  kernel(args);
  require_good_table("group_max", args.table, idx);
}

std::tuple<Tensor, Tensor> group_max_op(Tensor feats, Tensor idx, std::optional<Tensor> count, bool validate) {
  check(idx.dim() >= 1, "group_max: idx: expected shape (..., k)");
  check_parts(idx, count, "group_max", true);
  const Tensor f = as_contiguous(feats);
  const Tensor i = as_contiguous(idx);
  std::optional<Tensor> n;
  if (count.has_value()) n = as_contiguous(*count);
  std::vector<int64_t> size = gathered_sizes(feats, idx);
  size.erase(size.end() - 2);
  Tensor best = new_tensor(size, f.scalar_type());
  Tensor arg = new_tensor(size, ScalarType::Int);
  if (f.scalar_type() == ScalarType::Float) {
    run_max<float>(dispatch::group_max_f32, f, i, n, validate, best, arg);
  } else {
    check(f.scalar_type() == ScalarType::Double, "group_max: feats: expected float32 or float64");
    run_max<double>(dispatch::group_max_f64, f, i, n, validate, best, arg);
  }
  return {best, arg};
}

template <class T, class Kernel>
void run_max_backward(Kernel kernel, const Tensor& grad, const Tensor& arg, int64_t n, bool padded,
                      const Tensor& grad_feats) {
  GroupMaxBackwardArgs<T> args{};
  args.grad = in<T>(grad);
  args.arg = in<int32_t>(arg);
  args.channels = grad.size(grad.dim() - 1);
  args.elements = padded ? grad.size(0) : 1;
  args.groups = 1;
  for (int64_t d = padded ? 1 : 0; d + 1 < grad.dim(); ++d) args.groups *= grad.size(d);
  args.n = n;
  args.parallel = torch_parallel();
  args.grad_feats = out<T>(grad_feats);
  kernel(args);
}

Tensor group_max_backward_op(Tensor grad, Tensor arg, int64_t n, bool padded) {
  check(grad.dim() >= (padded ? 2 : 1) && sizes_of(grad) == sizes_of(arg) && arg.scalar_type() == ScalarType::Int,
        "group_max_backward: arg: expected int32 of the shape of grad");
  check(n >= 0, "group_max_backward: n: expected a number >= 0");
  const Tensor g = as_contiguous(grad);
  const Tensor a = as_contiguous(arg);
  const int64_t channels = g.size(g.dim() - 1);
  Tensor grad_feats = padded ? new_tensor({g.size(0), n, channels}, g.scalar_type())
                             : new_tensor({n, channels}, g.scalar_type());
  if (g.scalar_type() == ScalarType::Float) {
    run_max_backward<float>(dispatch::group_max_backward_f32, g, a, n, padded, grad_feats);
  } else {
    check(g.scalar_type() == ScalarType::Double, "group_max_backward: grad: expected float32 or float64");
    run_max_backward<double>(dispatch::group_max_backward_f64, g, a, n, padded, grad_feats);
  }
  return grad_feats;
}

TENFOLD_CONTRACT(group, 1);
TENFOLD_CONTRACT(group_out, 1);
TENFOLD_CONTRACT(group_max, 1);
TENFOLD_CONTRACT(group_max_backward, 1);

TENFOLD_OPERATORS(m) {
  m.impl("group", TENFOLD_BOX(group_op));
  m.impl("group_out", TENFOLD_BOX(group_out_op));
  m.impl("group_max", TENFOLD_BOX(group_max_op));
  m.impl("group_max_backward", TENFOLD_BOX(group_max_backward_op));
}

}  // namespace
}  // namespace tenfold::bind
