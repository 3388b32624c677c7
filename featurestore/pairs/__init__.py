"""Pair features, the store's second kind of tensor: how every two receivers of a session correlate over lags of time.

A build enters by `build.build_pairs`, a reader by `pair_set.open_pair_set`. They live below `{store}/pairs`, by the
rules of feature sets: names made of content, markers last, sets as views.
"""
