"""Is a feature set whole, and is it what its recordings say? `verify`, and with `--deep` a sample of rows computed again."""
