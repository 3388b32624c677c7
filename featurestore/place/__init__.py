"""Where a transmitter is: grids of place, and posteriors on them.

Whoever knows something of a place (levels by a radio map, delays by pairs of receivers) comes in by `Grid`, writes it down as
log densities of the cells, and leaves by `Posterior`: point, covariance, regions, contours. Pure: no I/O, no torch.
"""
