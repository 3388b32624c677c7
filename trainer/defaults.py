"""Defaults of a training that depend on what is located. No torch: the help of `train` names them."""

from __future__ import annotations

from typing import Any

CAPTURE = "capture"
DEFAULTS: dict[str, dict[str, Any]] = {
    CAPTURE: {
        "backbone": "large",
        "batch_size": 256,
        "max_epochs": 100,
        "warmup_epochs": 5,
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "band_dropout": 0.1,
        "time_dropout": 0.1,
        "max_shift": 5,
        "scale": 0.05,
    },
    # Levels are what is read: scaling and dropout would falsify them (docs/log.md). Maps are fitted in each epoch.
    "radio-map": {
        "backbone": "large",
        "batch_size": 32,
        "max_epochs": 6,
        "warmup_epochs": 1,
        "learning_rate": 2e-3,
        "weight_decay": 1e-2,
        "band_dropout": 0.0,
        "time_dropout": 0.0,
        "max_shift": 0,
        "scale": 0.0,
    },
    "attention": {
        "backbone": "large",
        "batch_size": 32,
        "max_epochs": 40,
        "warmup_epochs": 2,
        "learning_rate": 1e-3,
        "weight_decay": 1e-2,
        "band_dropout": 0.0,
        "time_dropout": 0.0,
        "max_shift": 0,
        "scale": 0.0,
    },
}
"""By what is located, sessions by their fusion."""


def defaults_of(kind: str) -> dict[str, Any]:
    """`capture`, `radio-map` or `attention` → values of options that were not given."""
    return DEFAULTS[kind]


def by_locate(name: str) -> str:
    """How the help of an option tells its defaults."""
    capture, radio_map, attention = (DEFAULTS[kind][name] for kind in (CAPTURE, "radio-map", "attention"))
    sessions = f"{radio_map:g}" if radio_map == attention else f"{radio_map:g} (attention {attention:g})"
    return f"[default: {capture:g}; sessions {sessions}]"
