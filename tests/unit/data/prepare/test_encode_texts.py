"""Vectors of texts by a tiny random encoder in Hugging Face format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppr_dist import encode_texts
from ppr_dist.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "black", "drama"]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    frame = pd.DataFrame({"item_id": [7, 3], "title": ["red drama", "black red black drama"], "price": [1.0, 2.0]})
    frame.to_parquet(tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_vectors_are_the_encoders_states_of_each_text_alone(items: Path, tmp_path: Path, pooling: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
    folder, out = tmp_path / "bert", tmp_path / "out.parquet"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **sizes)).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    argv = ["--items", str(items), "--model", str(folder), "--out", str(out), "--pooling", pooling]
    encode_texts.main(argv)
    found = pd.read_parquet(out)
    assert found.item_id.tolist() == [7, 3]
    for text, vector in zip(["red drama", "black red black drama"], found.vector, strict=True):
        ids = torch.tensor([[2, *(WORDS.index(word) for word in text.split()), 3]])
        states = model(ids).last_hidden_state[0].detach()
        want = states[0] if pooling == "first" else states.mean(0)
        np.testing.assert_allclose(vector, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="is there; name another file or give --overwrite"):
        encode_texts.main(argv)


def test_what_is_no_encoder_is_refused_in_one_line(items: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.json: not a folder in Hugging Face format"):
        encode_texts.main(["--items", str(items), "--model", str(tmp_path), "--out", str(tmp_path / "o.parquet")])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"pip install transformers|cannot be read as a text encoder") as refused:
        encode_texts.main(["--items", str(items), "--model", str(tmp_path), "--out", str(tmp_path / "o.parquet")])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "o.parquet").exists()
