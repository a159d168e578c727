"""A person's own table, CSV or Parquet: read by polars, understood column by column."""
