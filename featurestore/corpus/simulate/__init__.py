"""A physically credible corpus of captures. Enter by `simulate.simulate`."""
