#include "fir/fir.h"

#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kMostTaps = 1024, kMostFactor = 64, kMostSide = int64_t{1} << 30;

void check_map(const Tensor& x) {
  check(x.dim() == 4, "x: expected shape (B, C, H, W)");
  check(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
        "x: expected float32 or float64");
  check(x.size(2) < kMostSide && x.size(3) < kMostSide, "x: expected sides below 2^30");
}

void check_filter(const Tensor& f, const Tensor& x) {
  check((f.dim() == 1 || f.dim() == 2) && f.scalar_type() == x.scalar_type(),
        "filter: expected shape (K,) or (KH, KW) and the dtype of x");
  for (int64_t d = 0; d < f.dim(); ++d)
    check(f.size(d) >= 1 && f.size(d) <= kMostTaps, "filter: expected between 1 and 1024 taps along an axis");
}

void check_factor(int64_t factor) {
  check(factor >= 1 && factor <= kMostFactor, "up, down: expected factors between 1 and 64");
}

void check_padding(const std::vector<int64_t>& padding) {
  check(padding.size() == 4, "padding: expected four numbers");
  for (int64_t p : padding) check(p > -kMostSide && p < kMostSide, "padding: expected numbers below 2^30");
}

template <class T>
FirFilter<T> filter_of(const Tensor& f, bool flip) {
  return {in<T>(f), f.size(0), f.dim() == 2 ? f.size(1) : f.size(0), f.dim() == 1, flip};
}

int64_t taps_of(const Tensor& f, int64_t axis) { return f.dim() == 2 ? f.size(axis) : f.size(0); }

int64_t out_size(int64_t in, int64_t up, int64_t down, int64_t low, int64_t high, int64_t taps) {
  const int64_t span = in * up + low + high - taps;
  check(span >= 0, "padding: the padded map is smaller than the filter");
  return span / down + 1;
}

template <class T, class Kernel>
Tensor run_upfirdn(Kernel kernel, const Tensor& x, const Tensor& filter, const std::vector<int64_t>& up,
                   const std::vector<int64_t>& down, const std::vector<int64_t>& padding, bool flip, double gain) {
  UpfirdnArgs<T> a{};
  a.planes = x.size(0) * x.size(1);
  a.in_height = x.size(2);
  a.in_width = x.size(3);
  a.out_height = out_size(a.in_height, up[0], down[0], padding[2], padding[3], taps_of(filter, 0));
  a.out_width = out_size(a.in_width, up[1], down[1], padding[0], padding[1], taps_of(filter, 1));
  a.y_axis = {up[0], down[0], padding[2]};
  a.x_axis = {up[1], down[1], padding[0]};
  a.filter = filter_of<T>(filter, flip);
  a.gain = static_cast<T>(gain);
  a.parallel = torch_parallel();
  a.x = in<T>(x);
  Tensor result = new_tensor({x.size(0), x.size(1), a.out_height, a.out_width}, x.scalar_type());
  a.out = out<T>(result);
  kernel(a);
  return result;
}

Tensor upfirdn2d_op(Tensor x, Tensor filter, std::vector<int64_t> up, std::vector<int64_t> down,
                    std::vector<int64_t> padding, bool flip, double gain) {
  check_map(x);
  check_filter(filter, x);
  check(up.size() == 2 && down.size() == 2, "up, down: expected two numbers");
  for (int64_t factor : {up[0], up[1], down[0], down[1]}) check_factor(factor);
  check_padding(padding);
  const Tensor map = as_contiguous(x), taps = as_contiguous(filter);
  if (x.scalar_type() == ScalarType::Float)
    return run_upfirdn<float>(dispatch::upfirdn2d_f32, map, taps, up, down, padding, flip, gain);
  return run_upfirdn<double>(dispatch::upfirdn2d_f64, map, taps, up, down, padding, flip, gain);
}

// One operand of the activation and how it gets there.
struct Source {
  Tensor map, filter;
  int64_t up;
  std::vector<int64_t> padding;
  bool flip;
  double gain;
};

template <class T>
FirSource<T> source_of(const Source& s) {
  return {in<T>(s.map), s.map.size(2), s.map.size(3), s.up,
          s.padding[0], s.padding[2],  filter_of<T>(s.filter, s.flip), static_cast<T>(s.gain)};
}

