"""From the overrides of a command line to a checked config: the only room that knows Hydra and OmegaConf."""
