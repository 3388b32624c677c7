"""Real servers for tests: they start when the first test asks for one, once for all processes of a run."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql
from shared_services import shared

from featurestore.services import SHADOWING, Running, postgres
from featurestore.source.catalog_writing import create_table

pytest_plugins = ["faults.tally"]  # the fixture `tally`, and the report that it gives at the end

# Before anything imports torch: tests run beside each other, and its idle threads would spin (docs/log.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Before anything imports dask: clusters that tests start themselves have its profiler, too, which can freeze Python 3.11
# (see featurestore.cluster.dask_cluster).
os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "false")

# On a busy machine an example may take any time.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


LONG = (
    "test_demo",
    "test_secrets",
    "test_kills",
    "test_export_cli",
    "test_session_graph",
    "test_sweep",
    "test_interrupt",
    "test_step",
    "test_iq_graph",
    "test_graph",
    "test_build_services",
    "test_network",
)
"""Files to begin with, the longest first: begun last, one would keep one process busy while the others have nothing left.

xdist would put them last again, as they hold few tests: hence `--no-loadscope-reorder` in the Makefile.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Running:
    """PostgreSQL and S3 for all test processes; what one test does with them stays in databases and buckets of its own."""
    return shared(tmp_path_factory, request.config, "services", postgres=True, s3=True)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Running:
    """The other S3 server, likewise: what works with both was written for neither."""
    return shared(tmp_path_factory, request.config, "swift", postgres=False, s3="swift")


@pytest.fixture
def catalog(services: Running) -> Iterator[str]:
    """The URL of a fresh database that holds an empty `measurements` table."""
    database = f"test_{uuid.uuid4().hex[:12]}"
    name = sql.Identifier(database)
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        url = services.catalog.removesuffix(postgres.DATABASE) + database
        create_table(url)
        yield url
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def s3_services(request: pytest.FixtureRequest) -> Running:
    """The S3 server that this test uses; `both_servers` makes it each of the two in turn."""
    services: Running = request.getfixturevalue("swift" if getattr(request, "param", None) == "swift" else "services")
    return services


@pytest.fixture
def s3_environment(s3_services: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The variables by which S3 clients find the server, set for this test; whatever else they would read is out of sight."""
    variables = {name: value for name, value in s3_services.environment.items() if name.startswith("AWS_")}
    for name in SHADOWING:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    _forget_other_servers(monkeypatch)
    return variables


def _forget_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 keeps the credentials that it found first, and MLflow its clients; this test may use another server."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    if repository := sys.modules.get("mlflow.store.artifact.s3_artifact_repo"):
        repository._cached_get_s3_client.cache_clear()


@pytest.fixture
def bucket(s3_services: Running, s3_environment: dict[str, str]) -> str:
    """The URL of a fresh, empty bucket, with the environment set so that it can be used."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_services.create_buckets(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def ordinary_user() -> list[str]:
    """What to put before a command so that it does not run as root; it may still read everything, wherever Python is."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("runs as root, and there is no setpriv to become somebody else")
    capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *capability, "--"]
