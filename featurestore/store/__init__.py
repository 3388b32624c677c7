"""What is on disk: chunks, rows, split, segments, bases, manifests and sets; `feature_set.open_set` reads a set."""
