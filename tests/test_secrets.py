"""Keys and passwords are in no output, log, error, manifest, checkpoint or run: the whole job, and its failures, searched."""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psycopg
import pytest
from click.testing import CliRunner
from corpus_for_tests import Corpus, tree
from psycopg import sql

from cli import main
from exporter.release.registry import RegistryRequest
from featurestore.build.build import BuildRequest, build
from featurestore.cluster.runner import InProcess
from featurestore.corpus.simulate.simulate import Destination
from featurestore.errors import UsageError
from featurestore.objects import objects
from featurestore.objects.objects import Location, open_objects
from featurestore.objects.retries import Patience
from featurestore.progress import Silent
from featurestore.redaction import without_credentials
from featurestore.services import Running
from featurestore.services.process import Command
from featurestore.tensor.spec import FeatureSpec, SplitSpec
from trainer.fitting.request import TrackingRequest

PASSWORDS = {
    "catalog": "Kestrel/42@moor?x=1",  # of letters that must be percent-encoded
    "mlflow": "Plover+73 dune%",
    "endpoint": "Osprey91tarn",
    "location": "Curlew58fen",
    "token": "Lapwing26marsh",
    "scheduler": "Dunlin17beck",
}
IMPATIENT = Patience(connect_s=2, silence_s=10, request_s=20, total_s=0.2)
SPEC_OPTIONS = ("--sample-rate-hz", "48000", "--n-fft", "256", "--hop-length", "64", "--n-mels", "24", "--n-frames", "8")


