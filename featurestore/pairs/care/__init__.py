"""Care for pair sets: what `features verify`, `repair` and `compact` do with `--pairs`."""
