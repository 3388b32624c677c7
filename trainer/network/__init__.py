"""The network: geometry of targets, model, loss, augmentation, checkpoints. No I/O but for checkpoints and weights."""
