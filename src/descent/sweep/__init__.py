"""Many runs: a sweep is a folder of runs, and what the runs' folders hold is all the state there is."""
