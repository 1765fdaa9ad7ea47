"""Makes recipes and checkpoints with views known to the command lines; importing it is enough."""

from tenfold.lidar.export import export
from tenfold.lidar.predict import EXTENSIONS, load_detector, predict
from tenfold.lidar.prepare import prepare
from xview3d.presets import from_settings

__all__ = ["export", "load_detector", "predict", "prepare"]

EXTENSIONS["xview"] = from_settings
