"""One file each, and only what Lightning lacks."""
