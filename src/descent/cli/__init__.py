"""Turns command-line overrides into a checked config: the only package that uses Hydra and OmegaConf."""
