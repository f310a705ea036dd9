"""Shards → batches: the exact stream of users, and what is cut from their histories."""
