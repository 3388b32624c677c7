"""The commands `train`, `sweep`, `evaluate` and `doctor`: one file each, which imports what it needs when it runs."""