def spellings(secret: str) -> set[bytes]:
    """As it is, percent-encoded, and in base64 at each of the three offsets, without the letters its neighbours change."""
    found = {secret.encode(), quote(secret, safe="").encode(), quote(secret).encode(), quote_plus(secret).encode()}
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + secret.encode())
        found.add(encoded[-(-offset * 8 // 6) + (1 if offset else 0) : len(encoded) - 4])
    return found


@dataclass
class Search:
    """What is searched for, and what was found, by place."""

    secrets: dict[str, str]
    places: int = 0
    n_bytes: int = 0
    found: list[str] = field(default_factory=list)

    def look(self, place: str, data: bytes) -> None:
        self.places += 1
        self.n_bytes += len(data)
        for name, secret in self.secrets.items():
            self.found += [f"{name} in {place}" for spelling in spellings(secret) if spelling in data]

    def look_everywhere(self, directory: Path) -> None:
        for name, data in tree(directory).items():
            self.look(name, data)


def test_the_search_finds_what_there_is() -> None:
    for name, secret in PASSWORDS.items():
        for text in (
            secret,
            quote(secret, safe=""),
            *(base64.b64encode(b"user:"[n:] + secret.encode()).decode() for n in range(3)),
        ):
            search = Search({name: secret})
            search.look("here", b"before " + text.encode() + b" after")
            assert search.found, text


@dataclass
class Scene:
    """Where everything is, and how to run commands there, each of whose words is searched."""

    search: Search
    environment: dict[str, str]
    catalog: str
    mlflow: str
    base: str
    directory: Path

    def run(self, *arguments: object, code: int | None = 0, **changes: str) -> None:
        """A command in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name in {name for name in os.environ if name.startswith(("PG", "AWS_", "HEIMDALL_"))} - {*self.environment}:
                patch.delenv(name)
            for name, value in {**self.environment, **changes}.items():
                patch.setenv(name, value)
            patch.setattr(objects, "PATIENCE", IMPATIENT)
            objects.open_objects.cache_clear()
            done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        objects.open_objects.cache_clear()
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self._judge(arguments, code, done.exit_code, done.output_bytes + done.stderr_bytes)

    def run_apart(self, *arguments: object, **changes: str) -> None:
        """A command as a process, with all that its workers and libraries say."""
        words = [sys.executable, "-m", "cli", *map(str, arguments)]
        environment = {**self.environment, **changes}
        done = subprocess.run(words, env=environment, capture_output=True, check=False, timeout=600)
        self._judge(arguments, 0, done.returncode, done.stdout + done.stderr)

    def _judge(self, arguments: Sequence[object], wanted: int | None, code: int, output: bytes) -> None:
        name = " ".join(map(str, arguments[:2]))
        self.search.look(f"what {name} prints", output)
        assert code == wanted or (wanted is None and code in (0, 1, 2, 75)), f"{name}: {code}\n{output.decode()}"
        assert b"Traceback" not in output


@pytest.fixture(scope="module")
def scene(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A PostgreSQL user with a difficult password, who owns a catalog and MLflow's tables; and a bucket."""
    directory = tmp_path_factory.mktemp("secrets")
    name = f"secrets_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        for what in ("catalog", "mlflow"):
            owner, password = sql.Identifier(f"{name}_{what}"), sql.Literal(PASSWORDS[what])
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(owner, password))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(owner, owner))

    def url(what: str) -> str:
        at = f"{services.environment['PGHOST']}:{services.environment['PGPORT']}"
        return f"postgresql://{name}_{what}:{quote(PASSWORDS[what], safe='')}@{at}/{name}_{what}"

    services.create_buckets(name.replace("_", "-"))
    secrets = {**PASSWORDS, "S3 key": services.secret_key, "PGPASSWORD": services.environment["PGPASSWORD"]}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "AWS_", "HEIMDALL_"))}
    environment |= {key: value for key, value in services.environment.items() if key.startswith("AWS_")}
    environment |= {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    mlflow = url("mlflow").replace("postgresql:", "postgresql+psycopg:")
    return Scene(Search(secrets), environment, url("catalog"), mlflow, f"s3://{name.replace('_', '-')}", directory)


def test_the_whole_job_tells_no_secret(scene: Scene, services: Running) -> None:
    run, base, here = scene.run, scene.base, scene.directory
    raw, store, models = f"{base}/raw", f"{base}/store", f"{base}/models"
    endpoint = scene.environment["AWS_ENDPOINT_URL"]
    where = ["--catalog", scene.catalog, "--raw", raw]
    narrow = [*SPEC_OPTIONS, "--val-fraction", "0.3", "--test-fraction", "0.2"]

    run(
        "simulate",
        *where,
        "--sessions",
        8,
        "--duration",
        0.1,
        "--sample-rate-hz",
        48000,
        "--broken-fraction",
        0.02,
        "--workers",
        0,
    )
    built = ["build-features", *where, "--store", store, *narrow, "--max-rejected-fraction", 1]
    scene.run_apart(*built, "--tag", "first", "--workers", 2)
    run(
        *built,
        "--tag",
        "again",
        "--split-seed",
        7,
        "--json",
        AWS_ENDPOINT_URL=endpoint.replace("://", f"://me:{PASSWORDS['endpoint']}@"),
    )
    run("features", "show", "--store", store, "--json")
    run("features", "verify", "--store", store)

    checkpoints = here / "checkpoints"
    tracked = ["--tracking-uri", scene.mlflow, "--artifacts", f"{base}/mlflow"]
    network = ["--backbone", "test_convnext2", "--epochs", 1, "--warmup-epochs", 0, "--batch-size", 8, "--accelerator", "cpu"]
    run(
        "train",
        "--store",
        store,
        "--features",
        "first",
        "--dir",
        checkpoints,
        "--checkpoints",
        f"{base}/kept",
        *tracked,
        *network,
    )
    exported = ["export", checkpoints / "last.ckpt", "--models", models, "--store", store, "--registry-uri", scene.mlflow]
    run(*exported)
    run("predict", models, "--store", store, "--limit", 2, "--out", here / "positions.csv")

    _fail(scene, built, raw, store)
    _fail_later(scene, exported, store, network)

    scene.search.look_everywhere(here)
    for key, data in open_everything(scene):
        scene.search.look(f"object {key}", data)
    for text in mlflow_content(scene.mlflow):
        scene.search.look("MLflow's database", text)
    logs = {path.name: path.read_bytes() for path in services.directory.rglob("*.log")}
    assert logs
    for name, data in logs.items():
        scene.search.look(f"the servers' {name}", data)
    assert scene.search.found == []
    assert scene.search.places > 100


def _fail(scene: Scene, built: list[Any], raw: str, store: str) -> None:
    """The build, refused in every way: each ends with an error that tells no secret."""
    password, other = PASSWORDS["catalog"], PASSWORDS["location"]
    url, encoded = scene.catalog, quote(PASSWORDS["catalog"], safe="")
    plan = [word for word in built if word != scene.catalog] + ["--dry-run", "--quiet"]
    plan.remove("--catalog")
    host = url.partition("@")[2]
    for catalog, code in [
        (url.replace(host, "127.0.0.1:9/none"), 75),
        (url.replace(encoded, encoded + "x"), 2),
        (url.replace(encoded, password), 2),  # as it is: @ / and ? would tear it apart
        (url.replace("://", ":/"), 2),
        (f"host=127.0.0.1 password={password} oops {password}", 2),
        (f"postgresql://{host}?password={encoded}&nonsense=1", 2),
        (f"dbname={url.replace(host, '127.0.0.1:9/none')}", 75),
    ]:
        scene.run(*plan, "--catalog", catalog, code=code)
    scene.search.secrets["location"] = other
    for option in ("--raw", "--store"):
        for bad in (
            f"s3://me:{other}@bucket/x",
            f"s3://me:{other}/x@bucket",
            f"s3:/me:{other}@bucket/x",
            f"http://me:{other}@h/x",
        ):
            words = [bad if word == (raw if option == "--raw" else store) else word for word in built]
            scene.run(*words, "--quiet", code=2)
    scene.run(*built, "--scheduler", f"tcp://me:{PASSWORDS['scheduler']}@127.0.0.1:9", "--hop-length", 32, "--quiet", code=2)
    scene.run("features", "list", "--store", "s3://no-such-bucket-here", code=None)
    scene.run("features", "list", "--store", store, code=None, AWS_SECRET_ACCESS_KEY="wrong")
    scene.run("features", "list", "--store", store, code=None, AWS_SESSION_TOKEN=PASSWORDS["token"])
    for endpoint in (
        f"http://me:{PASSWORDS['endpoint']}@127.0.0.1:9",
        f"me:{PASSWORDS['endpoint']}@host",
        f"http://me:{PASSWORDS['endpoint']}@[x",
    ):
        scene.run("features", "list", "--store", store, code=None, AWS_ENDPOINT_URL=endpoint)
    proxy = f"http://me:{PASSWORDS['endpoint']}@127.0.0.1:9"
    scene.run("features", "list", "--store", store, code=None, HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="")


def _fail_later(scene: Scene, exported: list[Any], store: str, network: list[Any]) -> None:
    """Tracker and registry, refused in every way."""
    encoded = quote(PASSWORDS["mlflow"], safe="")
    host = scene.mlflow.partition("@")[2]
    bad = [
        scene.mlflow.replace(host, "127.0.0.1:9/none"),
        scene.mlflow.replace(host, "127.0.0.1:port/none"),
        scene.mlflow.replace("+psycopg", ""),
        scene.mlflow.replace(encoded, encoded + "x"),
        f"postgresql+psycopg://127.0.0.1:9/none?user=me&password={encoded}",
        f"http://me:{encoded}@127.0.0.1:9",
        f"http://me:{encoded}@127.0.0.1:port",
        f"redis://me:{encoded}@127.0.0.1",
    ]
    train = ["train", "--store", store, "--dir", scene.directory / "none", *network]
    for uri in bad[::2]:
        scene.run(*train, "--tracking-uri", uri, "--quiet", code=None)
    for uri in bad[1::2]:
        scene.run(*[uri if word == scene.mlflow else word for word in exported], "--quiet", code=None)
    scene.run(*train, "--artifacts", f"s3://me:{PASSWORDS['location']}@b", "--tracking-uri", scene.mlflow, code=2)


def open_everything(scene: Scene) -> Iterable[tuple[str, bytes]]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in scene.environment.items():
            if name.startswith(("AWS_", "NO_PROXY")):
                patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        found = open_objects(scene.base)
        return [(info.key, found.get(info.key)) for info in found.walk()]


def mlflow_content(uri: str) -> Iterator[bytes]:
    """Every row of every table."""
    with psycopg.connect(uri.replace("+psycopg", "")) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        assert ("params",) in tables
        for (table,) in tables:
            for row in connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))):
                yield repr(row).encode()


