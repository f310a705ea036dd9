"""Imported last by the server that ranks are forked from: their garbage collections leave out what it holds.

``deepspeed.initialize`` collects; among the objects of all those modules that takes 0.3 s, and copies their pages.
"""

import gc

gc.collect()
gc.freeze()
