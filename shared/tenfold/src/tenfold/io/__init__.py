"""Files: atomic writes, a pickle reader that runs nothing, point clouds, images, documents, checkpoints.

Importing this room needs numpy only: Pillow loads with the first image, torch with the first checkpoint.
Every reader answers a damaged file with one sentence, a `tenfold._errors.UserInputError` that names file and
field.
"""

from tenfold.io.atomic import (
    atomic_write,
    check_folder,
    check_output,
    make_folder,
    staged,
    write_bytes,
    write_json,
    write_text,
)
from tenfold.io.checkpoint import (
    CheckpointMismatchError,
    KeyReport,
    convert_state_dict,
    load_checkpoint,
    load_strict,
    save_checkpoint,
)
from tenfold.io.documents import field, file_hash, read_json, read_text
from tenfold.io.images import read_image, write_image
from tenfold.io.pcd import unpack_rgb
from tenfold.io.pickles import UnsafePickleError, restricted_load
from tenfold.io.points import PointCloud, read_mesh, read_point_array, read_points, write_mesh, write_points

__all__ = [
    "CheckpointMismatchError",
    "KeyReport",
    "PointCloud",
    "UnsafePickleError",
    "atomic_write",
    "check_folder",
    "check_output",
    "convert_state_dict",
    "field",
    "file_hash",
    "load_checkpoint",
    "load_strict",
    "make_folder",
    "read_image",
    "read_json",
    "read_mesh",
    "read_point_array",
    "read_points",
    "read_text",
    "restricted_load",
    "save_checkpoint",
    "staged",
    "unpack_rgb",
    "write_bytes",
    "write_image",
    "write_json",
    "write_mesh",
    "write_points",
    "write_text",
]
