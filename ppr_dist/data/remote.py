"""Prepared data that lies under an address: ``s3://``, ``gs://``, ``http://``, ``https://``.

Small files (the manifest, the tables of raw ids, items' shares) are fetched once into a folder of this machine's cache,
another one where the manifest has changed, and read there as any others are. Shards are read into memory when their
turn comes, and leave nothing behind. Everything is read whole, and again where a connection breaks, stalls or brings
other bytes.

S3 and Google's store are pyarrow's, with the credentials they find as everywhere; options stand in the address
(``?region=eu-central-1``, ``?endpoint_override=…``).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath

from jsonargparse.typing import register_type

from ppr_dist.errors import UserError
from ppr_dist.files import replace

SCHEMES = ("s3", "gs", "http", "https")
ATTEMPTS = 5
TIMEOUT = 30.0
"""Seconds without a byte, over http, after which a connection counts as broken."""
MANIFEST, ADDRESS = "manifest.json", ".address"


class DataFolder(PosixPath):
    """The folder of ``--data``: as it was named, or, where that is an address, its folder in this machine's cache."""


def is_address(text: str) -> bool:
    return "://" in text


@functools.cache
def here(data: str) -> DataFolder:
    """Where ``data``, a path or an address, is read. Fetches an address's manifest.

    Raises :class:`UserError` where nothing is there.
    """
    if not is_address(data):
        return DataFolder(data)
    if data.split("://")[0] not in SCHEMES:
        raise UserError(f"{data}: data is read from a folder, or from {', '.join(f'{s}://' for s in SCHEMES)}")
    manifest = fetch(_below(data, MANIFEST))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "ppr_dist" / hashlib.sha256(data.encode() + manifest).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        replace(folder / MANIFEST, manifest.decode(errors="replace"))
        replace(folder / ADDRESS, data)
    return DataFolder(folder)


register_type(DataFolder, serializer=lambda folder: address_of(folder) or str(folder), deserializer=here)


def address_of(folder: Path) -> str | None:
    """The address that ``folder`` is the cache of; None: it is a folder like any other."""
    try:
        return (folder / ADDRESS).read_text()
    except OSError:
        return None


def present(path: Path) -> Path:
    """``path``, a file of a data folder, fetched now if it was not before."""
    address = None if path.exists() else address_of(path.parent)
    if address:
        with _locked(path.parent):  # the ranks of a machine fetch it once
            if not path.exists():
                partial = path.with_name(f".{path.name}.partial")
                partial.write_bytes(fetch(_below(address, path.name)))
                partial.replace(path)
    return path


def shard_bytes(folder: Path, shard: str, sha256: str) -> bytes | None:
    """A shard's bytes; None where ``folder`` is no address's."""
    address = address_of(folder)
    return fetch(_below(address, shard), sha256) if address else None


def fetch(address: str, sha256: str | None = None) -> bytes:
    """All bytes at an address, which must have this checksum.

    Raises :class:`UserError` where there is nothing, or still an error at the last of ATTEMPTS.
    """
    for attempt in range(ATTEMPTS):
        try:
            content = _read(address)
            if sha256 in (None, hashlib.sha256(content).hexdigest()):
                return content
            said = "its checksum is not the manifest's: corrupt or changed"
        except FileNotFoundError as error:
            raise UserError(f"{address}: nothing is there ({_line(error)})") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = _line(error)
        if attempt + 1 < ATTEMPTS:
            time.sleep(0.25 * 2**attempt)
    raise UserError(f"{address}: cannot be read, {ATTEMPTS} attempts ({said})")


def _read(address: str) -> bytes:
    if not address.startswith("http"):
        from pyarrow import fs  # --help need not wait for it

        store, path = fs.FileSystem.from_uri(address)
        with store.open_input_stream(path) as file:
            return bytes(file.read())
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            content: bytes = answer.read()  # raises where it is shorter than was announced
            return content
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 410):
            raise FileNotFoundError(f"HTTP {error.code}") from error
        raise


def _below(address: str, name: str) -> str:
    """The address of a file below that of a folder, whose options stand behind it."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
