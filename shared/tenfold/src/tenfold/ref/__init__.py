"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._ball_query import (
    ball_query,
    ball_query_multi,
)
from tenfold.ref._bias_act import (
    bias_act,
    bias_act_gate,
)
from tenfold.ref._bilinear import (
    bilinear_sample,
    bilinear_sample_backward,
)
from tenfold.ref._filtered_lrelu import (
    filtered_lrelu,
    filtered_lrelu_gate,
)
from tenfold.ref._group import (
    group,
    group_max,
    group_max_backward,
    group_out,
)
from tenfold.ref._interpolate import (
    interpolate,
    interpolate_backward,
)
from tenfold.ref._iou import (
    box_iou,
    pairs_iou_bev,
    pairs_iou_bev_padded,
)
from tenfold.ref._knn import (
    knn,
)
from tenfold.ref._nms import (
    batched_nms,
    batched_nms_padded,
    nms,
    nms_padded,
)
from tenfold.ref._nms_rotated import (
    nms_rotated,
    nms_rotated_padded,
)
from tenfold.ref._peaks import (
    peaks_at,
    topk_peaks,
)
from tenfold.ref._points_in_boxes import (
    points_in_boxes_csr,
    points_in_boxes_first,
    points_in_boxes_mask,
    points_in_boxes_padded,
)
from tenfold.ref._roi_pool import (
    roi_grid_pool3d,
    roi_grid_pool3d_backward,
    roi_point_pool,
    roi_point_pool_backward,
)
from tenfold.ref._rotated_iou import (
    rotated_iou,
    rotated_iou_backward,
)
from tenfold.ref._sampling import (
    farthest_point_sample,
    farthest_point_sample_dist,
)
from tenfold.ref._scatter import (
    scatter,
    scatter_backward,
)
from tenfold.ref._sparse_conv import (
    rulebook_invert,
    rulebook_strided,
    rulebook_strided_padded,
    rulebook_submanifold,
    sparse_conv,
    sparse_conv_weight,
    sparse_max_pool,
)
from tenfold.ref._ttf_targets import (
    ttf_targets,
)
from tenfold.ref._upfirdn2d import (
    upfirdn2d,
)
from tenfold.ref._voxel_table import (
    lookup,
    voxel_query,
    voxel_table,
)
from tenfold.ref._voxelize import (
    cells,
    dynamic_voxelize,
    dynamic_voxelize_padded,
    voxelize,
    voxelize_backward,
    voxelize_out,
    voxelize_padded,
)

__all__ = [
    "ball_query",
    "ball_query_multi",
    "batched_nms",
    "batched_nms_padded",
    "bias_act",
    "bias_act_gate",
    "bilinear_sample",
    "bilinear_sample_backward",
    "box_iou",
    "cells",
    "dynamic_voxelize",
    "dynamic_voxelize_padded",
    "farthest_point_sample",
    "farthest_point_sample_dist",
    "filtered_lrelu",
    "filtered_lrelu_gate",
    "group",
    "group_max",
    "group_max_backward",
    "group_out",
    "interpolate",
    "interpolate_backward",
    "knn",
    "lookup",
    "nms",
    "nms_padded",
    "nms_rotated",
    "nms_rotated_padded",
    "pairs_iou_bev",
    "pairs_iou_bev_padded",
    "peaks_at",
    "points_in_boxes_csr",
    "points_in_boxes_first",
    "points_in_boxes_mask",
    "points_in_boxes_padded",
    "roi_grid_pool3d",
    "roi_grid_pool3d_backward",
    "roi_point_pool",
    "roi_point_pool_backward",
    "rotated_iou",
    "rotated_iou_backward",
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_strided_padded",
    "rulebook_submanifold",
    "scatter",
    "scatter_backward",
    "sparse_conv",
    "sparse_conv_weight",
    "sparse_max_pool",
    "topk_peaks",
    "ttf_targets",
    "upfirdn2d",
    "voxel_query",
    "voxel_table",
    "voxelize",
    "voxelize_backward",
    "voxelize_out",
    "voxelize_padded",
]
