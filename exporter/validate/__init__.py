"""Validation of a graph against PyTorch and the feature store, before anything is published. Enter by `validate`."""
