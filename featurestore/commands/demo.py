"""The whole job on simulated captures and embedded services, by the same commands that a user would type, shown and run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from featurestore import services
from featurestore.errors import HeimdallError
from featurestore.objects.objects import Location
from featurestore.progress import format_seconds

OPEN_FILES = '''\
"""Open the demo's latest feature set, with nothing of heimdall's."""
import json
from pathlib import Path

import xarray
import zarr

store = Path({store!r})
version = json.loads((store / "latest.json").read_text())["version"]

# plain zarr: a set is labels, aligned with the rows of its segments one after the other
labels = zarr.open_group(store / "sets" / version, mode="r")
manifest = labels.attrs
segments = store / "specs" / manifest["spec"] / "segments"
for ref in manifest["segments"]:
    features = zarr.open_array(segments / ref["segment"] / f"features-{{manifest['basis']}}", mode="r")
    print(ref["segment"], features.shape, features.dtype, features.metadata.dimension_names)
print("positions of the first rows:", labels["position"][:2].tolist())

# xarray: one segment, lazily
print(xarray.open_zarr(segments / manifest["segments"][0]["segment"])["logmel"])
'''

OPEN_S3 = '''\
"""Open the demo's latest feature set in S3, with nothing of heimdall's; the AWS_* variables say where S3 is."""
import json
import os

import xarray
import zarr
from obstore.store import S3Store
from zarr.storage import ObjectStore


def connect(prefix):
    where = {{"aws_endpoint": os.environ["AWS_ENDPOINT_URL"]}}
    return S3Store({bucket!r}, prefix=prefix, config=where, client_options={{"allow_http": True}})


store = ObjectStore(connect({prefix!r}), read_only=True)
version = json.loads(bytes(store.store.get("latest.json").bytes()))["version"]

# plain zarr: a set is labels, aligned with the rows of its segments one after the other
labels = zarr.open_group(store, path=f"sets/{{version}}", mode="r")
manifest = labels.attrs
segments = f"specs/{{manifest['spec']}}/segments"
for ref in manifest["segments"]:
    features = zarr.open_array(store, path=f"{{segments}}/{{ref['segment']}}/features-{{manifest['basis']}}", mode="r")
    print(ref["segment"], features.shape, features.dtype, features.metadata.dimension_names)
print("positions of the first rows:", labels["position"][:2].tolist())

# xarray: one segment, lazily
first = connect(f"{prefix}/{{segments}}/{{manifest['segments'][0]['segment']}}")
print(xarray.open_zarr(ObjectStore(first, read_only=True))["logmel"])
'''

FETCH = """\
import sys
from pathlib import Path
from featurestore.objects.objects import Location, open_objects

raw, directory = open_objects(Location.parse(sys.argv[1]).url), Path(sys.argv[2])
directory.mkdir(exist_ok=True)
for number, info in zip(range(4), raw.walk("sessions")):
    (directory / f"capture-{number}.npy").write_bytes(raw.get(info.key))
"""


@dataclass(frozen=True)
class Demo:
    """Where a demo keeps what it makes, whether captures and features live in S3 or in files, and how much there is of it.

    No epochs: nothing is trained.
    """

    directory: Path
    s3: bool
    sessions: int
    more_sessions: int
    epochs: int

    @property
    def raw(self) -> str:
        """Where the captures go."""
        return f"s3://{services.RAW_BUCKET}/demo" if self.s3 else str(self.directory / "raw")

    @property
    def receivers(self) -> str:
        """Where receivers stand, as the simulation wrote it down."""
        return f"{self.raw}/receivers.csv"

    @property
    def store(self) -> str:
        """Where the features go."""
        return f"s3://{services.FEATURES_BUCKET}/demo" if self.s3 else str(self.directory / "features")

    @property
    def training(self) -> Path:
        """Where checkpoints and MLflow's file go."""
        return self.directory / "training"

    @property
    def tracking(self) -> str:
        """Where MLflow keeps runs and models."""
        return f"sqlite:///{self.directory / 'mlflow.db'}"

    @property
    def evaluation(self) -> Path:
        """Where the pictures of the network's errors go."""
        return self.directory / "evaluation"

    @property
    def features_report(self) -> Path:
        """The page about a feature set."""
        return self.directory / "features.html"

    @property
    def evaluation_report(self) -> Path:
        """The page about the network."""
        return self.directory / "evaluation.html"

    @property
    def models(self) -> str:
        """Where releases go."""
        return f"s3://{services.MODELS_BUCKET}/demo" if self.s3 else str(self.directory / "models")

    @property
    def script(self) -> Path:
        """A program that opens the result without us."""
        return self.directory / "open_features.py"


