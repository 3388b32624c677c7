"""What a sweep searches unless it is told; without torch, for the command's help names the values."""

from __future__ import annotations

PRESETS = {
    # ConvNeXt's own recipe has a rate of 2.5e-4 at a batch of 256 (4e-3 at 4096) and a decay of 0.05 (its paper, appendix A).
    "standard": ("learning_rate=1e-4,3e-4,1e-3", "batch_size=64,256", "dropout=0.1,0.3", "weight_decay=1e-4,0.05"),
    "wide": (
        "learning_rate=1e-4,3e-4,1e-3,3e-3",
        "batch_size=64,128,256",
        "dropout=0,0.1,0.3",
        "weight_decay=1e-5,1e-3,0.05",
    ),
    "ranges": ("learning_rate=log:3e-5..3e-3", "batch_size=64,128,256", "dropout=0..0.5", "weight_decay=log:1e-5..0.1"),
}
"""Learning rate × batch size × dropout × weight decay: grids of 24 and of 108, and what TPE or chance draw from."""
