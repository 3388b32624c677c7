"""Names and queries that would reach beyond the bucket, the directory or the catalog that they were meant for."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg
import pytest
from botocore.client import Config
from click.testing import CliRunner, Result
from corpus_for_tests import Corpus, tree
from faults.hostile import SPEC, noise, npy
from faults.tally import Tally

from cli import main
from exporter.release.registry import RegistryRequest
from featurestore.errors import HeimdallError, StoreError, UsageError
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.services import Running
from featurestore.source.catalog import read_snapshot
from featurestore.store.feature_set import open_set

CANARY = npy(noise(1000, seed=99))
"""A capture that any reader would take, in places that none must reach."""

SPEC_OPTIONS = ("--sample-rate-hz", "48000", "--n-fft", "64", "--hop-length", "16", "--n-frames", "4", "--n-mels", "8")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object, codes: tuple[int, ...] = (1, 2, 3)) -> str:
    """What a command says that must end with one clear line, without a traceback."""
    done = command(*arguments)
    assert done.exit_code in codes, (arguments, done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
    return done.stderr


@dataclass
class Place:
    """A corpus, what is around it, and how all of that is read: by something else than what is tested."""

    corpus: Corpus
    outside: dict[str, bytes]
    around: list[str]

    def look(self) -> dict[str, bytes]:
        """Everything that is neither below `raw` nor below `store`."""
        if self.corpus.raw.is_local:
            found = tree(self.corpus.raw.directory.parent)
            return {name: data for name, data in found.items() if not name.startswith(("raw/", "store/"))}
        # Not the default session: it keeps the credentials of another server.
        client = boto3.Session().client("s3", config=Config(request_checksum_calculation="when_required"))
        found = {}
        for bucket in self.around:
            for item in client.list_objects_v2(Bucket=bucket).get("Contents", []):
                if not item["Key"].startswith(("raw/", "store/")):
                    found[f"{bucket}/{item['Key']}"] = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        return found

    def check(self) -> None:
        """Nothing outside has changed, and nothing of it is inside."""
        assert self.look() == self.outside
        store = open_objects(self.corpus.store.url)
        assert not any(CANARY[200:400] in store.get(info.key) for info in store.walk())


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, catalog: str) -> Iterator[Place]:
    """Six good sessions, and canaries beside the raw location, in prefixes that begin like it, and in another bucket."""
    if request.param == "file":
        tmp_path = tmp_path / "place"
        tmp_path.mkdir()
        base = tmp_path.as_uri()
        for name in ("canary.npy", "raw2/canary.npy", "raw.npy", "other/canary.npy"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(CANARY)
        (tmp_path / "raw").mkdir()
        around = []
    else:
        base, other = request.getfixturevalue("bucket"), f"{request.getfixturevalue('bucket')}-other"
        request.getfixturevalue("services").create_buckets(other.removeprefix("s3://"))
        for url in (base, f"{base}/raw2", other):
            Objects(Location.parse(url)).put("canary.npy", CANARY)
        around = [base.removeprefix("s3://"), other.removeprefix("s3://")]
    corpus = Corpus(Location.parse(f"{base}/raw"), Location.parse(f"{base}/store"), catalog, SPEC)
    corpus.add(*range(20))
    corpus.objects().put("alone.npy", npy(noise(700)))
    place = Place(corpus, {}, around)
    place.outside = place.look()
    assert len(place.outside) >= 3
    yield place
    place.check()


def test_keys_lead_nowhere_else(place: Place, tally: Tally) -> None:
    """Each is an object below the raw location, under exactly this name, or it is missing."""
    bucket = place.around[-1] if place.around else "other"
    keys = [
        *(
            "../canary.npy",
            "sessions/../../canary.npy",
            "./../canary.npy",
            "sessions/../alone.npy",
            "./alone.npy",
            "//alone.npy",
        ),
        *(
            "/alone.npy",
            "/etc/passwd",
            str(Path(__file__).resolve()),
            "%2e%2e/canary.npy",
            "..%2fcanary.npy",
            "%2e%2e%2fcanary.npy",
        ),
        *(
            "..\\canary.npy",
            "..\\..\\canary.npy",
            "2/canary.npy",
            ".npy",
            "alone.npy/",
            "alone.npy\n",
            "\nalone.npy",
            "alone.npy\t",
        ),
        *(
            "",
            " ",
            ".",
            "..",
            "/",
            "~",
            "~/canary.npy",
            "sessions",
            "sessions/",
            "x" * 2000,
            "x/" * 1000,
            "a\u0000b".replace("\0", "\x01"),
        ),
        *(f"s3://{bucket}/canary.npy", "file:///etc/passwd", "alone.npy?versionId=1", "alone.npy#x", "?prefix=", "*", "*.npy"),
        *("'; DROP TABLE measurements; --", "$(touch owned)", "`touch owned`", "\x1b[31malone.npy", "ALONE.NPY", "\u202e.npy"),
        *(unicodedata.normalize(form, "\u00e4\ufb01.npy") for form in ("NFC", "NFD", "NFKC", "NFKD")),
        *("\uff0e\uff0e/canary.npy", "\u2025/canary.npy", "..\u2215canary.npy", "store/latest.json", "../store/latest.json"),
    ]
    with psycopg.connect(place.corpus.catalog, autocommit=True) as connection:
        captures = [row[0] for row in connection.execute("SELECT id FROM measurements ORDER BY id LIMIT %s", [len(keys)])]
        for capture, key in zip(captures, keys, strict=False):
            connection.execute("UPDATE measurements SET iq_key = %s WHERE id = %s", [key, capture])
    assert len(captures) == min(len(keys), 60)
    report = place.corpus.build(max_rejected_fraction=1.0)
    rejected = {entry.capture_id: entry for entry in open_set(str(place.corpus.store), report.version).rejected}
    for capture, key in zip(captures, keys, strict=False):
        assert rejected[capture].reason == "missing_object", key
        assert rejected[capture].iq_key == key
    assert rejected.keys() == set(captures)
    line = refused(*build_arguments(place.corpus), codes=(3,))
    assert line.count("\n") == 1
    assert len(line) < 1000
    tally.add("tricks tried", len(captures))


def build_arguments(corpus: Corpus, *more: object) -> list[object]:
    where = ["--catalog", corpus.catalog, "--raw", corpus.raw, "--store", corpus.store]
    return ["build-features", *where, *SPEC_OPTIONS, "--windows-per-capture", 2, "--workers", 0, "--quiet", *more]


def test_locations_that_could_mean_another_place(place: Place, tally: Tally) -> None:
    base = str(place.corpus.raw).removesuffix("/raw")
    other = place.around[-1] if place.around else "other"
    urls = [
        *(
            f"s3://../{other}",
            f"s3://x\\..\\{other}",
            f"s3://x/../{other}",
            "s3://./x",
            "s3://..",
            "s3://b//x",
            "s3://b/./x",
            "s3://b/x/../y",
        ),
        *(
            "s3://b?x=y#f",
            "s3://b/x?y",
            "s3://b/x#y",
            "s3://b:80/x",
            "s3://b%2f..%2fother/x",
            "s3://[x",
            "s3://b\u2100/x",
            "s3://b/a\nb",
        ),
        *("s3:///x", "s3://", "s3:/b/x", "file://host/x", "file://", "file:///x%00y", "file:///x?y", "http://127.0.0.1/x", ""),
        *(
            "gopher://b/x",
            "s3://user:pass@b/x",
            "s3://user@b",
            "s3://us:pa/ss@b/x",
            f"s3://user:pass@../{other}",
            "ftp:/x",
            "s3://" + "b" * 300,
        ),
    ]
    for number, url in enumerate(urls):
        with pytest.raises(UsageError) as caught:
            Location.parse(url)
        assert "pass" not in str(caught.value)
        assert "ss@" not in str(caught.value)
        assert str(caught.value).isprintable()
        for arguments in (["features", "list", "--store", url], ["releases", "list", "--models", url])[: 1 + (number < 4)]:
            assert refused(*arguments, codes=(2,)).count("\n") == 1
    for part in ("%2e%2e", "a%2fb", "..."):  # names like others, if odd ones: of prefixes below this one
        refused("features", "list", "--store", f"{base}/empty/{part}", codes=(0, 2))
    tally.add("tricks tried", len(urls) + 3)


NAMES = [
    *(
        "../x",
        "../../canary",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        " ",
        "a\\b",
        "a%2fb",
        "%2e%2e",
        "a\nb",
        "x" * 2000,
        "\u00e9",
        "-x",
    ),
    *("latest/../x", "s3://b/x", "x.json", "'; DROP TABLE x; --", "\x1b[31m", "*", "~", "../sets/x", "0" * 12, "C:\\x", "a b"),
]


def test_names_of_sets_and_releases(place: Place, tally: Tally) -> None:
    store = str(place.corpus.store)
    place.corpus.build(tag="good")
    before = dict(sorted((info.key, info.etag) for info in open_objects(store).walk()))
    n_tried = 0
    for name in NAMES if place.corpus.raw.is_local else NAMES[:4]:
        tries: list[list[object]] = [
            ["features", "show", "--store", store, "--", name],
            ["features", "verify", "--quiet", "--store", store, "--", name],
            ["features", "diff", "--store", store, "--", name, "latest"],
            ["features", "diff", "--store", store, "--", "latest", name],
            ["features", "tag", "--store", store, "--", name, "new"],
        ]
        if name != "x.json":
            tries.append(["features", "tag", "--store", store, "--", "latest", name])
            tries.append(build_arguments(place.corpus, "--max-rejected-fraction", 1, f"--tag={name}"))
        tries += [
            ["releases", "show", "--models", store, "--", name],
            ["releases", "promote", "--no-registry", "--models", store, "--", name],
            ["predict", "--models", store, "--store", store, "--", name],
        ]
        for arguments in tries:
            assert refused(*arguments).count("\n") <= 3, arguments  # click's own errors begin with the usage
        n_tried += len(tries)
    assert dict(sorted((info.key, info.etag) for info in open_objects(store).walk())) == before
    tally.add("tricks tried", n_tried)


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_pointers_and_manifests_that_were_tampered_with(place: Place, tally: Tally) -> None:
    store = open_objects(place.corpus.store.url)
    place.corpus.build()
    for version in ("../../canary", "/etc/passwd", "..", "", "x\ny", "a" * 2000, "%2e%2e", None, 7, ["x"], {"x": 1}):
        store.put_json("latest.json", {"version": version})
        with pytest.raises(HeimdallError):
            open_set(str(place.corpus.store))
    tally.add("tricks tried", 11)


WRITES = [
    "SELECT 1) AS x; COMMIT; DROP TABLE measurements; SELECT * FROM (SELECT 1",
    "SELECT * FROM measurements; DROP TABLE measurements",
    "SELECT * FROM measurements) AS x; DELETE FROM measurements; COMMIT; --",
    "SELECT * FROM measurements) AS x; SET TRANSACTION READ WRITE; DELETE FROM measurements; SELECT * FROM (SELECT 1",
    "COMMIT; DROP TABLE measurements",
    "COMMIT",
    "ROLLBACK; BEGIN; DROP TABLE measurements; COMMIT",
    "DELETE FROM measurements RETURNING *",
    "WITH gone AS (DELETE FROM measurements RETURNING *) SELECT * FROM gone",
    "WITH m AS (UPDATE measurements SET approved = false RETURNING *) SELECT * FROM m",
    "WITH m AS (INSERT INTO measurements SELECT * FROM measurements RETURNING *) SELECT * FROM m",
    "SELECT * FROM measurements FOR UPDATE",
    "SELECT *, nextval(pg_get_serial_sequence('measurements', 'id')) FROM measurements",
    "SELECT *, set_config('transaction_read_only', 'off', false) FROM measurements WHERE lo_create(0) > 0",
    "SELECT * INTO stolen FROM measurements",
    "CREATE TABLE stolen AS SELECT * FROM measurements",
    "COPY measurements TO '/tmp/stolen'",
    "TRUNCATE measurements",
    "DO $$ BEGIN DELETE FROM measurements; END $$",
    "CALL x()",
    "EXPLAIN ANALYZE DELETE FROM measurements",
    "SELECT '",
    "SELECT $$",
    "SELECT /*",
    "",
    " ; ;; ",
    "-- nothing",
    "x\0y",
    "%s %(x)s {}",
    "SELECT 'x''; DROP TABLE measurements; --' AS session_id",
]


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_a_query_reads_and_does_nothing_else(place: Place, tmp_path: Path, tally: Tally) -> None:
    catalog = place.corpus.catalog

    def content() -> list[tuple[object, ...]]:
        with psycopg.connect(catalog) as connection:
            tables = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'S') AND relnamespace = 'public'::regnamespace"
            )
            return [*sorted(tables), *connection.execute("SELECT * FROM measurements ORDER BY id")]

    before = content()
    file = tmp_path / "query.sql"
    for query in WRITES:
        file.write_text(query)
        refused(*build_arguments(place.corpus, "--query-file", file), codes=(1, 2))
        assert content() == before, query
    file.write_bytes(b"SELECT '\xff\xfe'")
    assert "UTF-8" in refused(*build_arguments(place.corpus, "--query-file", file), codes=(2,))
    tally.add("tricks tried", len(WRITES) + 1)


SESSIONS = [
    "x'; DROP TABLE measurements; --",
    "../../x",
    "",
    "{}",
    "00000000-0000-0000-0000-00000000000g",
    "x" * 2000,
    "é",
    "\n",
]


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_sessions_are_uuids_or_nothing(place: Place, tally: Tally) -> None:
    names = 'id, websdr_id, latitude, longitude, frequency_mhz, sample_rate_hz, snr_db, "timestamp"'
    for session in SESSIONS:
        literal = psycopg.sql.Literal(session).as_string(None)
        with pytest.raises(UsageError, match="invalid input syntax for type uuid"):
            read_snapshot(place.corpus.catalog, f"SELECT {names}, {literal} AS session_id, NULL AS iq_key FROM measurements")
    found = read_snapshot(place.corpus.catalog, f"SELECT {names}, session_id, '\\x41'::bytea AS iq_key FROM measurements")
    assert set(found.keys()) == {"\\x41"}  # a key of another type is its text
    tally.add("tricks tried", len(SESSIONS) + 1)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_catalogs_in_other_encodings(services: Running, tmp_path: Path, encoding: str, tally: Tally) -> None:
    """A key that is no UTF-8 is an error that says so; one that the server can turn into it is a key."""
    from featurestore.services import postgres
    from featurestore.source.catalog_writing import create_table

    admin = services.catalog
    name = f"odd_{encoding.lower()}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'".encode())
    catalog = admin.removesuffix(postgres.DATABASE) + name
    create_table(catalog)
    with psycopg.connect(catalog, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO measurements (session_id, websdr_id, latitude, longitude, iq_key, approved)"
            f" VALUES (gen_random_uuid(), 1, 45, 7, convert_from('\\xe4'::bytea, '{encoding}'), true)".encode()
        )
    if encoding == "LATIN1":
        assert list(read_snapshot(catalog).keys()) == ["ä"]
    else:
        with pytest.raises(UsageError, match=r"not UTF-8|invalid byte sequence"):
            read_snapshot(catalog)
    tally.add("tricks tried")


@pytest.mark.parametrize("s3_services", ["swift"], indirect=True)
def test_one_odd_object_is_named_at_once_and_not_waited_for(bucket: str, tally: Tally) -> None:
    """S3 allows keys that no path can be; a listing that meets one says so, and blames neither server nor network.

    On Swift, which keeps such a key as it is: SeaweedFS makes `sessions//x.npy` the same as `sessions/x.npy`.
    """
    # Not the default session: it keeps the credentials of another server.
    client = boto3.Session().client("s3", config=Config(request_checksum_calculation="when_required"))
    for number, key in enumerate(["sessions//x.npy", "sessions/a\nb.npy"]):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"{number}/{key}", Body=b"x")
        with pytest.raises(StoreError, match=r"cannot be listed, because of an object whose name is no key"):
            list(open_objects(f"{bucket}/{number}").walk())
    tally.add("tricks tried", 2)


def test_labels_name_files_below_their_directory(tmp_path: Path, catalog: str, tally: Tally) -> None:
    """Absolute, climbing, and a pipe that nobody writes to: skipped with a reason, unread."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    (recordings / "good.npy").write_bytes(npy(noise(1000)))
    (tmp_path / "canary.npy").write_bytes(CANARY)
    os.mkfifo(recordings / "pipe.npy")
    tricks = [
        "../canary.npy",
        str(tmp_path / "canary.npy"),
        "x/../../canary.npy",
        "pipe.npy",
        "/dev/zero",
        "..",
        ".",
        "%2e%2e/canary.npy",
    ]
    rows = [f"{name},{number},45,7,48000" for number, name in enumerate(["good.npy", *tricks])]
    (tmp_path / "labels.csv").write_text("\n".join(["file,websdr_id,latitude,longitude,sample_rate_hz", *rows]))
    where = ["--labels", tmp_path / "labels.csv", "--raw", tmp_path / "raw", "--catalog", catalog, "--json", "--quiet"]
    done = command("ingest", recordings, *where)
    assert done.exit_code == 0, done.output
    assert [line for name in tricks if (line := name) not in done.stdout] == []
    assert len(tree(tmp_path / "raw")) == 1
    assert not any(CANARY[200:400] in data for data in tree(tmp_path / "raw").values())
    tally.add("tricks tried", len(tricks))


def test_names_of_models() -> None:
    for name in ("x' OR name = 'y", "", "a\nb", 'x"y', "x`y", "x\\y", "%", "x" * 300):
        with pytest.raises(UsageError, match="--model-name is"):
            RegistryRequest(model=name)
    assert RegistryRequest(model="catalog.schema.heimdall v2").model
