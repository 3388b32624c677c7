"""Chunks of a feature set become shuffled batches, checked, in reused buffers. Enter by `feature_stream.FeatureStream`."""