def test_tasks_that_travel_to_workers_know_no_catalog(
    catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: Running
) -> None:
    """What is submitted is what pickle makes of function and task: recorded on its way, run all the same."""
    sent: list[bytes] = []

    class Recording(InProcess):
        def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            for task in tasks:
                sent.append(pickle.dumps((function, task)))
                yield function(task)

    def recording(*_arguments: Any) -> Any:
        return nullcontext(Recording())

    monkeypatch.setattr("featurestore.build.build.open_runner", recording)
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)
    corpus.add(*range(12))
    build(corpus.request(), Silent())
    assert len(sent) >= 2
    search = Search({"password": services.environment["PGPASSWORD"], "key": services.secret_key, "catalog": "postgresql://"})
    for message in sent:
        search.look("a task", message)
    assert search.found == []


def test_what_holds_a_password_does_not_show_it() -> None:
    place = Location.parse("/x")
    url = "postgresql://me:hunter2@host/db"
    for thing in (
        BuildRequest(url, place, place, FeatureSpec(), SplitSpec()),
        Destination(place, url),
        TrackingRequest(url),
        RegistryRequest(url),
        Command(["x"], environment={"KEY": "hunter2"}),
        Running(Path("/x"), url, "http://h", "key", "hunter2", {"PGPASSWORD": "hunter2"}, ()),
    ):
        assert "hunter2" not in f"{thing!r} {thing}"
    with pytest.raises(UsageError, match="carries credentials") as caught:
        TrackingRequest(artifacts="s3://me:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:80/x", "http://host:80/x"),
        ("http://me:secret@host:80/x", "http://host:80/x"),
        ("http://me:se/cr@et@host:80/x", "http://host:80/x"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=…&password=…"),
        ("s3:/me:secret@b/x", "b/x"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_urls_as_they_are_shown(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_only_the_owner_reads_the_services_settings(services: Running) -> None:
    """They must keep the keys somewhere: in two files that nobody else may read."""
    search = Search({"key": services.secret_key, "password": services.environment["PGPASSWORD"]})
    holders = []
    for path in services.directory.rglob("*"):
        if path.is_file() and "data" not in path.relative_to(services.directory).parts:
            before = len(search.found)
            search.look(path.name, path.read_bytes())
            holders += [path] if len(search.found) > before else []
    assert holders
    assert {path.name for path in holders} <= {"services.json", "proxy.conf", "identities.json"}
    assert all(not path.stat().st_mode & 0o077 for path in holders), [oct(path.stat().st_mode) for path in holders]
