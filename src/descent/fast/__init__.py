"""`trainer=fast`: a loop without idle hooks and kernels called directly, for small models."""
