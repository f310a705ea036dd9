"""Logs to try things on: a catalogue with known structure, and MovieLens expanded to any size."""
