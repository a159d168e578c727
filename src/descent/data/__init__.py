"""Data sets as batches: what a person's files or the bundled ones hold, split, scaled and put in order."""
