"""The package that the commands and the `_target_` lines of conf/ name."""
