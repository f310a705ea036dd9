"""``python -m ppr_dist.encode_texts``: vectors of items' texts by a text encoder from a local folder, for ``prepare``.

The folder is one in Hugging Face format (config.json, tokenizer, weights); nothing is fetched. It needs
``pip install transformers``, which nothing else here does.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from ppr_dist import cli, options
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    items: str
    """Texts of items, Parquet or CSV, as ``prepare --items`` reads them."""
    model: Path
    """Folder of the text encoder, in Hugging Face format."""
    out: Path
    """Parquet file to write: the item column and ``vector``, for ``prepare --item-features.text``."""
    item_column: str = "item_id"
    """Column of the item id."""
    text_columns: list[str] | None = None
    """Columns that make an item's text; null = all of text or lists of it."""
    pooling: Literal["mean", "first"] = "mean"
    """The vector: the mean of the last layer's states, or the first one (BERT's CLS, as MoRec has it)."""
    max_tokens: int = 30
    """Tokens kept of a text (MoRec's number)."""
    batch: int = 256
    """Texts encoded at once."""
    overwrite: bool = False
    """Replace the file."""


def main(argv: list[str] | None = None) -> None:
    (arguments,), _ = options.parse("ppr_dist.encode_texts", argv, [Arguments])
    from ppr_dist.data.prepare.text_vectors import encode_texts  # not before the options are read

    items, width = encode_texts(arguments, *_load(arguments.model))
    print(f"{arguments.out}: vectors of {width} numbers of {items:,} items")


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model of a folder. Raises :class:`UserError` where either cannot be had."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json: not a folder in Hugging Face format")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UserError(f"encode_texts: {error}; pip install transformers") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be read as a text encoder ({str(error).splitlines()[0]})") from error


if __name__ == "__main__":
    cli.run(main)
