"""The user's table, CSV or Parquet: read by polars, interpreted column by column."""
