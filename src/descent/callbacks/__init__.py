"""Callbacks that Lightning lacks, one per file."""
