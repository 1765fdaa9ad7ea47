// The alias-free activation without its upsampled map: rows at the activation's rate live only as long as the filter
// down reads them. Along x they are kept as arrays of one phase each (rows.h), so no pass shuffles lanes.
#include <algorithm>
#include <numeric>

#include "fir/activation.h"
#include "fir/fir.h"
#include "fir/rows.h"

TENFOLD_BEGIN

namespace {

template <class T>
struct Constants {
  T slope, gain, clamp;
  bool clamped;
};

template <class T>
struct Activate {
  Constants<T> c;
  vec<T> operator()(vec<T> u, int64_t) const {
    return activation(u, splat(c.slope), splat(c.gain), splat(c.clamp), c.clamped);
  }
  T operator()(T u, int64_t) const { return activation(u, c.slope, c.gain, c.clamp, c.clamped); }
};

// v times the derivative at u, which lies where v's sum is written to.
template <class T>
struct Gate {
  Constants<T> c;
  const T* u;
  vec<T> operator()(vec<T> v, int64_t at) const {
    return v * activation_slope(vload(u + at), splat(c.slope), splat(c.gain), splat(c.clamp), c.clamped);
  }
  T operator()(T v, int64_t at) const {
    return v * activation_slope(u[at], c.slope, c.gain, c.clamp, c.clamped);
  }
};

template <class T>
RowSource<T> make_source(Scratch& scratch, const FirSource<T>& s, int64_t period, int64_t mid_width) {
  return RowSource<T>(scratch, s.filter, s.gain, {s.up, 1, s.pad_top}, {s.up, 1, s.pad_left}, period, s.height,
                      s.width, mid_width);
}

// Rows at the activation's rate and their way down, for one plane after the other.
template <class T>
class Pipeline {
 public:
  Pipeline(Scratch& scratch, const FilteredLreluArgs<T>& a, int64_t period)
      : a_(a),
        constants_{a.slope, a.gain, a.clamp < 0 ? T(0) : a.clamp, a.clamp >= 0},
        x_(make_source(scratch, a.x, period, a.mid_width)),
        v_(make_source(scratch, a.v.data == nullptr ? a.x : a.v, period, a.mid_width)),
        down_(make_taps(scratch, a.down_filter, T(1))),
        y_axis_{1, a.down, a.down_top},
        plan_(make_plan(scratch, {1, a.down, a.down_left}, down_.width, period, a.mid_width, a.out_width)),
        column_(make_column(scratch, down_.height)),
        sum_(scratch, std::max<int64_t>(down_.height * down_.width, down_.height + down_.width)),
        ring_(down_.height + a.down),
        kept_size_(down_.separable ? plan_.out_row_size() : plan_.row_size()),
        kept_(scratch.zeros<T>(ring_ * kept_size_)),
        mid_(scratch.zeros<T>(plan_.row_size())),
        gate_(a.v.data == nullptr ? nullptr : scratch.take<T>(plan_.row_size())),
        arrays_(plan_.arrays_out > 1 ? scratch.take<T>(plan_.out_row_size()) : nullptr) {}

  void set_plane(int64_t plane) {
    plane_ = plane;
    const T shift = a_.bias == nullptr ? T(0) : a_.bias[plane % a_.channels];
    x_.set_plane(a_.x.data + plane * a_.x.height * a_.x.width, shift);
    if (a_.v.data != nullptr) v_.set_plane(a_.v.data + plane * a_.v.height * a_.v.width, T(0));
  }

  void rows(int64_t first, int64_t end) {
    int64_t next = -1;
    for (int64_t j = first; j < end; ++j) {
      rows_of(column_, y_axis_, down_.height, a_.mid_height, j);
      T* to = a_.out + (plane_ * a_.out_height + j) * a_.out_width;
      if (column_.n > 0) {
        next = std::max(next, column_.row[0]);
        for (; next <= column_.row[column_.n - 1]; ++next) make_row(next);
      }
      T* arrays = arrays_ == nullptr ? to : arrays_;
      down_.separable ? down_separable(arrays) : down_full(arrays);
      if (arrays_ != nullptr) join_row(arrays_, plan_.arrays_out, plan_.out_stride, to, a_.out_width);
    }
  }

