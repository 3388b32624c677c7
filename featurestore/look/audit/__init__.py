"""What `features show` warns of: pure functions over a set's columns."""
