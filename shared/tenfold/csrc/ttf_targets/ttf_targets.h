// Heat maps, box targets and weights of TTFNet in one pass over the boxes: contract in tenfold-core 6.15.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

enum class BoxImportance : int { log = 0, root = 1, area = 2, one = 3 };
enum class CellWeight : int { gaussian = 0, flat = 1, one = 2 };

struct TtfTargetsArgs {
  const float* boxes;     // (batch, boxes_per_image, 4)
  const int64_t* labels;  // (batch, boxes_per_image); outside [0, classes): ignored
  int64_t batch, boxes_per_image;
  int64_t classes, height, width, stride;
  double alpha, beta;
  BoxImportance importance;
  CellWeight weight;
  bool circular;
  bool validate;
  Parallel parallel;
  float* heat;        // (batch, classes, height, width) out
  float* target;      // (batch, 4, height, width) out
  float* weight_map;  // (batch, height, width) out
  int bad_what;       // out: 0 fine, 1 label, 2 box
  int64_t bad_image, bad_row;
};

}  // namespace tenfold

TENFOLD_KERNEL(ttf_targets, TtfTargetsArgs)
