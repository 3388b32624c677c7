"""Looking at feature sets: overview, diff, trace, gallery, audit, report. Nothing here writes to the store."""
