"""Looking at feature sets: overview, diff, trace, audit, report. Nothing here writes to the store."""
