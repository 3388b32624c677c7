"""MLflow's model registry: each release a version of one registered model, with its signature and tags.

Alias `candidate` is the release that was exported last, `champion` the one that services use. The release's directory holds an
`MLmodel`, so that `mlflow.pyfunc.load_model("models:/heimdall@champion")` works as well.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from exporter.graph.metadata import GraphInfo
from exporter.release.release import MODEL, Release
from featurestore.errors import HeimdallError, ServiceUnavailableError, StoreError, UsageError, first_line
from featurestore.redaction import without_credentials
from trainer.tracker_address import knock

CANDIDATE, CHAMPION = "candidate", "champion"
TAGS = ("feature_set", "spec", "basis", "backbone", "precision", "located", "checkpoint_sha256")
"""Of `Release.about`, told to the registry as they are."""

MODEL_NAME = re.compile(r"[^'\"`\\%\x00-\x1f\x7f]{1,200}")
"""What MLflow's searches, whose conditions quote the name, can take; what else is no name, MLflow says itself."""


@dataclass(frozen=True)
class RegistryRequest:
    """Which registry.

    Attributes:
        uri: of MLflow: `sqlite:///FILE`, `postgresql+psycopg://…`, `http://…`.
        model: name of the registered model; created when there is none.

    Raises:
        UsageError: when the model cannot have this name.
    """

    uri: str = field(default="sqlite:///mlflow.db", repr=False)  # it may hold a password
    model: str = "heimdall"

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.model):
            raise UsageError(
                f"--model-name is {self.model[:200]!r}; expected up to 200 characters, without quotes, backslashes, % and "
                "control characters"
            )


class Registry:
    """A registry that has answered; `open_registry` makes one."""

    def __init__(self, request: RegistryRequest) -> None:
        from mlflow import MlflowClient

        self.request = request
        self._client = MlflowClient(request.uri, request.uri)

    def register(self, release: Release, run_id: str | None = None) -> str:
        """Make a release a version of the model, unless it is one; returns the version's number.

        Args:
            release: a complete one.
            run_id: of the training, if it was tracked; left out when this tracker does not know it.
        """
        with self._answering():
            known = self._find(release)
            if known is None:
                self._create_model()
                made = self._client.create_model_version(
                    self.request.model,
                    source=release.url,
                    run_id=run_id if run_id and self._has_run(run_id) else None,
                    tags=tags_of(release),
                    description=f"release {release.version}, trained on feature set {release.about.get('feature_set')}",
                )
                known = str(made.version)
            return known

    def make_candidate(self, release: Release, run_id: str | None = None) -> str:
        """Register a release, and give it the alias `candidate`."""
        return self._alias(CANDIDATE, release, run_id)

    def make_champion(self, release: Release) -> str:
        """Give a release the alias `champion`; registers it if that was not done."""
        return self._alias(CHAMPION, release)

    def aliases(self) -> dict[str, str]:
        """Alias → release."""
        with self._answering():
            models = self._client.search_registered_models(f"name = '{self.request.model}'")
            if not models:
                return {}
            versions = {
                alias: self._client.get_model_version(self.request.model, str(number))
                for alias, number in models[0].aliases.items()
            }
            return {alias: str(version.tags.get("release")) for alias, version in versions.items()}

    def _alias(self, alias: str, release: Release, run_id: str | None = None) -> str:
        number = self.register(release, run_id)
        with self._answering():
            self._client.set_registered_model_alias(self.request.model, alias, number)
        return number

    def _find(self, release: Release) -> str | None:
        query = f"name = '{self.request.model}' and tags.release = '{release.version}'"
        versions = [item for item in self._client.search_model_versions(query) if item.source == release.url]
        return str(max(int(item.version) for item in versions)) if versions else None

    def _create_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(
                self.request.model, description="Radio source localization: where a transmitter is, from one receiver's IQ"
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _has_run(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return False
            raise
        return True

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Our errors for whatever MLflow's client raises."""
        from mlflow.exceptions import MlflowException

        where = without_credentials(self.request.uri)
        try:
            yield
        except HeimdallError:
            raise
        except MlflowException as error:
            if error.get_http_status_code() < 500:  # type: ignore[no-untyped-call]  # MLflow annotates most, not this
                raise StoreError(
                    f"MLflow at {where} refuses model {self.request.model!r} ({first_line(error)}); correct --model-name or "
                    "--registry-uri, or use --no-registry"
                ) from error
            raise ServiceUnavailableError(_silent(where, error)) from error
        except Exception as error:
            raise ServiceUnavailableError(_silent(where, error)) from error


def open_registry(request: RegistryRequest) -> Registry:
    """A registry that answers.

    Raises:
        UsageError: when MLflow knows no such kind of address.
        ServiceUnavailableError: when it does not answer.
    """
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every table that they create
    try:
        knock(request.uri, "--registry-uri")
        registry = Registry(request)
    except HeimdallError:
        raise
    except Exception as error:
        raise ServiceUnavailableError(_silent(without_credentials(request.uri), error)) from error
    registry.aliases()  # creates its tables, if need be, before anything else is done
    return registry


def _silent(where: str, error: Exception) -> str:
    return f"MLflow at {where} does not answer ({first_line(error)}); check --registry-uri, or use --no-registry"


def tags_of(release: Release) -> dict[str, str]:
    """What the registry is told of a release: where from, of what, how good, and the signature."""
    about = release.about
    tags = {"release": str(release.version), "sha256": str(release.files[MODEL]["sha256"])}
    tags |= {name: str(about[name]) for name in TAGS if name in about}
    for split, metrics in about.get("metrics", {}).items():
        tags |= {f"{split}.{name}": format(value, ".6g") for name, value in metrics.items()}
    if "signature" in about:
        tags["signature"] = json.dumps(about["signature"])
    return tags


def mlmodel(inputs: Mapping[str, Any], release: str, onnx_version: str, created: str) -> dict[str, Any]:
    """The content of `MLmodel` for `model.onnx`: what MLflow's own ONNX flavour would write, without running MLflow.

    Args:
        inputs: see `signature`.
        release: number.
        onnx_version: of the package.
        created: when, ISO 8601.
    """
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    onnx = {"data": MODEL, "onnx_version": onnx_version, "providers": providers, "code": None, "onnx_session_options": None}
    return {
        "flavors": {"onnx": onnx, "python_function": {"data": MODEL, "loader_module": "mlflow.onnx", "code": None}},
        "metadata": {"release": release},
        "model_uuid": None,
        "signature": {name: json.dumps(value) for name, value in inputs.items()} | {"params": None},
        "utc_time_created": created,
    }


def signature(info: GraphInfo) -> dict[str, Any]:
    """Inputs and outputs of `model.onnx` in MLflow's notation.

    Args:
        info: what the graph says of itself.
    """
    shape = info.spec.tensor_shape
    if info.session is None:
        return {
            "inputs": [_tensor("features", "float32", shape)],
            "outputs": [_tensor("positions", "float64", (2,)), _tensor("uncertainties", "float32", (2,))],
        }
    grid = info.session["grid"]
    return {
        "inputs": [
            _tensor("features", "float32", (-1, *shape)),
            _tensor("receiver_id", "int64", (-1,)),
            _tensor("receiver_position", "float32", (-1, 2)),
            _tensor("present", "bool", (-1,)),
        ],
        "outputs": [
            _tensor("positions", "float64", (2,)),
            _tensor("covariances", "float64", (2, 2)),
            _tensor("log_density", "float32", (grid["rows"], grid["columns"])),
        ],
    }


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"type": "tensor", "name": name, "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}
