"""How much later one receiver hears a transmission than another: recordings with times → delays of pairs, with their sigmas.

A session comes in as `Heard`s, leaves by `measure_pairs` as `Pairs`. Each receiver's spectra are made once, whatever the number
of pairs. Pure: no I/O, no torch.
"""