def run(demo: Demo, say: Callable[[str], None]) -> None:
    """Simulate, build, add captures, build again, show, draw, train, evaluate and export.

    Args:
        demo: where and how much.
        say: prints a line for the user.

    Raises:
        HeimdallError: when a step fails; what it printed says why.
    """
    began = time.monotonic()
    with services.running(demo.directory / "services", s3=demo.s3) as running:
        environment = {**os.environ, **running.environment, "NO_PROXY": "127.0.0.1"}

        def command(title: str, *arguments: str) -> None:
            say(f"\n# {title}\n$ heimdall {shlex.join(arguments)}")
            _run([sys.executable, "-m", "cli", *arguments], environment, f"heimdall {arguments[0]}")

        places = ("--raw", demo.raw, "--store", demo.store)
        simulate = ("simulate", "--raw", demo.raw, "--dtype", "complex64", "--broken-fraction", "0.02", "--sessions")
        command("captures of simulated transmissions, some of them broken", *simulate, str(demo.sessions))
        command("every approved capture becomes a tensor, once", "build-features", *places, "--tag", "first")
        command("more transmissions are heard ...", *simulate, str(demo.more_sessions))
        command("... and cost only themselves", "build-features", *places)
        command("another split moves no tensor", "build-features", *places, "--fold", "1/5", "--tag", "fold-1")
        command("what there is", "features", "list", "--store", demo.store)
        command("what is in one", "features", "show", "first", "--store", demo.store)
        command("what it looks like", "features", "gallery", "--store", demo.store, "--out", str(demo.directory / "pictures"))
        receivers = ("--receivers", demo.receivers)
        report = ("report", "first", "--store", demo.store, "--html", str(demo.features_report), *receivers)
        command("all of that on one page, for a browser", "features", *report)
        demo.script.write_text(_opening_program(demo))
        say(f"\n# opened with plain zarr and xarray\n$ python {demo.script}")
        _run([sys.executable, str(demo.script)], environment, str(demo.script))
        if demo.epochs and find_spec("torch") is None:
            say("\nTraining is left out: it needs pip install '.[train]'.")
        elif demo.epochs:
            _train(demo, command, say)
            _export(demo, command, say, environment)
    say(f"\nDone in {format_seconds(time.monotonic() - began)}.")
    for line in _epilogue(demo):
        say(line)


def _train(demo: Demo, command: Callable[..., None], say: Callable[[str], None]) -> None:
    last = demo.training / "last.ckpt"
    if last.exists():
        say(f"\n# trained before; remove {demo.training} to train anew")
    else:
        upload = ("--checkpoints", f"{demo.models}/checkpoints") if demo.s3 else ()
        how = (
            "--epochs",
            str(demo.epochs),
            "--warmup-epochs",
            "2",
            "--batch-size",
            "32",
            "--tracking-uri",
            demo.tracking,
            *upload,
        )
        what = ("--store", demo.store, "--features", "first", "--dir", str(demo.training), "--backbone", "convnext_atto")
        command("a small network learns on the CPU where transmitters are", "train", *what, *how)
    page = ("--html", str(demo.evaluation_report), "--receivers", demo.receivers, "--tracking-uri", demo.tracking)
    where = ("--store", demo.store, "--out", str(demo.evaluation), *page)
    command("how well, beside what knowing nothing achieves", "evaluate", str(last), *where)


def _export(demo: Demo, command: Callable[..., None], say: Callable[[str], None], environment: dict[str, str]) -> None:
    if find_spec("onnx") is None:
        say("\nExporting is left out: it needs pip install '.[export]'.")
        return
    where = ("--models", demo.models, "--store", demo.store, "--raw", demo.raw, "--registry-uri", demo.tracking)
    last = str(demo.training / "last.ckpt")
    command("an ONNX release: compared with PyTorch, measured, described, registered", "export", last, *where)
    command("what services would use", "releases", "list", "--models", demo.models)
    captures = str(demo.directory / "captures")
    _run([sys.executable, "-c", FETCH, demo.raw, captures], environment, "fetching captures")
    rate = ("--sample-rate-hz", "192000")
    command("where are the transmitters? From raw IQ, without torch", "predict", demo.models, captures, *rate)


def _run(arguments: list[str], environment: dict[str, str], name: str) -> None:
    code = subprocess.run(arguments, env=environment, check=False).returncode  # noqa: S603 - our own command line
    if code:
        raise HeimdallError(f"the demo stopped: {name} ended with exit code {code}; what it printed above says why")


def _opening_program(demo: Demo) -> str:
    if not demo.s3:
        return OPEN_FILES.format(store=demo.store)
    bucket, _, prefix = Location.parse(demo.store).url.removeprefix("s3://").partition("/")
    return OPEN_S3.format(bucket=bucket, prefix=prefix)


def _epilogue(demo: Demo) -> list[str]:
    up = f"heimdall services up --dir {demo.directory / 'services'}"
    where = f"{demo.store}, in {demo.directory / 'services'}" if demo.s3 else demo.store
    lines = [
        f"Features: {where}",
        f"Pictures: {demo.directory / 'pictures' / 'tensors.png'}, {demo.directory / 'pictures' / 'statistics.png'}",
        f"Reports, for a browser: {_reports(demo)}",
        f"How to open them with plain zarr and xarray: {demo.script}",
        *(_trained(demo) if demo.evaluation.exists() else []),
        f"The same {'servers' if demo.s3 else 'database'} again: {up}",
    ]
    if not demo.s3:
        opened = f"featurestore.open_set({demo.store!r}).to_xarray()"
        lines.append(f'With our own reader: python -c "import featurestore; print({opened})"')
    return lines


def _reports(demo: Demo) -> str:
    return ", ".join(str(path) for path in (demo.features_report, demo.evaluation_report) if path.exists())


def _trained(demo: Demo) -> list[str]:
    return [
        f"Checkpoints: {demo.training}",
        f"How well the network does: {demo.evaluation / 'map.png'}, error_cdf.png, calibration.png, error_by_snr.png",
        f"Releases: {demo.models}" + (f", in {demo.directory / 'services'}" if demo.s3 else ""),
        f"Metrics of all epochs: mlflow ui --backend-store-uri sqlite:///{demo.directory / 'mlflow.db'}",
    ]
