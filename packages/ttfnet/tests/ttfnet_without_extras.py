"""Run in a process of its own, before anything of ttfnet is loaded."""

import sys

BLOCKED = ("lightning", "tensorboard", "pycocotools", "onnx", "onnxruntime", "av")


def exit_codes(checkpoint):
    """Of `predict` on a.jpg, `fit` and `export` where no extra is installed."""
    assert not any(name.startswith(("ttfnet.", "tenfold.io", "tenfold.train")) for name in sys.modules)
    found = {name for name in sys.modules if name.partition(".")[0] in BLOCKED}
    sys.modules.update(dict.fromkeys((*BLOCKED, *found)))
    from ttfnet.cli import app

    return (
        app(["predict", "a.jpg", checkpoint]),
        app(["fit", "--config", "shapes_small"]),
        app(["export", checkpoint, "m.onnx"]),
    )
