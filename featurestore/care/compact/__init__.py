"""`features compact`: small segments become few large ones. Enter by `compact.compact`."""
