"""`trainer=fast`: a loop without idle hooks and kernels without what surrounds them, for small models."""
