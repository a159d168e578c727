"""One file a kind of data; `batches.py` cuts tensors into batches."""
