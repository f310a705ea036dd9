"""Pure torch modules. Nothing here knows of ranks."""
