"""Bird's-eye pictures and overlays on camera images, by Pillow and numpy alone."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from tenfold.viz._boxes import EDGES, FRONT_FACE, as_boxes, bev_corners, corners
from tenfold.viz.colours import class_colour, ramp

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

_BACKGROUND = (16, 18, 24)
_GRID = (42, 47, 58)
_INK = (226, 229, 236)
_REFERENCE = (245, 245, 245)
_MAX_SIDE = 8192
_SUPERSAMPLE = 2  # lines are drawn at twice the size and averaged, because Pillow's are not smooth


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def _as_image(op: str, image: ArrayLike) -> Image.Image:
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise TypeError(f"{op}: image: {array.dtype} was received; uint8 is expected")
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"{op}: image: shape {array.shape} was received; (H, W, 3) with H, W > 0 is expected"
        )
    return Image.fromarray(array)


def _as_points(op: str, points: ArrayLike) -> Floats:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 3:
        raise ValueError(f"{op}: points: shape {array.shape} was received; (N, C >= 3) is expected")
    return array


def _as_projection(op: str, projection: ArrayLike) -> Floats:
    matrix = np.asarray(projection, dtype=np.float64)
    if matrix.shape != (3, 4):
        raise ValueError(f"{op}: projection: shape {matrix.shape} was received; (3, 4) is expected")
    return matrix


def _per_box(op: str, name: str, values: ArrayLike | None, count: int) -> NDArray[Any] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (count,):
        raise ValueError(
            f"{op}: {name}: shape {array.shape} was received; ({count},), one per box, is expected"
        )
    return array


def _box_colour(labels: NDArray[Any] | None, index: int) -> tuple[int, int, int]:
    return class_colour(0 if labels is None else int(labels[index]))


def _box_text(
    labels: NDArray[Any] | None, scores: NDArray[Any] | None, names: Sequence[str] | None, index: int
) -> str:
    words = []
    if labels is not None:
        label = int(labels[index])
        words.append(names[label] if names is not None and 0 <= label < len(names) else str(label))
    if scores is not None:
        words.append(f"{float(scores[index]):.2f}")
    return " ".join(words)


class _LineLayer:
    """A transparent layer for smooth lines; `merge` averages it down onto the picture."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = Image.new("RGBA", (size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE))
        self.draw = ImageDraw.Draw(self.image)

    def line(self, ends: ArrayLike, colour: tuple[int, int, int], width: float) -> None:
        flat = (np.asarray(ends, dtype=np.float64) * _SUPERSAMPLE).ravel().tolist()
        self.draw.line(flat, fill=(*colour, 255), width=max(1, round(width * _SUPERSAMPLE)), joint="curve")

    def fill(self, polygon: ArrayLike, colour: tuple[int, int, int], alpha: int) -> None:
        flat = (np.asarray(polygon, dtype=np.float64) * _SUPERSAMPLE).ravel().tolist()
        self.draw.polygon(flat, fill=(*colour, alpha))

    def merge(self, picture: Image.Image) -> Image.Image:
        # Averaging premultiplied colours keeps dark fringes away from the lines.
        small = self.image.convert("RGBa").resize(picture.size, Image.Resampling.BOX).convert("RGBA")
        return Image.alpha_composite(picture.convert("RGBA"), small).convert("RGB")


