// The list of functions that the NumPy module offers; the one place that both bindings and tests go by.
#pragma once
#include "host/colour_capi.h"
#include "host/greedy_capi.h"
#include "host/grouping_capi.h"
#include "host/iou_capi.h"
#include "host/matching_capi.h"
#include "host/points_in_boxes_capi.h"
#include "host/precision_capi.h"
#include "host/voxelize_capi.h"

#define TENFOLD_HOST_FUNCTIONS(X) \
  X(average_precision)            \
  X(box_iou)                      \
  X(coco)                         \
  X(greedy_assign)                \
  X(grouping_gains)               \
  X(hsv_change)                   \
  X(kitti_counts)                 \
  X(kitti_scores)                 \
  X(nuscenes)                     \
  X(partition)                    \
  X(points_in_boxes_f32)          \
  X(points_in_boxes_f64)          \
  X(voc)                          \
  X(voxelize_f32)                 \
  X(voxelize_f64)
