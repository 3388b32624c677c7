"""The checks of `heimdall doctor` that need no torch."""
