"""What is to become tensors: the catalog's snapshot, the raw listing, captures and receivers. The build enters here."""
