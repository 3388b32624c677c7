"""One training: request, loader, Lightning module, callbacks, tracking. Enter by `run.fit`."""
