"""Exported networks under onnxruntime. Needs the extra ``export``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold._errors import MissingExtraError, UserInputError
from ttfnet.checkpoint import ModelInfo

__all__ = ["METADATA", "onnx_runner", "open_session"]

#: Key of our facts in an ONNX file's metadata.
METADATA = "ttfnet"


def open_session(path: str | Path, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        UserInputError: the file is missing, damaged, or needs an operator that this onnxruntime lacks.
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError('ONNX files need onnxruntime: pip install "ttfnet[export]"') from error
    if not Path(path).is_file():
        raise UserInputError(f"{path}: file: does not exist")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes are private
        text = " ".join(str(error).split())
        hint = "; export with --dcn decomposed for this runtime" if "DeformConv" in text else ""
        raise UserInputError(f"{path}: onnx: cannot be run ({text[:200]}){hint}") from error


def onnx_runner(
    path: str | Path, threads: int | None = None
) -> tuple[ModelInfo, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """Facts of an exported file, and a function from a batch to padded boxes, scores and labels.

    Raises:
        UserInputError: not written by ``ttfnet export``; see also `open_session`.
    """
    session = open_session(path, threads)
    stored = session.get_modelmeta().custom_metadata_map
    if METADATA not in stored:
        raise UserInputError(f"{path}: metadata: {METADATA} is missing; expected a file of `ttfnet export`")
    info = ModelInfo.from_document(json.loads(stored[METADATA]), path)
    entry = session.get_inputs()[0]
    fixed = isinstance(entry.shape[0], int)

    def run(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # A file with a fixed batch takes its images one by one.
        parts = images.split(entry.shape[0]) if fixed else [images]
        found = [session.run(None, {entry.name: part.contiguous().numpy()}) for part in parts]
        boxes, scores, labels = (torch.cat([torch.from_numpy(p[k]) for p in found]) for k in range(3))
        return boxes, scores, labels

    return info, run
