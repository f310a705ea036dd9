"""ppr_dist: distributed pre-training and personalised-prompt tuning of sequential recommenders."""

__version__ = "0.1.0"
