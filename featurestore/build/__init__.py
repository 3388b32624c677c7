"""The build: plan (pure), a worker's chunk tasks, stages, publishing, dry run. Enter by `build.build`."""
