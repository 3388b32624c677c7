"""Looking at pair sets: `features show`, `report`, `diff` and `trace` with `--pairs`. Nothing here writes to the store."""
