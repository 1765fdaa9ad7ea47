"""Certified bounds and verifiably robust training for any module (Lyu et al., CVPR 2021).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, bound_prop
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> bounded = bound_prop.BoundedModule(net, torch.zeros(1, 2))
    >>> region = bound_prop.LpBall(torch.zeros(4, 2), eps=0.1)
    >>> spec = bound_prop.margin_spec(torch.tensor([0, 1, 2, 0]), num_classes=3)
    >>> bounded.compute_bounds(region, spec, method="crown-lbp").lower.shape
    torch.Size([4, 2])
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from bound_prop import losses, models, relaxations, schedules
    from bound_prop.attack import PGD
    from bound_prop.bounds import METHODS, BoundedModule, Bounds
    from bound_prop.evaluation import certified_radius, evaluate, neuron_status, verified
    from bound_prop.graph.build import UnsupportedOperationError
    from bound_prop.graph.onnx import load_onnx
    from bound_prop.nn import (
        ParamRamp,
        calibrate_param_ramp,
        convert_activations,
        set_eta,
        set_knee_enabled,
    )
    from bound_prop.objective import RobustObjective
    from bound_prop.sets import Box, LpBall
    from bound_prop.specs import Conjunct, Disjunction, LinearSpec, margin_spec, targeted_spec
    from bound_prop.verification import Verdict, verify, verify_file
    from bound_prop.vnnlib import load_vnnlib

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "PGD",
    "BoundedModule",
    "Bounds",
    "Box",
    "Conjunct",
    "Disjunction",
    "LinearSpec",
    "LpBall",
    "ParamRamp",
    "RobustObjective",
    "UnsupportedOperationError",
    "Verdict",
    "calibrate_param_ramp",
    "certified_radius",
    "convert_activations",
    "evaluate",
    "load_onnx",
    "load_vnnlib",
    "losses",
    "margin_spec",
    "models",
    "neuron_status",
    "relaxations",
    "schedules",
    "set_eta",
    "set_knee_enabled",
    "targeted_spec",
    "verified",
    "verify",
    "verify_file",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".": ["losses", "models", "relaxations", "schedules"],
        ".attack": ["PGD"],
        ".bounds": ["METHODS", "BoundedModule", "Bounds"],
        ".evaluation": ["certified_radius", "evaluate", "neuron_status", "verified"],
        ".graph.build": ["UnsupportedOperationError"],
        ".graph.onnx": ["load_onnx"],
        ".nn": ["ParamRamp", "calibrate_param_ramp", "convert_activations", "set_eta", "set_knee_enabled"],
        ".objective": ["RobustObjective"],
        ".sets": ["Box", "LpBall"],
        ".specs": ["Conjunct", "Disjunction", "LinearSpec", "margin_spec", "targeted_spec"],
        ".verification": ["Verdict", "verify", "verify_file"],
        ".vnnlib": ["load_vnnlib"],
    },
)
