"""Many runs: a sweep is a folder of runs, and these folders contain all of its state."""
