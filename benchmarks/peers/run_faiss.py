"""Faiss' exact inner-product index over vectors in a file, searched when benchmarks/retrieval.py says so."""

from __future__ import annotations

import json
import os
import sys
import time

import faiss
import numpy as np


def main() -> None:
    given = json.loads(sys.argv[1])
    faiss.omp_set_num_threads(given["threads"])
    # By default faiss uses BLAS above 2,000 users (at width 64) alone; with it fewer are several times faster too.
    faiss.cvar.distance_compute_blas_threshold = 1280
    items = np.load(given["items"], mmap_mode="r")
    index = faiss.IndexFlatIP(items.shape[1])
    for first in range(0, len(items), 1_000_000):
        index.add(np.ascontiguousarray(items[first : first + 1_000_000]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        users = np.load(asked["users"])
        start = time.perf_counter()
        scores, ids = index.search(users, asked["k"])
        seconds = time.perf_counter() - start
        np.savez(asked["out"], scores=scores, ids=ids)
        print(json.dumps({"seconds": seconds}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
