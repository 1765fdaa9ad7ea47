"""Files: atomic writes, a pickle reader that runs nothing, point clouds, images, documents, checkpoints.

Importing this room needs numpy only: Pillow loads with the first image, torch with the first checkpoint.
Every reader answers a damaged file with one sentence, a `tenfold._errors.UserInputError` that names file and
field.
"""

from tenfold.io.atomic import atomic_write, write_bytes, write_json, write_text
from tenfold.io.documents import field, read_json
from tenfold.io.pickles import restricted_load

__all__ = [
    "atomic_write",
    "field",
    "read_json",
    "restricted_load",
    "write_bytes",
    "write_json",
    "write_text",
]
