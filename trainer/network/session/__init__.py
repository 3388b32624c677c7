"""Locating sessions: level readers, the kriged radio map, attention over receivers, posteriors. No I/O."""
