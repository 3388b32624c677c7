"""What a repair did, for people and machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.errors import StoreError


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged object.

    Attributes:
        url: of the object.
        problem: `missing`, `truncated` or `damaged`.
        repaired: whether it is sound again.
        how: it was repaired, or else why it can't be and what to do next.
    """

    url: str
    problem: str
    repaired: bool
    how: str


@dataclass(frozen=True)
class RepairReport:
    """What a repair did: the JSON that `features repair --json` prints.

    Attributes:
        version: of the set.
        url: of the set.
        dry_run: whether nothing was written.
        outcomes: one per damaged object, by URL.
    """

    version: str
    url: str
    dry_run: bool
    outcomes: tuple[Outcome, ...]

    @property
    def sound(self) -> bool:
        """Whether the set is sound now."""
        return all(outcome.repaired for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """All fields, and `sound`."""
        return {**asdict(self), "sound": self.sound}

    def lines(self) -> Iterator[str]:
        """For people."""
        n_repaired = sum(outcome.repaired for outcome in self.outcomes)
        yield f"feature set {self.version}: {len(self.outcomes):,} objects damaged, {n_repaired:,} repaired" + (
            " (dry run: nothing was written)" if self.dry_run else ""
        )
        yield f"  {self.url}"
        for outcome in self.outcomes:
            yield f"{'repaired' if outcome.repaired else 'damaged':9} {outcome.url}"
            yield f"{'':10}{'was ' + outcome.problem + '; ' if outcome.repaired else ''}{outcome.how}"
        if self.sound:
            yield "  every object is there and intact" + (" then" if self.dry_run and self.outcomes else "")

    def require_sound(self) -> None:
        """Raise when something is left that is damaged.

        Raises:
            StoreError: says how much; what to do next is said of each object.
        """
        left = sum(not outcome.repaired for outcome in self.outcomes)
        if left:
            raise StoreError(
                f"{left:,} of {len(self.outcomes):,} damaged objects of {self.url} could not be repaired; "
                "what to do next is said with each"
            )
