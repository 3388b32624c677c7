"""The whole job on simulated captures and embedded services, by the same commands that a user would type, shown and run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from featurestore import services
from featurestore.errors import HeimdallError
from featurestore.progress import format_seconds

PROGRAMS = Path(__file__).with_name("demo_programs")
"""Programs that open and fetch what the demo made; it copies the one that users may want and runs it there."""

Step = tuple[str, tuple[str, ...]]
"""A title, and the arguments of a heimdall command."""


@dataclass(frozen=True)
class Demo:
    """What a demo makes, and where.

    Attributes:
        directory: of everything that is a file.
        s3: captures, features and releases live in the embedded S3 server instead of files.
        sessions: transmissions that are simulated first.
        more_sessions: that are added then.
        epochs: of the network for captures; 0 trains nothing.
    """

    directory: Path
    s3: bool
    sessions: int
    more_sessions: int
    epochs: int

    def path(self, name: str) -> str:
        """A file or folder of the demo: `training`, `evaluation`, `features.html`."""
        return str(self.directory / name)

    def url(self, name: str) -> str:
        """Where the `raw` captures, the `features` or the `models` are: a bucket of the S3 server, or a folder."""
        buckets = {"raw": services.RAW_BUCKET, "features": services.FEATURES_BUCKET, "models": services.MODELS_BUCKET}
        return f"s3://{buckets[name]}/demo" if self.s3 else self.path(name)

    @property
    def tracking(self) -> str:
        """MLflow's database."""
        return f"sqlite:///{self.path('mlflow.db')}"


def feature_steps(demo: Demo) -> list[Step]:
    """Simulate, build, add captures, build again, look."""
    # Larger shares than usual: a few hundred sessions leave few to validate and test on.
    split = ("--val-fraction", "0.2", "--test-fraction", "0.2")
    places = ("--raw", demo.url("raw"), "--store", demo.url("features"))
    world = ("--sites", "uniform", "--duration", "0.1", "--dtype", "complex64", "--broken-fraction", "0.02")
    simulate = ("simulate", "--raw", demo.url("raw"), *world, "--sessions")
    store, report = ("--store", demo.url("features")), ("--html", demo.path("features.html"))
    return [
        ("captures of simulated transmissions, some of them broken", (*simulate, str(demo.sessions))),
        ("every approved capture becomes a tensor, once", ("build-features", *places, *split, "--tag", "first")),
        ("more transmissions are heard ...", (*simulate, str(demo.more_sessions))),
        ("... and cost only themselves", ("build-features", *places, *split)),
        ("another split moves no tensor", ("build-features", *places, "--fold", "1/5", "--tag", "fold-1")),
        ("what there is", ("features", "list", *store)),
        ("what is in one", ("features", "show", "first", *store)),
        (
            "all of that on one page, for a browser",
            ("features", "report", "first", *store, *report, "--out", demo.path("pictures")),
        ),
    ]


def training_steps(demo: Demo) -> Iterator[Step]:
    """Train two networks unless that was done before: one locates captures, the other sessions. Evaluate them side by side."""
    store, tracking = ("--store", demo.url("features")), ("--tracking-uri", demo.tracking)
    networks = {
        "capture": ("--backbone", "convnext_atto", "--epochs", str(demo.epochs), "--warmup-epochs", "1", "--batch-size", "32"),
        "session": ("--locate", "session", "--grid-km", "2", "--batch-size", "8"),
    }
    titles = {
        "capture": "a small network learns on the CPU where the transmitter of a single capture is",
        "session": "another one locates sessions: all receivers that heard one transmission",
    }
    for name, options in networks.items():
        if not (demo.directory / "training" / name / "last.ckpt").exists():
            upload = ("--checkpoints", f"{demo.url('models')}/checkpoints") if demo.s3 else ()
            what = ("--features", "first", "--dir", demo.path(f"training/{name}"))
            yield titles[name], ("train", *store, *what, *options, *tracking, *upload)
    capture, session = (demo.path(f"training/{name}/last.ckpt") for name in networks)
    page = ("--out", demo.path("evaluation"), "--html", demo.path("evaluation.html"))
    yield (
        "errors side by side: one session, one capture, nearest sessions, always the mean",
        ("evaluate", session, *store, "--split", "test", "--against", capture, *page, *tracking),
    )


def export_steps(demo: Demo) -> list[Step]:
    """Export a release, and locate captures with it."""
    where = ("--models", demo.url("models"), "--store", demo.url("features"), "--raw", demo.url("raw"))
    last = demo.path("training/capture/last.ckpt")
    predict = ("predict", demo.url("models"), demo.path("captures"), "--sample-rate-hz", "192000")
    return [
        (
            "an ONNX release: compared with PyTorch, measured, described, registered",
            ("export", last, *where, "--registry-uri", demo.tracking),
        ),
        ("what services would use", ("releases", "list", "--models", demo.url("models"))),
        ("where are the transmitters? From raw IQ, without torch", predict),
    ]


