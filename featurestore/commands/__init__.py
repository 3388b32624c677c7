"""The commands of this package: each parses its options, calls one library function, prints. No logic of their own."""
