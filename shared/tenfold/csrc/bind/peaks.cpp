#include "peaks/peaks.h"

#include "bind/common.h"
#ifdef TENFOLD_DEVICE
#include "peaks/decode.h"
#endif

namespace tenfold::bind {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;

void check_heat(const Tensor& heat, int64_t kernel) {
  check(heat.dim() == 4, "peaks: heat: expected shape (B, C, H, W)");
  check(heat.scalar_type() == ScalarType::Float || heat.scalar_type() == ScalarType::Double,
        "peaks: heat: expected float32 or float64");
  check(heat.numel() < kLimit, "peaks: heat: expected fewer than 2^31 entries");
  check(kernel >= 1 && kernel < 256 && kernel % 2 == 1, "peaks: kernel: expected an odd number from 1 to 255");
}

template <class T, class Kernel>
void mark(Kernel kernel, const Tensor& heat, int64_t side, const Tensor& mask) {
  PeaksAtArgs<T> args{in<T>(heat), heat.size(0) * heat.size(1), heat.size(2), heat.size(3), static_cast<int>(side),
                      torch_parallel(), static_cast<uint8_t*>(mask.mutable_data_ptr())};
  kernel(args);
}

Tensor peaks_at_op(Tensor heat, int64_t kernel) {
  check_heat(heat, kernel);
  const Tensor h = as_contiguous(heat);
  Tensor mask = new_tensor({h.size(0), h.size(1), h.size(2), h.size(3)}, ScalarType::Bool);
  if (h.scalar_type() == ScalarType::Float)
    mark<float>(dispatch::peaks_at_f32, h, kernel, mask);
  else
    mark<double>(dispatch::peaks_at_f64, h, kernel, mask);
  return mask;
}

template <class T, class Kernel>
void find(Kernel kernel, const Tensor& heat, int64_t k, int64_t side, double threshold, bool per_class,
          const Tensor& scores, const Tensor& place) {
  TopkPeaksArgs<T> args{};
  args.heat = in<T>(heat);
  args.groups = per_class ? heat.size(0) * heat.size(1) : heat.size(0);
  args.planes = per_class ? 1 : heat.size(1);
  args.height = heat.size(2);
  args.width = heat.size(3);
  args.kernel = static_cast<int>(side);
  args.k = k;
  args.threshold = threshold;
  args.parallel = torch_parallel();
  args.scores = out<T>(scores);
  args.place = out<int64_t>(place);
  kernel(args);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> topk_peaks_op(Tensor heat, int64_t k, int64_t kernel, double threshold,
                                                          bool per_class) {
  check_heat(heat, kernel);
  check(k >= 0 && k < kLimit, "topk_peaks: k: expected 0 to 2^31 - 1");
  check(threshold == threshold, "topk_peaks: threshold: expected a number");
  const Tensor h = as_contiguous(heat);
  const auto table = [&](ScalarType dtype) {
    return per_class ? new_tensor({h.size(0), h.size(1), k}, dtype) : new_tensor({h.size(0), k}, dtype);
  };
  Tensor scores = table(h.scalar_type());
  Tensor classes = table(ScalarType::Long), ys = table(ScalarType::Long), xs = table(ScalarType::Long);
  if (h.scalar_type() == ScalarType::Float)
    find<float>(dispatch::topk_peaks_f32, h, k, kernel, threshold, per_class, scores, xs);
  else
    find<double>(dispatch::topk_peaks_f64, h, k, kernel, threshold, per_class, scores, xs);
#ifdef TENFOLD_DEVICE
  cuda::decode_peaks(stream(), out<int64_t>(xs), xs.numel(), k, h.size(1), h.size(2), h.size(3), per_class,
                     out<int64_t>(classes), out<int64_t>(ys), out<int64_t>(xs));
#else
  const int64_t area = h.size(2) * h.size(3), width = h.size(3), channels = h.size(1);
  int64_t *c = out<int64_t>(classes), *y = out<int64_t>(ys), *x = out<int64_t>(xs);
  for (int64_t i = 0; i < xs.numel(); ++i) {
    const int64_t place = x[i];
    const bool found = place >= 0;
    c[i] = !found ? -1 : per_class ? i / k % channels : place / area;
    y[i] = found ? place % area / width : -1;
    x[i] = found ? place % width : -1;
  }
#endif
  return {scores, classes, ys, xs};
}

TENFOLD_CONTRACT(peaks_at, 1);
TENFOLD_CONTRACT(topk_peaks, 1);

TENFOLD_OPERATORS(m) {
  m.impl("peaks_at", TENFOLD_BOX(peaks_at_op));
  m.impl("topk_peaks", TENFOLD_BOX(topk_peaks_op));
}

}  // namespace
}  // namespace tenfold::bind