Source prepared(const Tensor& map, const Tensor& filter, int64_t up, const std::vector<int64_t>& padding, bool flip,
                double gain) {
  check_map(map);
  check_filter(filter, map);
  check_factor(up);
  check_padding(padding);
  return {as_contiguous(map), as_contiguous(filter), up, padding, flip, gain};
}

int64_t mid_size(const Source& s, int64_t axis) {  // 0: y, 1: x
  const size_t low = axis == 0 ? 2 : 0;
  return out_size(s.map.size(2 + axis), s.up, 1, s.padding[low], s.padding[low + 1], taps_of(s.filter, axis));
}

struct Way {
  Tensor filter;
  int64_t down;
  std::vector<int64_t> padding;
  bool flip;
};

struct Shape {
  double slope, gain, clamp;
};

template <class T, class Kernel>
Tensor run_filtered(Kernel kernel, const Source& x, const std::optional<Tensor>& bias, const Source* v, const Way& way,
                    const Shape& shape) {
  const Tensor& map = x.map;
  FilteredLreluArgs<T> a{};
  a.planes = map.size(0) * map.size(1);
  a.channels = map.size(1);
  a.mid_height = mid_size(x, 0);
  a.mid_width = mid_size(x, 1);
  a.out_height = out_size(a.mid_height, 1, way.down, way.padding[2], way.padding[3], taps_of(way.filter, 0));
  a.out_width = out_size(a.mid_width, 1, way.down, way.padding[0], way.padding[1], taps_of(way.filter, 1));
  a.x = source_of<T>(x);
  a.bias = bias.has_value() ? in<T>(*bias) : nullptr;
  if (v != nullptr) a.v = source_of<T>(*v);
  a.down_filter = filter_of<T>(way.filter, way.flip);
  a.down = way.down;
  a.down_left = way.padding[0];
  a.down_top = way.padding[2];
  a.slope = static_cast<T>(shape.slope);
  a.gain = static_cast<T>(shape.gain);
  a.clamp = static_cast<T>(shape.clamp);
  a.parallel = torch_parallel();
  Tensor result = new_tensor({map.size(0), map.size(1), a.out_height, a.out_width}, map.scalar_type());
  a.out = out<T>(result);
  kernel(a);
  return result;
}

std::optional<Tensor> checked_bias(const std::optional<Tensor>& bias, const Tensor& x) {
  if (!bias.has_value()) return std::nullopt;
  check(bias->dim() == 1 && bias->size(0) == x.size(1) && bias->scalar_type() == x.scalar_type(),
        "bias: expected shape (C,) and the dtype of x");
  return as_contiguous(*bias);
}

Tensor run_filtered(const Source& x, const std::optional<Tensor>& bias, const Source* v, const Way& way,
                    const Shape& shape) {
  check_filter(way.filter, x.map);
  check_factor(way.down);
  check_padding(way.padding);
  const std::optional<Tensor> shift = checked_bias(bias, x.map);
  if (x.map.scalar_type() == ScalarType::Float)
    return run_filtered<float>(dispatch::filtered_lrelu_f32, x, shift, v, way, shape);
  return run_filtered<double>(dispatch::filtered_lrelu_f64, x, shift, v, way, shape);
}

Tensor filtered_lrelu_op(Tensor x, std::optional<Tensor> bias, Tensor up_filter, Tensor down_filter, int64_t up,
                         int64_t down, std::vector<int64_t> padding, bool flip, double slope, double gain,
                         double clamp) {
  const Source source = prepared(x, up_filter, up, padding, flip, static_cast<double>(up * up));
  const Way way{as_contiguous(down_filter), down, {0, 0, 0, 0}, flip};
  return run_filtered(source, bias, nullptr, way, {slope, gain, clamp});
}

Tensor filtered_lrelu_gate_op(Tensor v, Tensor x, std::optional<Tensor> bias, Tensor v_filter, Tensor x_filter,
                              Tensor down_filter, int64_t v_up, int64_t x_up, int64_t down,
                              std::vector<int64_t> v_padding, std::vector<int64_t> x_padding,
                              std::vector<int64_t> down_padding, std::vector<bool> flips, double scale, double slope,
                              double gain, double clamp) {
  check(flips.size() == 3, "flips: expected three values");
  const Source source = prepared(x, x_filter, x_up, x_padding, flips[1], static_cast<double>(x_up * x_up));
  const Source other = prepared(v, v_filter, v_up, v_padding, flips[0], scale);
  check(v.scalar_type() == x.scalar_type() && v.size(0) == x.size(0) && v.size(1) == x.size(1),
        "v: expected the batch, channels and dtype of x");
  check(mid_size(source, 0) == mid_size(other, 0) && mid_size(source, 1) == mid_size(other, 1),
        "v: expected a map that meets x at the activation");
  const Way way{as_contiguous(down_filter), down, down_padding, flips[2]};
  return run_filtered(source, bias, &other, way, {slope, gain, clamp});
}

