"""A graph in ONNX Runtime with what it says of itself: what both predictors start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from exporter.graph.metadata import GraphInfo
from exporter.graph.runtime import open_session


@dataclass(frozen=True)
class OpenedGraph:
    """A graph that can be run.

    Attributes:
        name: what messages call it.
        session: `onnxruntime.InferenceSession`.
        info: its metadata.
    """

    name: str
    session: Any
    info: GraphInfo

    @classmethod
    def open(cls, source: Path | str | bytes, threads: int = 0) -> Self:
        """Open a file, or its content.

        Raises:
            UsageError: when it is absent, damaged, or not one of ours.
        """
        name = "the graph" if isinstance(source, bytes) else str(source)
        session = open_session(source, threads)
        return cls(name, session, GraphInfo.from_props(session.get_modelmeta().custom_metadata_map, name))
