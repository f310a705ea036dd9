"""Raw logs and profiles → shards (``python -m ppr_dist.prepare``), out of core in DuckDB."""
