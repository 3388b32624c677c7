"""Where captures come from: `simulate/` makes them up, `ingest/` takes them from recordings. Both fill bucket and catalog."""
