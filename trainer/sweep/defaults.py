"""What a sweep searches where nothing is said; without torch, for the command's help names the values."""

from __future__ import annotations

SAMPLERS = ("grid", "tpe", "random")
# ConvNeXt's own recipe has a rate of 2.5e-4 at a batch of 256 (4e-3 at 4096) and a decay of 0.05 (its paper, appendix A).
GRID = ("learning_rate=1e-4,3e-4,1e-3", "batch_size=64,256", "dropout=0.1,0.3", "weight_decay=1e-4,0.05")
"""24 combinations."""
RANGES = ("learning_rate=log:3e-5..3e-3", "batch_size=64,128,256", "dropout=0..0.5", "weight_decay=log:1e-5..0.1")
"""What TPE or chance draw from."""
TRIALS = 50
"""Where nothing else sets an end."""
