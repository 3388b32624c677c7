"""An offline feature store for radio source localization: `open_set` opens what `build-features` made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.store.feature_set import FeatureSet, open_set

__all__ = ["FeatureSet", "open_set"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that command lines start quickly."""
    if name in __all__:
        from featurestore.store import feature_set

        return getattr(feature_set, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
