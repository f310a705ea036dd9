"""Losses: pure functions of tensors. Gathering over ranks happens before them (:mod:`ppr_dist.objective`)."""
