"""What a sweep has found: its trials, the best first, which hyperparameters mattered, and how to train the best one in full."""

from __future__ import annotations

import json
import math
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import UsageError
from trainer.fitting.request import TrainRequest
from trainer.sweep.results import SweepReport, TrialRow
from trainer.sweep.space import ALIASES, searchable
from trainer.sweep.study import STATES, SharedStudy
from trainer.sweep.trial import OBJECTIVES

if TYPE_CHECKING:
    pass

LEAST_FOR_IMPORTANCE = 8
"""Complete trials; among fewer, chance decides which hyperparameter looks important."""
OPTION = {field: option for option, field in ALIASES.items()}


def make_report(shared: SharedStudy, objective: str, base: TrainRequest) -> SweepReport:
    """What the study holds now."""
    frozen = shared.trials()
    rows = sorted(map(TrialRow.of, frozen), key=_rank)
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    best = rows[0].parameters if counts["complete"] else {}
    return SweepReport(
        study=shared.plan.name,
        storage=shared.storage.name,
        version=base.version,
        objective=OBJECTIVES[objective][2],
        space={parameter.name: str(parameter) for parameter in shared.plan.space.parameters},
        trials=rows,
        counts=counts,
        importances=_importances(shared, counts["complete"]),
        command=train_command(base, best) if best else "",
    )


def train_command(base: TrainRequest, parameters: dict[str, Any]) -> str:
    """What one would type: the store, the set, and every hyperparameter that is not the default."""
    default, known = TrainRequest(base.store), searchable()
    words = ["heimdall", "train", "--store", base.store, "--features", base.version]
    fixed = {name.rpartition(".")[2]: value for name, value in base.training.flat().items()} | {"batch_size": base.batch_size}
    usual = {name.rpartition(".")[2]: value for name, value in default.training.flat().items()} | {
        "batch_size": default.batch_size
    }
    for name in known:
        value = parameters.get(name, fixed[name])
        if value != usual[name]:
            option = f"--{OPTION.get(name, name).replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def save(report: SweepReport, directory: Path) -> list[Path]:
    """Write `sweep.json`, and once a trial is complete `sweep.png`; `UsageError` when the directory cannot be written to."""
    from trainer.sweep.plot import draw

    path = directory / "sweep.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
    return [path] if report.best is None else [path, draw(report, directory)]


def _rank(row: TrialRow) -> tuple[int, float, int]:
    order = list(STATES).index(row.state)
    return order, row.value if row.value is not None else 0.0, row.number


def _importances(shared: SharedStudy, complete: int) -> dict[str, float]:
    if complete < LEAST_FOR_IMPORTANCE or len(shared.plan.space.parameters) < 2:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with shared.storage.explained(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called experimental
        found = get_param_importances(shared.study, evaluator=PedAnovaImportanceEvaluator())
    return found if all(map(math.isfinite, found.values())) else {}  # there are none where all trials are equally good
