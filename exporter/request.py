"""What is asked of an export."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.graph.precision import PRECISIONS
from exporter.release.registry import RegistryRequest
from exporter.release.release import Version
from exporter.validate.precision_table import AUTO
from exporter.validate.validate import Tolerance
from exporter.validate.validate_iq import IQ_TOLERANCE
from featurestore.errors import UsageError

INPUTS = ("features", "iq")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, how, and where to.

    Attributes:
        checkpoint: a file, or `s3://…/NAME.ckpt`.
        models: where releases go.
        store: of the feature set.
        version: of the feature set, or a tag; `None` is the one that the network was trained on.
        release: its number, as `1.2.0`; `None` is the next patch.
        input: `features`: `model.onnx` only; `iq`: `model-iq.onnx`, too; `None`: `iq` if there is `raw`.
        raw: where the captures of the set are, which the IQ graph is validated on.
        captures: of how many, at most.
        precision: one of `PRECISIONS`, or `auto`: the most accurate that fits `max_size_mb`.
        max_size_mb: limit of each graph in units of 10⁶ bytes; `None`: none.
        tolerance: between PyTorch and `model.onnx`.
        iq_tolerance: between featurestore with PyTorch, and `model-iq.onnx`.
        registry: MLflow's; `None`: none.
        promote: let services use the release at once; the first one is promoted in any case.

    Raises:
        UsageError: when a value is impossible.
    """

    checkpoint: str
    models: str
    store: str
    version: str | None = None
    release: str | None = None
    input: str | None = None
    raw: str | None = None
    captures: int = 16
    precision: str = "fp32"
    max_size_mb: float | None = None
    tolerance: Tolerance = Tolerance()  # noqa: RUF009 - frozen, as the next one
    iq_tolerance: Tolerance = IQ_TOLERANCE
    registry: RegistryRequest | None = None
    promote: bool = False

    def __post_init__(self) -> None:
        if self.input not in (None, *INPUTS):
            raise UsageError(f"input is {self.input!r}; expected one of {', '.join(INPUTS)}")
        if self.precision not in (AUTO, *PRECISIONS):
            raise UsageError(f"precision is {self.precision!r}; expected one of {', '.join((*PRECISIONS, AUTO))}")
        if self.input == "iq" and self.raw is None:
            raise UsageError(
                "--input iq without --raw: the IQ graph is validated on captures, which a feature set does not hold; give the "
                "raw location that the set was built from"
            )
        if self.captures < 1 or (self.max_size_mb is not None and not self.max_size_mb > 0):
            raise UsageError(
                f"captures is {self.captures}, max_size_mb {self.max_size_mb}; expected 1 or more, and more than 0"
            )
        _ = self.number

    @property
    def number(self) -> Version | None:
        """Of the release, if it was given."""
        return None if self.release is None else Version.parse(self.release)

    @property
    def with_iq(self) -> bool:
        """Whether there will be a graph that takes IQ."""
        return self.raw is not None and self.input != "features"
