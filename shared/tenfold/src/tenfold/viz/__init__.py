"""Pictures and report pages: Pillow, numpy and hand-written SVG; nothing here loads torch or matplotlib.

* :mod:`tenfold.viz.report`: one self-contained HTML page made of cards, tables, pictures and charts;
* :mod:`tenfold.viz.pictures`: bird's-eye pictures, boxes and points on camera images, range images;
* :mod:`tenfold.viz.charts`: bar and line charts as SVG text;
* :mod:`tenfold.viz.viewer`: a window with points and boxes, by open3d where it is installed;
* :mod:`tenfold.viz.colours`: the colour ramp and the class colours used by all of them.
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from tenfold.viz.charts import Bar, Series, line_plot, ratio_bars, standalone
    from tenfold.viz.colours import class_colour, ramp
    from tenfold.viz.pictures import (
        bev_image,
        draw_boxes_2d,
        draw_boxes_3d,
        draw_points,
        encode_image,
        range_image,
    )
    from tenfold.viz.report import (
        Cell,
        Chart,
        Details,
        Link,
        Part,
        Picture,
        Preformatted,
        Provenance,
        Report,
        Table,
        Text,
        provenance,
    )
    from tenfold.viz.viewer import scene_geometry, show_scene

__all__ = [
    "Bar",
    "Cell",
    "Chart",
    "Details",
    "Link",
    "Part",
    "Picture",
    "Preformatted",
    "Provenance",
    "Report",
    "Series",
    "Table",
    "Text",
    "bev_image",
    "class_colour",
    "draw_boxes_2d",
    "draw_boxes_3d",
    "draw_points",
    "encode_image",
    "line_plot",
    "provenance",
    "ramp",
    "range_image",
    "ratio_bars",
    "scene_geometry",
    "show_scene",
    "standalone",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".charts": ["Bar", "Series", "line_plot", "ratio_bars", "standalone"],
        ".colours": ["class_colour", "ramp"],
        ".pictures": [
            "bev_image",
            "draw_boxes_2d",
            "draw_boxes_3d",
            "draw_points",
            "encode_image",
            "range_image",
        ],
        ".report": [
            "Cell",
            "Chart",
            "Details",
            "Link",
            "Part",
            "Picture",
            "Preformatted",
            "Provenance",
            "Report",
            "Table",
            "Text",
            "provenance",
        ],
        ".viewer": ["scene_geometry", "show_scene"],
    },
)
