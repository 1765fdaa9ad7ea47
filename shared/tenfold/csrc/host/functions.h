// The list of functions that the NumPy module offers; the one place that both bindings and tests go by.
#pragma once
#include "host/matching_capi.h"

#define TENFOLD_HOST_FUNCTIONS(X) \
  X(kitti_scores)                 \
  X(kitti_counts)
