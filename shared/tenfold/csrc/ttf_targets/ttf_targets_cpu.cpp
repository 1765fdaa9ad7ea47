#include "ttf_targets/ttf_targets.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/arena.h"
#include "common/grid.h"
#include "ttf_targets/plan.h"

TENFOLD_BEGIN

namespace {

struct Drawn {
  double area;
  int32_t row;
};

// Cells of a kernel along one axis, cropped to the map, and its values there.
struct Span {
  int64_t begin, end;
  const float* value;
  double sum() const {
    double total = 0;
    for (int64_t i = 0; i < end - begin; ++i) total += static_cast<double>(value[i]);
    return total;
  }
};

Span gaussian(int64_t center, double extent, int64_t size, float* room) {
  const KernelSpan kernel = kernel_span(center, extent, size);
  const Span span{kernel.begin, kernel.end, room};
  for (int64_t i = span.begin; i < span.end; ++i) room[i - span.begin] = kernel.value(i);
  return span;
}

struct Maps {
  float *heat, *target, *weight;
};

void draw(const TtfTargetsArgs& a, const Maps& maps, const float* box, int64_t label, double area, float* room) {
  const BoxPlace place = place_of(a, box);
  if (!place.near) return;
  float* const room_y = room + a.width;
  Span gx = gaussian(place.cx, a.alpha * place.w, a.width, room);
  Span gy = gaussian(place.cy, a.alpha * place.h, a.height, room_y);
  float* const heat = maps.heat + label * a.height * a.width;
  for (int64_t y = gy.begin; y < gy.end; ++y) {
    const float value = gy.value[y - gy.begin];
    float* row = heat + y * a.width;
    for (int64_t x = gx.begin; x < gx.end; ++x) {
      const float g = value * gx.value[x - gx.begin];
      row[x] = g > row[x] ? g : row[x];
    }
  }
  if (a.beta != a.alpha) {
    gx = gaussian(place.cx, a.beta * place.w, a.width, room);
    gy = gaussian(place.cy, a.beta * place.h, a.height, room_y);
  }
  if (gx.end <= gx.begin || gy.end <= gy.begin) return;
  const int64_t columns = gx.end - gx.begin;
  const bool gaussian_weight = a.weight == CellWeight::gaussian;
  const double cells = static_cast<double>(columns * (gy.end - gy.begin));
  const float scale = scale_of(a, area, gaussian_weight ? gy.sum() * gx.sum() : cells);
  for (int64_t y = gy.begin; y < gy.end; ++y) {
    const int64_t at = y * a.width + gx.begin;
    const float value = gy.value[y - gy.begin];
    float* weight = maps.weight + at;
    if (gaussian_weight) {
      for (int64_t x = 0; x < columns; ++x) weight[x] = value * gx.value[x] * scale;
    } else {
      for (int64_t x = 0; x < columns; ++x) weight[x] = scale;
    }
    for (int64_t side = 0; side < 4; ++side) {
      float* target = maps.target + side * a.height * a.width + at;
      for (int64_t x = 0; x < columns; ++x) target[x] = box[side];
    }
  }
}

void one_image(const TtfTargetsArgs& a, int64_t image) {
  const int64_t cells = a.height * a.width;
  const Maps maps{a.heat + image * a.classes * cells, a.target + image * 4 * cells, a.weight_map + image * cells};
  std::memset(maps.heat, 0, static_cast<size_t>(a.classes * cells) * sizeof(float));
  std::memset(maps.target, 0, static_cast<size_t>(4 * cells) * sizeof(float));
  std::memset(maps.weight, 0, static_cast<size_t>(cells) * sizeof(float));
  if (cells == 0) return;
  Scratch scratch;
  Drawn* order = scratch.take<Drawn>(a.boxes_per_image);
  float* room = scratch.take<float>(a.width + a.height);
  const float* boxes = a.boxes + 4 * image * a.boxes_per_image;
  const int64_t* labels = a.labels + image * a.boxes_per_image;
  int64_t n = 0;
  for (int64_t m = 0; m < a.boxes_per_image; ++m) {
    const float* b = boxes + 4 * m;
    if (!is_drawn(a, b, labels[m])) continue;
    order[n++] = {area_of(b), static_cast<int32_t>(m)};
  }
  std::sort(order, order + n, [](const Drawn& p, const Drawn& q) {
    return p.area != q.area ? p.area > q.area : p.row < q.row;
  });
  for (int64_t i = 0; i < n; ++i) {
    const int64_t m = order[i].row;
    draw(a, maps, boxes + 4 * m, labels[m], order[i].area, room);
  }
}

bool valid(TtfTargetsArgs& a) {
  a.bad_what = 0;
  const int64_t rows = a.validate ? a.batch * a.boxes_per_image : 0;
  for (int what = 1; what <= 2; ++what) {
    for (int64_t i = 0; i < rows; ++i) {
      if (a.labels[i] < 0 || (what == 1 ? a.labels[i] < a.classes : all_finite(a.boxes + 4 * i, 4))) continue;
      a.bad_what = what;
      a.bad_image = i / a.boxes_per_image;
      a.bad_row = i % a.boxes_per_image;
      return false;
    }
  }
  return true;
}

}  // namespace

void ttf_targets(TtfTargetsArgs& args) {
  if (!valid(args)) return;
  parallel_tasks(args.parallel, args.batch, [&](int64_t image) { one_image(args, image); });
}

TENFOLD_END
