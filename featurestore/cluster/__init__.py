"""Where tasks run: in this process, on worker processes here, or on a Dask cluster. Enter by `runner.open_runner`."""