def _tag(draw: Any, corner: tuple[float, float], text: str, colour: tuple[int, int, int], size: int) -> None:
    """A small label on a filled plate, kept inside the picture."""
    font = _font(size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 4
    limit_x, limit_y = draw.im.size[0] - width, draw.im.size[1] - height
    x = min(max(corner[0], 0), max(limit_x, 0))
    y = min(max(corner[1] - height, 0), max(limit_y, 0))
    draw.rectangle([x, y, x + width, y + height], fill=colour)
    draw.text((x + 3 - left, y + 2 - top), text, fill=(12, 12, 16), font=font)


# ------------------------------------------------------------------ bird's-eye view


class _Ground:
    """The map between metres and pixels: x (forward) is up, y (left) is left."""

    def __init__(self, op: str, limits: ArrayLike, resolution: float) -> None:
        values = np.asarray(limits, dtype=np.float64)
        if values.shape == (6,):
            x0, y0, z0, x1, y1, z1 = values.tolist()
        elif values.shape == (4,):
            x0, y0, x1, y1 = values.tolist()
            z0, z1 = -np.inf, np.inf
        else:
            raise ValueError(
                f"{op}: range: shape {values.shape} was received; (x0, y0, x1, y1) or "
                "(x0, y0, z0, x1, y1, z1) in metres is expected"
            )
        if not (x1 > x0 and y1 > y0 and z1 > z0):
            raise ValueError(f"{op}: range: {values.tolist()} was received; low below high is expected")
        if not (np.isfinite(resolution) and resolution > 0):
            raise ValueError(
                f"{op}: resolution: {resolution} was received; metres per pixel > 0 are expected"
            )
        self.low, self.high, self.z = (x0, y0), (x1, y1), (z0, z1)
        self.resolution = float(resolution)
        self.height = int(np.ceil((x1 - x0) / resolution - 1e-9))
        self.width = int(np.ceil((y1 - y0) / resolution - 1e-9))
        if max(self.height, self.width) > _MAX_SIDE:
            raise ValueError(
                f"{op}: resolution: {resolution} m gives {self.height} x {self.width} pixels; "
                f"at most {_MAX_SIDE} a side are drawn; use a coarser resolution"
            )

    def pixels(self, xy: Floats) -> Floats:
        """(column, row) of ground positions (..., 2)."""
        column = (self.high[1] - xy[..., 1]) / self.resolution
        row = (self.high[0] - xy[..., 0]) / self.resolution
        return np.stack([column, row], axis=-1)

    def inside(self, points: Floats) -> NDArray[np.bool_]:
        keep = np.isfinite(points[:, :3]).all(axis=1)
        for axis in (0, 1):
            keep &= (points[:, axis] > self.low[axis]) & (points[:, axis] <= self.high[axis])
        return np.asarray(keep & (points[:, 2] >= self.z[0]) & (points[:, 2] <= self.z[1]))


def _point_values(op: str, points: Floats, colour_by: str | ArrayLike) -> Floats:
    if not isinstance(colour_by, str):
        values = np.asarray(colour_by, dtype=np.float64)
        if values.shape != (len(points),):
            raise ValueError(
                f"{op}: colour_by: shape {values.shape} was received; ({len(points)},) is expected"
            )
        return values
    if colour_by == "height":
        return points[:, 2]
    if colour_by == "depth":
        return np.asarray(np.linalg.norm(points[:, :3], axis=1))
    if colour_by == "intensity":
        if points.shape[1] < 4:
            raise ValueError(
                f"{op}: points: {points.shape[1]} columns were received; intensity is the fourth"
            )
        return points[:, 3]
    raise ValueError(
        f"{op}: colour_by: {colour_by!r} was received; height, depth, intensity or an array is expected"
    )


def _robust_colours(values: Floats) -> Pixels:
    """Ramp between the 2nd and the 98th percentile: a few outliers must not flatten the picture."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return ramp(values)
    low, high = np.percentile(finite, [2, 98]).tolist()
    return ramp(values, low, high)


def _nice_step(span: float) -> float:
    """The 1, 2 or 5 times a power of ten that cuts `span` into about six parts."""
    raw = span / 6
    power = 10.0 ** np.floor(np.log10(raw))
    return float(power * min((1, 2, 5, 10), key=lambda m: abs(np.log(m * power / raw))))


def _draw_grid(draw: Any, ground: _Ground, step: float, text_size: int) -> None:
    font = _font(text_size)
    for axis in (0, 1):
        first = np.ceil(ground.low[axis] / step) * step
        for value in np.arange(first, ground.high[axis] + step * 1e-6, step).tolist():
            row_or_column = (ground.high[axis] - value) / ground.resolution
            label = f"{round(value, 6):g}"
            if axis == 0:
                draw.line([0, row_or_column, ground.width, row_or_column], fill=_GRID)
                draw.text((3, row_or_column + 1), label, fill=(120, 128, 146), font=font)
            else:
                draw.line([row_or_column, 0, row_or_column, ground.height], fill=_GRID)
                draw.text((row_or_column + 3, 1), label, fill=(120, 128, 146), font=font)


def _paint_points(canvas: Pixels, ground: _Ground, points: Floats, colours: Pixels, size: int) -> None:
    order = np.argsort(points[:, 2], kind="stable")  # higher points are painted last
    pixel = np.floor(ground.pixels(points[order, :2])).astype(np.int64)
    for dy in range(size):
        for dx in range(size):
            row = np.clip(pixel[:, 1] + dy - size // 2, 0, ground.height - 1)
            column = np.clip(pixel[:, 0] + dx - size // 2, 0, ground.width - 1)
            canvas[row, column] = colours[order]


def _bev_boxes(
    layer: _LineLayer, ground: _Ground, boxes: Floats, colours: list[tuple[int, int, int]], width: float
) -> None:
    for outline, box, colour in zip(ground.pixels(bev_corners(boxes)), boxes, colours, strict=True):
        if not np.isfinite(outline).all():
            continue
        layer.fill(outline, colour, 50)
        layer.line(np.vstack([outline, outline[:1]]), colour, width)
        # Heading mark: a line from the centre through the front side.
        direction = np.array([np.cos(box[6]), np.sin(box[6])])
        nose = box[:2] + direction * (box[3] / 2 + min(1.0, 0.25 * box[3]))
        layer.line(ground.pixels(np.stack([box[:2], nose])), colour, width)


def _draw_scale_bar(draw: Any, ground: _Ground, length: float, text_size: int) -> None:
    pixels = length / ground.resolution
    right, bottom = ground.width - 12, ground.height - 12
    draw.line([right - pixels, bottom, right, bottom], fill=_INK, width=2)
    for x in (right - pixels, right):
        draw.line([x, bottom - 4, x, bottom + 4], fill=_INK, width=2)
    draw.text((right, bottom - 6), f"{length:g} m", fill=_INK, font=_font(text_size), anchor="rs")


def _draw_legend(
    draw: Any, ground: _Ground, names: list[tuple[str, tuple[int, int, int]]], text_size: int
) -> None:
    font = _font(text_size)
    line = text_size + 6
    y = ground.height - 10 - line * len(names)
    width = max(draw.textlength(name, font=font) for name, _ in names) + text_size + 18
    draw.rectangle([6, y - 4, 6 + width, ground.height - 8], fill=(26, 29, 37), outline=_GRID)
    for name, colour in names:
        draw.rectangle([12, y + 3, 12 + text_size - 2, y + text_size + 1], fill=colour)
        draw.text((12 + text_size + 4, y + line / 2), name, fill=_INK, font=font, anchor="lm")
        y += line


def bev_image(
    points: ArrayLike,
    boxes: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    *,
    range: ArrayLike,
    resolution: float = 0.1,
    colour_by: str | ArrayLike = "height",
    class_names: Sequence[str] | None = None,
    reference: ArrayLike | None = None,
    point_size: int = 1,
    line_width: float = 1.6,
    text_size: int = 12,
    grid: float | None = None,
) -> Pixels:
    """Bird's-eye picture of a point cloud with boxes; x (forward) points up, y (left) points left.

    Args:
        points: (N, C >= 3) x, y, z in metres, then intensity; non-finite rows are left out.
        boxes: (M, 7) x, y, z, dx, dy, dz, heading; each gets an outline and a mark through its front side.
        labels: (M,) 0-based classes, which choose the colours.
        scores: (M,) written beside the boxes.
        range: (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1) in metres; points outside are left out.
        resolution: metres per pixel.
        colour_by: "height", "depth", "intensity", or one number per point.
        class_names: names for the legend, indexed by label.
        reference: (R, 7) further boxes, such as the ground truth, drawn in white below the others.
        point_size: side of a point, pixels.
        line_width: pixels.
        text_size: pixels.
        grid: distance of the grid lines, metres; chosen from the range when omitted.

    Returns:
        uint8 (H, W, 3) with H = (x1 - x0) / resolution and W = (y1 - y0) / resolution, rounded up.

    Raises:
        ValueError: wrong shapes, an empty range, or more than 8,192 pixels a side.

    Example:
        >>> import numpy as np
        >>> from tenfold.viz import bev_image
        >>> cloud = np.random.default_rng(0).uniform(-10, 10, (100, 3))
        >>> bev_image(cloud, [[0, 0, 0, 4, 2, 1.5, 0.3]], range=(-10, -10, 10, 10)).shape
        (200, 200, 3)
    """
    op = "bev_image"
    cloud = _as_points(op, points)
    ground = _Ground(op, range, resolution)
    box_array = as_boxes(op, [] if boxes is None else boxes)
    label_array = _per_box(op, "labels", labels, len(box_array))
    score_array = _per_box(op, "scores", scores, len(box_array))
    values = _point_values(op, cloud, colour_by)
    step = (
        _nice_step(max(ground.high[0] - ground.low[0], ground.high[1] - ground.low[1]))
        if grid is None
        else grid
    )

    backdrop = Image.new("RGB", (ground.width, ground.height), _BACKGROUND)
    _draw_grid(ImageDraw.Draw(backdrop), ground, step, text_size - 2)
    canvas = np.array(backdrop)
    keep = ground.inside(cloud)
    _paint_points(canvas, ground, cloud[keep], _robust_colours(values[keep]), point_size)

    layer = _LineLayer(backdrop.size)
    truth = as_boxes(op, [] if reference is None else reference)
    _bev_boxes(layer, ground, truth, [_REFERENCE] * len(truth), line_width)
    colours = [_box_colour(label_array, i) for i, _ in enumerate(box_array)]
    _bev_boxes(layer, ground, box_array, colours, line_width)
    picture = layer.merge(Image.fromarray(canvas))

    draw = ImageDraw.Draw(picture)
    if score_array is not None:
        for outline, colour, score in zip(
            ground.pixels(bev_corners(box_array)), colours, score_array, strict=True
        ):
            if np.isfinite(outline).all():
                corner = (outline[:, 0].max() + 2, outline[:, 1].min())
                draw.text(corner, f"{float(score):.2f}", fill=colour, font=_font(text_size - 2), anchor="lm")
    legend = _legend_entries(label_array, class_names, has_reference=len(truth) > 0)
    if legend:
        _draw_legend(draw, ground, legend, text_size)
    _draw_scale_bar(draw, ground, step, text_size)
    return np.asarray(picture)


def _legend_entries(
    labels: NDArray[Any] | None, names: Sequence[str] | None, *, has_reference: bool
) -> list[tuple[str, tuple[int, int, int]]]:
    entries = []
    for label in [] if labels is None else np.unique(labels).astype(int).tolist():
        name = names[label] if names is not None and 0 <= label < len(names) else f"class {label}"
        entries.append((name, class_colour(label)))
    return [*entries, ("reference", _REFERENCE)] if has_reference else entries


# ------------------------------------------------------------------ on camera images


def draw_boxes_2d(
    image: ArrayLike,
    boxes: ArrayLike,
    labels: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    *,
    class_names: Sequence[str] | None = None,
    line_width: float = 2.0,
    text_size: int = 13,
) -> Pixels:
    """A copy of the image with rectangles (M, 4) x1, y1, x2, y2 in pixels, and their class and score.

    Args:
        image: uint8 (H, W, 3).
        boxes: (M, 4); boxes with a non-finite side are left out.
        labels: (M,) 0-based classes.
        scores: (M,).
        class_names: indexed by label.
        line_width: pixels.
        text_size: pixels.

    Example:
        >>> import numpy as np
        >>> from tenfold.viz import draw_boxes_2d
        >>> draw_boxes_2d(np.zeros((60, 80, 3), np.uint8), [[5, 5, 40, 30]], [0], class_names=["car"]).shape
        (60, 80, 3)
    """
    op = "draw_boxes_2d"
    picture = _as_image(op, image)
    array = as_boxes(op, boxes, columns=4)
    label_array = _per_box(op, "labels", labels, len(array))
    score_array = _per_box(op, "scores", scores, len(array))
    # Sides far outside would only cost time.
    limits = np.array([*picture.size, *picture.size], dtype=np.float64)
    drawn = [i for i in range(len(array)) if np.isfinite(array[i]).all()]
    array = np.clip(array, -limits, 2 * limits)
    layer = _LineLayer(picture.size)
    for i in drawn:
        x1, y1, x2, y2 = array[i].tolist()
        layer.line(
            [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)], _box_colour(label_array, i), line_width
        )
    picture = layer.merge(picture)
    draw = ImageDraw.Draw(picture)
    for i in drawn:
        text = _box_text(label_array, score_array, class_names, i)
        if text:
            _tag(draw, (array[i, 0], array[i, 1]), text, _box_colour(label_array, i), text_size)
    return np.asarray(picture)


def _clip_segment(a: Floats, b: Floats, planes: Floats) -> tuple[Floats, Floats] | None:
    """The part of segment ab on the inner side of all planes n . p + d >= 0, or None."""
    low, high = 0.0, 1.0
    for plane in planes:
        start, end = plane[:3] @ a + plane[3], plane[:3] @ b + plane[3]
        if start < 0 and end < 0:
            return None
        if start < 0:
            low = max(low, start / (start - end))
        elif end < 0:
            high = min(high, start / (start - end))
    return (a + low * (b - a), a + high * (b - a)) if low <= high else None


def _view_planes(size: tuple[int, int], near: float) -> Floats:
    """Near plane and the four sides of the picture (with a margin) for homogeneous pixels (u w, v w, w)."""
    margin = 20.0
    width, height = size[0] + margin, size[1] + margin
    rows = [[0, 0, 1, -near], [1, 0, margin, 0], [-1, 0, width, 0], [0, 1, margin, 0], [0, -1, height, 0]]
    return np.array(rows, dtype=np.float64)


def draw_boxes_3d(
    image: ArrayLike,
    boxes: ArrayLike,
    projection: ArrayLike,
    labels: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    *,
    class_names: Sequence[str] | None = None,
    near: float = 0.1,
    line_width: float = 1.8,
    text_size: int = 12,
) -> Pixels:
    """A copy of the image with the twelve edges of each box; the front side is crossed.

    Edges are clipped at the near plane and at the picture's sides, so boxes partly behind the camera are
    drawn as far as they can be seen, and boxes wholly behind it not at all.

    Args:
        image: uint8 (H, W, 3).
        boxes: (M, 7) in the frame that `projection` starts from, metres.
        projection: (3, 4) from homogeneous box-frame metres to (u w, v w, w), w being the depth in metres.
        labels: (M,) 0-based classes.
        scores: (M,).
        class_names: indexed by label.
        near: depth of the near plane, metres.
        line_width: pixels.
        text_size: pixels.

    Example:
        >>> import numpy as np
        >>> from tenfold.viz import draw_boxes_3d
        >>> # camera at the origin looking along +x: u grows to the right (-y), v grows downwards (-z)
        >>> view = np.array([[40.0, -50, 0, 0], [30, 0, -50, 0], [1, 0, 0, 0]])
        >>> out = draw_boxes_3d(np.zeros((60, 80, 3), np.uint8), [[10, 0, 0, 4, 2, 2, 0]], view)
        >>> bool(out.any())
        True
    """
    op = "draw_boxes_3d"
    picture = _as_image(op, image)
    array = as_boxes(op, boxes)
    matrix = _as_projection(op, projection)
    label_array = _per_box(op, "labels", labels, len(array))
    score_array = _per_box(op, "scores", scores, len(array))
    if not near > 0:
        raise ValueError(f"{op}: near: {near} was received; a depth > 0 is expected")

    planes = _view_planes(picture.size, near)
    projected = corners(array) @ matrix[:, :3].T + matrix[:, 3]
    crosses = ((FRONT_FACE[0], FRONT_FACE[2]), (FRONT_FACE[1], FRONT_FACE[3]))
    layer = _LineLayer(picture.size)
    tags: list[tuple[int, tuple[float, float]]] = []
    far_first = np.argsort(-projected[..., 2].mean(axis=1), kind="stable").tolist()
    for i in (i for i in far_first if np.isfinite(projected[i]).all()):
        ends = []
        for start, end in (*EDGES, *crosses):
            clipped = _clip_segment(projected[i, start], projected[i, end], planes)
            if clipped is not None:
                segment = np.stack([p[:2] / p[2] for p in clipped])
                layer.line(segment, _box_colour(label_array, i), line_width)
                ends.append(segment)
        if ends:
            seen = np.concatenate(ends)
            tags.append((i, (float(seen[:, 0].min()), float(seen[:, 1].min()) - 2)))
    picture = layer.merge(picture)
    draw = ImageDraw.Draw(picture)
    for i, corner in tags:
        text = _box_text(label_array, score_array, class_names, i)
        if text:
            _tag(draw, corner, text, _box_colour(label_array, i), text_size)
    return np.asarray(picture)


def draw_points(
    image: ArrayLike,
    points: ArrayLike,
    projection: ArrayLike,
    *,
    colour_by: str | ArrayLike = "depth",
    size: int = 2,
    near: float = 0.1,
) -> Pixels:
    """A copy of the image with projected points, near ones over far ones.

    Args:
        image: uint8 (H, W, 3).
        points: (N, C >= 3) in the frame that `projection` starts from, metres.
        projection: (3, 4) to (u w, v w, w), w being the depth in metres.
        colour_by: "depth" (w), "height", "intensity", or one number per point.
        size: side of a point, pixels.
        near: points with a smaller depth are left out, metres.

    Example:
        >>> import numpy as np
        >>> from tenfold.viz import draw_points
        >>> view = np.array([[40.0, -50, 0, 0], [30, 0, -50, 0], [1, 0, 0, 0]])
        >>> bool(draw_points(np.zeros((60, 80, 3), np.uint8), [[5.0, 0, 0]], view).any())
        True
    """
    op = "draw_points"
    canvas = np.array(_as_image(op, image))
    cloud = _as_points(op, points)
    matrix = _as_projection(op, projection)
    homogeneous = cloud[:, :3] @ matrix[:, :3].T + matrix[:, 3]
    depth = homogeneous[:, 2]
    values = (
        depth if isinstance(colour_by, str) and colour_by == "depth" else _point_values(op, cloud, colour_by)
    )
    keep = np.isfinite(homogeneous).all(axis=1) & (depth >= near)
    pixel = homogeneous[keep, :2] / depth[keep, None]
    height, width = canvas.shape[:2]
    seen = (pixel[:, 0] >= 0) & (pixel[:, 0] < width) & (pixel[:, 1] >= 0) & (pixel[:, 1] < height)
    index = np.flatnonzero(keep)[seen]
    order = np.argsort(-depth[index], kind="stable")
    pixel = np.floor(pixel[seen][order]).astype(np.int64)
    colours = _robust_colours(values[index])[order]
    for dy in range(size):
        for dx in range(size):
            row = np.clip(pixel[:, 1] + dy - size // 2, 0, height - 1)
            column = np.clip(pixel[:, 0] + dx - size // 2, 0, width - 1)
            canvas[row, column] = colours
    return canvas


def range_image(
    points: ArrayLike,
    *,
    rows: int = 64,
    columns: int = 1024,
    elevation: tuple[float, float] = (-25.0, 3.0),
    colour_by: str | ArrayLike = "depth",
) -> Pixels:
    """The cloud as the scanner saw it: azimuth along the columns, elevation along the rows.

    Column 0 looks backwards, the middle column forwards (+x), the left of the scanner is in the
    left half. The nearest point of a cell wins; cells without a point stay dark.

    Args:
        points: (N, C >= 3) in the scanner's frame, metres.
        rows: height of the picture.
        columns: width of the picture.
        elevation: lowest and highest beam, degrees; points outside are left out.
        colour_by: "depth" (distance), "height", "intensity", or one number per point.

    Returns:
        uint8 (rows, columns, 3).

    Example:
        >>> from tenfold.viz import range_image
        >>> range_image([[5.0, 0, 0], [10, 1, -1]], rows=16, columns=64).shape
        (16, 64, 3)
    """
    op = "range_image"
    cloud = _as_points(op, points)
    low, high = elevation
    if rows < 1 or columns < 1 or not low < high:
        raise ValueError(
            f"{op}: rows, columns, elevation: {rows}, {columns}, {elevation} were received; "
            "positive sizes and a low beam below the high one are expected"
        )
    values = _point_values(op, cloud, colour_by)
    distance = np.linalg.norm(cloud[:, :3], axis=1)
    safe = np.where(distance > 0, distance, 1.0)
    beam = np.rad2deg(np.arcsin(np.clip(cloud[:, 2] / safe, -1, 1)))
    keep = np.isfinite(distance) & (distance > 0) & (beam >= low) & (beam <= high)
    order = np.flatnonzero(keep)
    order = order[np.argsort(-distance[order], kind="stable")]
    azimuth = np.arctan2(cloud[order, 1], cloud[order, 0])
    column = np.minimum(((np.pi - azimuth) / (2 * np.pi) * columns).astype(np.int64), columns - 1)
    row = np.minimum(((high - beam[order]) / (high - low) * rows).astype(np.int64), rows - 1)
    canvas = np.full((rows, columns, 3), _BACKGROUND, dtype=np.uint8)
    canvas[row, column] = _robust_colours(values[order])
    return canvas


def encode_image(image: ArrayLike, file_format: str = "PNG", *, quality: int = 85) -> bytes:
    r"""The bytes of a PNG or JPEG file that holds a uint8 (H, W, 3) picture.

    Example:
        >>> import numpy as np
        >>> from tenfold.viz import encode_image
        >>> encode_image(np.zeros((4, 4, 3), np.uint8))[:4]
        b'\x89PNG'
    """
    picture = _as_image("encode_image", image)
    if file_format not in {"PNG", "JPEG"}:
        raise ValueError(f"encode_image: file_format: {file_format!r} was received; PNG or JPEG is expected")
    buffer = io.BytesIO()
    # At zlib's level 9 ("optimize") flat pictures take twenty times as long and are no smaller than at level 4.
    options: dict[str, Any] = {"compress_level": 4} if file_format == "PNG" else {"quality": quality}
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()
