"""The internal graph: operations, tracing of any module, reading of ONNX files."""

from bound_prop.graph.build import Graph, GraphBuilder, UnsupportedOperationError, Value
from bound_prop.graph.trace import trace

__all__ = ["Graph", "GraphBuilder", "UnsupportedOperationError", "Value", "trace"]
