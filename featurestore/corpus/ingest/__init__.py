"""Recordings of many formats become captures and catalog rows. Enter by `ingest.ingest`."""
