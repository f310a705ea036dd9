"""What ends a run that cannot come to any good, soon and in words."""