template <class T, class Kernel>
Tensor run_bias_act(Kernel kernel, const std::optional<Tensor>& v, const Tensor& x, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& noise, const Shape& shape) {
  BiasActArgs<T> a{};
  a.x = in<T>(x);
  a.bias = bias.has_value() ? in<T>(*bias) : nullptr;
  a.noise = noise.has_value() ? in<T>(*noise) : nullptr;
  a.v = v.has_value() ? in<T>(*v) : nullptr;
  a.batch = x.size(0);
  a.channels = x.size(1);
  a.inner = 1;
  for (int64_t d = 2; d < x.dim(); ++d) a.inner *= x.size(d);
  a.noise_batch = noise.has_value() ? noise->size(0) : 1;
  a.slope = static_cast<T>(shape.slope);
  a.gain = static_cast<T>(shape.gain);
  a.clamp = static_cast<T>(shape.clamp);
  a.parallel = torch_parallel();
  Tensor result = new_tensor(sizes_of(x), x.scalar_type());
  a.out = out<T>(result);
  if (x.numel() > 0) kernel(a);
  return result;
}

Tensor bias_act_any(const std::optional<Tensor>& v, const Tensor& x, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& noise, const Shape& shape) {
  check(x.dim() >= 2, "x: expected shape (B, C, ...)");
  check(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
        "x: expected float32 or float64");
  std::optional<Tensor> other, map;
  if (v.has_value()) {
    check(sizes_of(*v) == sizes_of(x) && v->scalar_type() == x.scalar_type(), "v: expected the shape and dtype of x");
    other = as_contiguous(*v);
  }
  if (noise.has_value()) {
    std::vector<int64_t> size = sizes_of(x);
    size[1] = 1;
    if (noise->dim() == x.dim() && noise->size(0) == 1) size[0] = 1;
    check(sizes_of(*noise) == size && noise->scalar_type() == x.scalar_type(),
          "noise: expected shape (B, 1, ...) or (1, 1, ...) and the dtype of x");
    map = as_contiguous(*noise);
  }
  const std::optional<Tensor> shift = checked_bias(bias, x);
  const Tensor from = as_contiguous(x);
  if (x.scalar_type() == ScalarType::Float)
    return run_bias_act<float>(dispatch::bias_act_f32, other, from, shift, map, shape);
  return run_bias_act<double>(dispatch::bias_act_f64, other, from, shift, map, shape);
}

Tensor bias_act_op(Tensor x, std::optional<Tensor> bias, std::optional<Tensor> noise, double slope, double gain,
                   double clamp) {
  return bias_act_any(std::nullopt, x, bias, noise, {slope, gain, clamp});
}

Tensor bias_act_gate_op(Tensor v, Tensor x, std::optional<Tensor> bias, std::optional<Tensor> noise, double slope,
                        double gain, double clamp) {
  return bias_act_any(v, x, bias, noise, {slope, gain, clamp});
}

TENFOLD_CONTRACT(upfirdn2d, 1);
TENFOLD_CONTRACT(filtered_lrelu, 1);
TENFOLD_CONTRACT(filtered_lrelu_gate, 1);
TENFOLD_CONTRACT(bias_act, 1);
TENFOLD_CONTRACT(bias_act_gate, 1);

TENFOLD_OPERATORS(m) {
  m.impl("upfirdn2d", TENFOLD_BOX(upfirdn2d_op));
  m.impl("filtered_lrelu", TENFOLD_BOX(filtered_lrelu_op));
  m.impl("filtered_lrelu_gate", TENFOLD_BOX(filtered_lrelu_gate_op));
  m.impl("bias_act", TENFOLD_BOX(bias_act_op));
  m.impl("bias_act_gate", TENFOLD_BOX(bias_act_gate_op));
}

}  // namespace
}  // namespace tenfold::bind
