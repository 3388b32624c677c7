"""One training: request, loader, Lightning module, callbacks, tracking. Enter by `trainer.fit`, which is `run.fit`.

The folder is not named `fit`: a package whose folder has the name of a function cannot hand that function on.
"""
