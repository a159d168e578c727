"""Turns the user's files and the bundled data sets into batches: split, scaled and in order."""