 private:
  T* kept(int64_t m) { return kept_ + m % ring_ * kept_size_; }

  // Row m at the activation's rate; a separable filter takes it down along x at once.
  void make_row(int64_t m) {
    T* mid = (down_.separable ? mid_ : kept(m)) + plan_.left;
    const int64_t stride = plan_.stride;
    if (a_.v.data == nullptr) {
      x_.row(m, mid, stride, [&](int64_t) { return Activate<T>{constants_}; });
    } else {
      x_.row(m, gate_, stride, [](int64_t) { return Same<T>{}; });
      v_.row(m, mid, stride, [&](int64_t q) { return Gate<T>{constants_, gate_ + q * stride}; });
    }
    if (!down_.separable) return;
    for (int64_t q = 0; q < plan_.arrays_out; ++q) {
      const PhaseTerms& terms = plan_.phase[q];
      for (int64_t k = 0; k < terms.n; ++k) {
        sum_.coef[k] = down_.x[terms.tap[k]];
        sum_.src[k] = mid + terms.array[k] * stride + terms.offset[k];
      }
      weighted_rows(kept(m) + q * plan_.out_stride, plan_.count_out(q), sum_.src, sum_.coef, terms.n, Same<T>{});
    }
  }

  void down_separable(T* to) {
    for (int64_t q = 0; q < plan_.arrays_out; ++q) {
      for (int64_t i = 0; i < column_.n; ++i) {
        sum_.coef[i] = down_.y[column_.tap[i]];
        sum_.src[i] = kept(column_.row[i]) + q * plan_.out_stride;
      }
      weighted_rows(to + q * plan_.out_stride, plan_.count_out(q), sum_.src, sum_.coef, column_.n, Same<T>{});
    }
  }

  void down_full(T* to) {
    for (int64_t q = 0; q < plan_.arrays_out; ++q) {
      const PhaseTerms& terms = plan_.phase[q];
      int64_t n = 0;
      for (int64_t i = 0; i < column_.n; ++i)
        for (int64_t k = 0; k < terms.n; ++k, ++n) {
          sum_.coef[n] = down_.full[column_.tap[i] * down_.width + terms.tap[k]];
          sum_.src[n] = kept(column_.row[i]) + plan_.left + terms.array[k] * plan_.stride + terms.offset[k];
        }
      weighted_rows(to + q * plan_.out_stride, plan_.count_out(q), sum_.src, sum_.coef, n, Same<T>{});
    }
  }

  const FilteredLreluArgs<T>& a_;
  Constants<T> constants_;
  RowSource<T> x_, v_;
  Taps<T> down_;
  FirAxis y_axis_;
  RowPlan plan_;
  ColumnTerms column_;
  Sum<T> sum_;
  int64_t ring_, kept_size_;
  T* kept_;
  T* mid_;
  T* gate_;
  T* arrays_;
  int64_t plane_ = 0;
};

template <class T>
void filtered_lrelu(FilteredLreluArgs<T>& a) {
  int64_t period = std::lcm(a.x.up, a.down);
  if (a.v.data != nullptr) period = std::lcm(period, a.v.up);
  const int64_t work = 16 * a.down * a.mid_width;
  const PlaneTasks split(a.planes, a.out_height, work);
  parallel_ranges(a.parallel, a.planes * split.blocks, split.group, [&](int64_t, int64_t begin, int64_t end) {
    Scratch scratch;
    Pipeline<T> pipeline(scratch, a, period);
    int64_t plane = -1;
    for (int64_t task = begin; task < end; ++task) {
      if (task / split.blocks != plane) pipeline.set_plane(plane = task / split.blocks);
      const int64_t first = task % split.blocks * split.block_rows;
      pipeline.rows(first, std::min(first + split.block_rows, a.out_height));
    }
  });
}

}  // namespace

void filtered_lrelu_f32(FilteredLreluArgs<float>& args) { filtered_lrelu(args); }
void filtered_lrelu_f64(FilteredLreluArgs<double>& args) { filtered_lrelu(args); }

TENFOLD_END
