"""Examples of what your project would add: each one file and one experiment (docs/examples.md)."""
