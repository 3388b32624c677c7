"""Look whether training finds what it needs: torch, a GPU, MLflow, room for checkpoints; and all the rest beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from featurestore.doctor.checks import Check, Diagnosis, Skipped, run
from featurestore.doctor.services import LEAST_FREE_BYTES, Places, disk_check, disk_checks, service_checks
from featurestore.doctor.software import software_checks
from featurestore.errors import HeimdallError, ServiceUnavailableError, first_line
from featurestore.progress import Progress
from featurestore.redaction import without_credentials
from trainer.tracker_address import knock

TORCH_DEADLINE_S = 60.0
"""Of checks that import torch or MLflow, which takes long where disks are slow."""
LARGE_PARAMETERS = 197e6
"""Of the usual network, ConvNeXt large with neck and heads."""
CHECKPOINT_BYTES = 4 * 3 * LARGE_PARAMETERS
"""Weights and AdamW's two moments, float32."""
N_CHECKPOINTS = 4


@dataclass(frozen=True)
class DoctorRequest:
    """What to look at; what is `None` was not given, and is left out.

    Attributes:
        places: of the data.
        tracking_uri: of MLflow.
        checkpoints: directory of `heimdall train`.
    """

    places: Places = field(default_factory=Places)
    tracking_uri: str | None = None
    checkpoints: Path = Path("checkpoints")


def diagnose(request: DoctorRequest, progress: Progress | None = None) -> Diagnosis:
    """Look at everything, side by side; see `featurestore.doctor`."""
    services = [
        *software_checks(),
        *service_checks(request.places),
        Check("MLflow", lambda: _mlflow(request.tracking_uri), "check --tracking-uri", TORCH_DEADLINE_S),
        Check("GPU", _gpu, "reinstall torch: https://pytorch.org/get-started", TORCH_DEADLINE_S),
    ]
    findings = run(services, progress)
    need = N_CHECKPOINTS * CHECKPOINT_BYTES
    what = f"{N_CHECKPOINTS} checkpoints of ConvNeXt large"
    disks = [*disk_checks(request.places), disk_check("checkpoints", request.checkpoints, need, what)]
    if (file := _sqlite_file(request.tracking_uri)) is not None:
        disks.append(disk_check("MLflow", file.parent, LEAST_FREE_BYTES, "runs and their files"))
    return Diagnosis(findings + run(disks))


def _sqlite_file(uri: str | None) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)) if uri is not None and uri.startswith(prefix) else None


def _mlflow(uri: str | None) -> str:
    if uri is None:
        raise Skipped("not given: --tracking-uri, or MLFLOW_TRACKING_URI")
    shown = without_credentials(uri)
    file = _sqlite_file(uri)
    if file is not None and not file.exists():  # looking would create it
        return f"{shown} will be created by the first run"
    try:
        import mlflow
    except ImportError as error:
        raise Skipped(
            "MLflow is not installed; pip install 'heimdall-featurestore[train]', or train with --no-tracking"
        ) from error
    try:
        knock(uri)
        if not uri.startswith("http"):
            return f"{shown}: the database answers"  # more than that would create MLflow's tables
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except HeimdallError:
        raise
    except Exception as error:
        raise ServiceUnavailableError(
            f"MLflow at {shown} does not answer ({first_line(error)}); check --tracking-uri, or train with --no-tracking"
        ) from error
    return f"{shown}: experiments can be listed"


def _gpu() -> str:
    try:
        import torch
    except ImportError as error:
        raise Skipped("torch is not installed; for training: pip install 'heimdall-featurestore[train]'") from error
    built = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        why = "built for CPUs" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}, and sees none"
        raise Skipped(f"none: {built} is {why}; training runs on {torch.get_num_threads()} CPU threads, slowly")
    devices = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        devices.append(f"{torch.cuda.get_device_name(index)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: --precision auto trains in float32"
    float(torch.ones(2, device="cuda").sum())  # a driver that is too old, or a GPU in use by somebody alone, shows here only
    return f"{built}: {'; '.join(devices)}; {bf16}"