def locating_steps(demo: Demo) -> list[Step]:
    """Locate the session that `session_as_sigmf.py` wrote, by when its receivers heard it."""
    session = demo.directory / "gps-session"
    recordings = [str(path) for path in sorted(session.glob("*.sigmf-meta"))]
    how = ("--receivers", str(session / "receivers.csv"), "--path-sigma-us", "0.1", "--html", demo.path("locate.html"))
    return [("no training, no store: receivers with GPS clocks locate it by when they hear it", ("locate", *recordings, *how))]


def run(demo: Demo, say: Callable[[str], None]) -> None:
    """Simulate, build, add captures, build again, report, train, evaluate, export, predict and locate.

    Args:
        demo: where and how much.
        say: prints a line for the user.

    Raises:
        HeimdallError: when a step fails; what it printed says why.
    """
    began = time.monotonic()
    with services.running(demo.directory / "services", s3=demo.s3) as running:
        environment = {**os.environ, **running.environment, "NO_PROXY": "127.0.0.1"}

        def commands(steps: Iterator[Step] | list[Step]) -> None:
            for title, arguments in steps:
                say(f"\n# {title}\n$ heimdall {shlex.join(arguments)}")
                _run([sys.executable, "-m", "cli", *arguments], environment, f"heimdall {arguments[0]}")

        commands(feature_steps(demo))
        script = Path(shutil.copy(PROGRAMS / ("open_s3.py" if demo.s3 else "open_files.py"), demo.path("open_features.py")))
        say(f"\n# opened with plain zarr and xarray\n$ python {script} {demo.url('features')}")
        _run([sys.executable, str(script), demo.url("features")], environment, str(script))
        if demo.epochs and find_spec("torch") is None:
            say("\nTraining is left out: it needs pip install '.[train]'.")
        elif demo.epochs:
            commands(training_steps(demo))
            if not demo.s3:
                bound = [str(PROGRAMS / "bound.py"), demo.path("raw/truth.csv"), demo.url("features"), "first"]
                say(f"\n# and what nobody can beat, as the simulation's truth tells\n$ python {shlex.join(bound)}")
                _run([sys.executable, *bound], environment, bound[0])
            if find_spec("onnx") is None:
                say("\nExporting is left out: it needs pip install '.[export]'.")
            else:
                fetch = [sys.executable, str(PROGRAMS / "fetch_captures.py"), demo.url("raw"), demo.path("captures")]
                _run(fetch, environment, "fetching captures")
                commands(export_steps(demo))
        world = ("--sites", "uniform", "--clock", "gps", "--sample-rate-hz", "48000", "--dtype", "complex64")
        simulate = ("simulate", "--raw", demo.path("gps"), *world, "--sessions", "1", "--approved-fraction", "0")
        commands([("one more transmission, heard by receivers that know the time", simulate)])
        sigmf = [sys.executable, str(PROGRAMS / "session_as_sigmf.py"), demo.path("gps"), demo.path("gps-session")]
        _run(sigmf, environment, "writing a session as SigMF")
        commands(locating_steps(demo))
    say(f"\nDone in {format_seconds(time.monotonic() - began)}.")
    for line in _epilogue(demo):
        say(line)


def _run(arguments: list[str], environment: dict[str, str], name: str) -> None:
    code = subprocess.run(arguments, env=environment, check=False).returncode  # noqa: S603 - our own command line
    if code:
        raise HeimdallError(f"the demo stopped: {name} ended with exit code {code}; what it printed above says why")


def _epilogue(demo: Demo) -> Iterator[str]:
    within = f", in {demo.path('services')}" if demo.s3 else ""
    pages = [
        demo.path(name) for name in ("features.html", "evaluation.html", "locate.html") if (demo.directory / name).exists()
    ]
    yield f"Features: {demo.url('features')}{within}"
    yield f"Reports, for a browser: {', '.join(pages)}; their pictures: {demo.path('pictures')}"
    yield f"How to open features with plain zarr and xarray: {demo.path('open_features.py')}"
    if (demo.directory / "evaluation").exists():
        yield f"Checkpoints: {demo.path('training')}"
        yield f"How large errors are: {demo.path('evaluation')}"
        yield f"Releases: {demo.url('models')}{within}"
        yield f"Metrics of all epochs: mlflow ui --backend-store-uri {demo.tracking}"
    yield f"The same {'servers' if demo.s3 else 'database'} again: heimdall services up --dir {demo.path('services')}"
    if not demo.s3:
        opened = f"featurestore.open_set({demo.url('features')!r}).to_xarray()"
        yield f'With our own reader: python -c "import featurestore; print({opened})"'
