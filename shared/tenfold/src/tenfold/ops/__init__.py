"""The kernels' Python face: one module per op family, every op with its contract in its docstring."""

from tenfold import _native
from tenfold.ops._ball_query import (
    ball_query,
    ball_query_multi,
)
from tenfold.ops._batching import (
    offsets_from_batch_index,
    pad,
    stack,
)
from tenfold.ops._bias_act import (
    bias_act,
)
from tenfold.ops._bilinear import (
    bilinear_sample,
)
from tenfold.ops._filtered_lrelu import (
    filtered_lrelu,
)
from tenfold.ops._graphs import (
    ThinnedPoints,
    knn_graph,
    radius_graph,
    voxel_downsample,
)
from tenfold.ops._group import (
    gather_rows,
    group,
    group_max,
)
from tenfold.ops._interpolate import (
    three_interpolate,
)
from tenfold.ops._iou import (
    box_iou_3d,
    box_iou_aligned_3d,
    box_iou_bev,
    boxes_overlap_bev,
    pairs_iou_bev,
    pairs_iou_bev_padded,
)
from tenfold.ops._knn import (
    interpolation_weights,
    knn,
    three_nn,
)
from tenfold.ops._library import (
    __contract__,
)
from tenfold.ops._nms import (
    batched_nms,
    batched_nms_padded,
    nms,
    nms_padded,
)
from tenfold.ops._nms_rotated import (
    nms_3d,
    nms_bev_aligned,
    nms_rotated,
    nms_rotated_padded,
)
from tenfold.ops._peaks import (
    peak_mask,
    topk_peaks,
)
from tenfold.ops._points_in_boxes import (
    points_in_boxes,
    points_in_boxes_padded,
)
from tenfold.ops._roi_pool import (
    roi_grid_pool3d,
    roi_point_pool,
)
from tenfold.ops._rotated_iou import (
    rotated_iou,
)
from tenfold.ops._sampling import (
    farthest_point_sample,
)
from tenfold.ops._scatter import (
    scatter,
)
from tenfold.ops._sparse_conv import (
    rulebook_invert,
    rulebook_strided,
    rulebook_strided_padded,
    rulebook_submanifold,
    sparse_conv,
    sparse_max_pool,
)
from tenfold.ops._ttf_targets import (
    ttf_targets,
)
from tenfold.ops._upfirdn2d import (
    upfirdn2d,
)
from tenfold.ops._voxel_table import (
    VoxelTable,
    lookup,
    voxel_query,
)
from tenfold.ops._voxelize import (
    PaddedVoxels,
    Voxels,
    dynamic_voxelize,
    dynamic_voxelize_padded,
    voxelize,
    voxelize_padded,
)

__all__ = [
    "PaddedVoxels",
    "ThinnedPoints",
    "VoxelTable",
    "Voxels",
    "__contract__",
    "ball_query",
    "ball_query_multi",
    "batched_nms",
    "batched_nms_padded",
    "bias_act",
    "bilinear_sample",
    "box_iou_3d",
    "box_iou_aligned_3d",
    "box_iou_bev",
    "boxes_overlap_bev",
    "dynamic_voxelize",
    "dynamic_voxelize_padded",
    "farthest_point_sample",
    "filtered_lrelu",
    "gather_rows",
    "group",
    "group_max",
    "interpolation_weights",
    "knn",
    "knn_graph",
    "lookup",
    "nms",
    "nms_3d",
    "nms_bev_aligned",
    "nms_padded",
    "nms_rotated",
    "nms_rotated_padded",
    "offsets_from_batch_index",
    "pad",
    "pairs_iou_bev",
    "pairs_iou_bev_padded",
    "peak_mask",
    "points_in_boxes",
    "points_in_boxes_padded",
    "radius_graph",
    "roi_grid_pool3d",
    "roi_point_pool",
    "rotated_iou",
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_strided_padded",
    "rulebook_submanifold",
    "scatter",
    "sparse_conv",
    "sparse_max_pool",
    "stack",
    "three_interpolate",
    "three_nn",
    "topk_peaks",
    "ttf_targets",
    "upfirdn2d",
    "voxel_downsample",
    "voxel_query",
    "voxelize",
    "voxelize_padded",
]

_native.load(__contract__)
_native.load_cuda(__contract__)
