"""ONNX Runtime sessions on the CPU, and what their calls cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from featurestore.errors import UsageError, first_line
from featurestore.progress import Progress

ERRORS_ONLY = 3
"""ONNX Runtime's log level: its warnings are about its own optimizer."""

Outputs = tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]
"""(n, 2) positions in degrees, (n, 2) uncertainties in metres."""


def open_session(source: Path | str | bytes, threads: int = 0) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        source: a file, or its content.
        threads: that one operation may use; 0 leaves it to ONNX Runtime: one for each core.

    Raises:
        UsageError: when it is absent, damaged, or needs another version of ONNX Runtime.
    """
    name = "the model" if isinstance(source, bytes) else str(source)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    # Threads that spin between calls win a little latency and take the cores from everybody else, such as from what is
    # measured beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = source if isinstance(source, bytes) else _read(Path(source))
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common class but this
        raise UsageError(
            f"{name} is damaged, cut short, no ONNX model, or needs another ONNX Runtime than {onnxruntime.__version__} "
            f"({first_line(error)}); fetch it again, or pip install --upgrade onnxruntime"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"model {path} cannot be read ({error.strerror}); give a .onnx file that exists") from error


def run(session: Any, values: npt.NDArray[np.float32], batch_size: int, progress: Progress | None = None) -> Outputs:
    """The outputs of all rows, so many at a time.

    Args:
        session: of a graph with one input, and positions and uncertainties as outputs.
        values: (n, …) float32.
        batch_size: rows of one call.
        progress: is told of rows.

    Returns:
        (n, 2) float64 degrees and (n, 2) float32 metres.
    """
    name = session.get_inputs()[0].name
    positions, uncertainties = np.empty((len(values), 2)), np.empty((len(values), 2), np.float32)
    for start in range(0, len(values), batch_size):
        part = slice(start, start + batch_size)
        positions[part], uncertainties[part] = session.run(None, {name: values[part]})
        if progress is not None:
            progress.advance(len(values[part]))
    return positions, uncertainties


def median_latencies_ms(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median time of each call, measured in turns, so that whatever else the machine does meets all of them alike.

    Each turn of a call begins with one that is not counted: after another one, caches hold the other one's weights.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            began = perf_counter()
            call()
            seconds[name].append(perf_counter() - began)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}
