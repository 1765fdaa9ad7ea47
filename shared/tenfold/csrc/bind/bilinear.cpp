#include "bilinear/bilinear.h"

#include "bind/common.h"

namespace tenfold::bind {
namespace {

void check_inputs(const Tensor& feat, const Tensor& uv, const std::optional<Tensor>& valid, int64_t border) {
  check(feat.dim() == 4, "bilinear_sample: feat: expected shape (B, C, H, W)");
  check(uv.dim() == 3 && uv.size(0) == feat.size(0) && uv.size(2) == 2, "bilinear_sample: uv: expected shape (B, N, 2)");
  check(feat.scalar_type() == ScalarType::Float || feat.scalar_type() == ScalarType::Double,
        "bilinear_sample: feat: expected float32 or float64");
  check(uv.scalar_type() == feat.scalar_type(), "bilinear_sample: uv: expected the dtype of feat");
  check(feat.numel() < (int64_t{1} << 31) && feat.size(2) < (1 << 24) && feat.size(3) < (1 << 24),
        "bilinear_sample: feat: expected fewer than 2^31 entries and sides below 2^24");
  check(border >= 0 && border <= 2, "bilinear_sample: border: expected 0 (zero), 1 (clamp) or 2 (parity)");
  if (!valid.has_value()) return;
  check(valid->dim() == 2 && valid->size(0) == uv.size(0) && valid->size(1) == uv.size(1) &&
            valid->scalar_type() == ScalarType::Bool,
        "bilinear_sample: valid: expected bool of shape (B, N)");
}

bool is_channels_last(const Tensor& t) {
  return t.numel() > 0 && t.stride(1) == 1 && t.stride(3) == t.size(1) && t.stride(2) == t.size(3) * t.size(1) &&
         t.stride(0) == t.size(2) * t.size(3) * t.size(1);
}

struct Inputs {
  Tensor feat, uv;
  std::optional<Tensor> valid;
  bool channels_last;
};

Inputs prepared(const Tensor& feat, const Tensor& uv, const std::optional<Tensor>& valid) {
  const bool last = is_channels_last(feat);
  Inputs inputs{last ? feat : as_contiguous(feat), as_contiguous(uv), std::nullopt, last};
  if (valid.has_value()) inputs.valid = as_contiguous(*valid);
  return inputs;
}

template <class T>
BilinearArgs<T> make_args(const Inputs& inputs, int64_t border) {
  BilinearArgs<T> args{};
  args.feat = in<T>(inputs.feat);
  args.channels_last = inputs.channels_last;
  args.uv = in<T>(inputs.uv);
  args.valid = inputs.valid.has_value() ? static_cast<const uint8_t*>(inputs.valid->const_data_ptr()) : nullptr;
  args.batch = inputs.feat.size(0);
  args.channels = inputs.feat.size(1);
  args.height = inputs.feat.size(2);
  args.width = inputs.feat.size(3);
  args.n = inputs.uv.size(1);
  args.border = static_cast<Border>(border);
  args.parallel = torch_parallel();
  return args;
}

template <class T, class Kernel>
Tensor run(Kernel kernel, const Inputs& inputs, int64_t border, bool validate) {
  BilinearArgs<T> args = make_args<T>(inputs, border);
  args.validate = validate;
  Tensor result = new_tensor({args.batch, args.n, args.channels}, inputs.feat.scalar_type());
  args.out = out<T>(result);
  kernel(args);
  if (args.bad_batch < 0) return result;
  value_error("bilinear_sample: uv: row " + std::to_string(args.bad_row) + " of batch element " +
              std::to_string(args.bad_batch) + " is not finite; expected finite coordinates where valid");
}

Tensor bilinear_sample_op(Tensor feat, Tensor uv, std::optional<Tensor> valid, int64_t border, bool validate) {
  check_inputs(feat, uv, valid, border);
  const Inputs inputs = prepared(feat, uv, valid);
  if (feat.scalar_type() == ScalarType::Float) return run<float>(dispatch::bilinear_f32, inputs, border, validate);
  return run<double>(dispatch::bilinear_f64, inputs, border, validate);
}

template <class T, class Kernel>
std::tuple<Tensor, Tensor> run_backward(Kernel kernel, const Tensor& grad, const Inputs& inputs, int64_t border,
                                        bool need_feat, bool need_uv) {
  BilinearArgs<T> args = make_args<T>(inputs, border);
  args.grad = in<T>(grad);
  const ScalarType dtype = inputs.feat.scalar_type();
  Tensor grad_feat = need_feat ? new_tensor({args.batch, args.channels, args.height, args.width}, dtype)
                               : new_tensor({0}, dtype);
  Tensor grad_uv = need_uv ? new_tensor({args.batch, args.n, 2}, dtype) : new_tensor({0}, dtype);
  args.grad_feat = need_feat ? out<T>(grad_feat) : nullptr;
  args.grad_uv = need_uv ? out<T>(grad_uv) : nullptr;
  kernel(args);
  return {grad_feat, grad_uv};
}

std::tuple<Tensor, Tensor> bilinear_sample_backward_op(Tensor grad, Tensor feat, Tensor uv,
                                                        std::optional<Tensor> valid, int64_t border, bool need_feat,
                                                        bool need_uv) {
  check_inputs(feat, uv, valid, border);
  check(grad.dim() == 3 && grad.size(0) == uv.size(0) && grad.size(1) == uv.size(1) && grad.size(2) == feat.size(1) &&
            grad.scalar_type() == feat.scalar_type(),
        "bilinear_sample_backward: grad: expected shape (B, N, C) and the dtype of feat");
  const Inputs inputs = prepared(feat, uv, valid);
  const Tensor g = as_contiguous(grad);
  if (feat.scalar_type() == ScalarType::Float)
    return run_backward<float>(dispatch::bilinear_backward_f32, g, inputs, border, need_feat, need_uv);
  return run_backward<double>(dispatch::bilinear_backward_f64, g, inputs, border, need_feat, need_uv);
}

TENFOLD_CONTRACT(bilinear_sample, 1);
TENFOLD_CONTRACT(bilinear_sample_backward, 1);

TENFOLD_OPERATORS(m) {
  m.impl("bilinear_sample", TENFOLD_BOX(bilinear_sample_op));
  m.impl("bilinear_sample_backward", TENFOLD_BOX(bilinear_sample_backward_op));
}

}  // namespace
}  // namespace tenfold::bind
