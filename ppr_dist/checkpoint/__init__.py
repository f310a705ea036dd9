"""Checkpoints: what a run saves, where it stands, and the proof of what it was trained on."""
