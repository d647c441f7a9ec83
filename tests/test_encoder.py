"""medqa.encoder: the masked mean of the last hidden states, the same whatever is embedded beside a text."""

from pathlib import Path

import numpy as np
import pytest
import tiny_encoder
import torch
from transformers import AutoModel, AutoTokenizer

from medqa import encoder

TEXTS = ["Fever.", "the cough of a rash", "gout " * 40, "", "a fever of the rash . cough", "rash", "Fever."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    tiny_encoder.write(path)
    return path


def mean_state(folder: Path, text: str, limit: int) -> np.ndarray:
    """The unit vector of one text, without any padding."""
    ids = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=limit).input_ids
    with torch.inference_mode():
        mean = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0].mean(0)
    return (mean / mean.norm()).numpy()


def test_a_text_is_the_mean_of_its_last_hidden_states(folder: Path) -> None:
    vectors = encoder.embed(folder, TEXTS)
    assert (vectors.shape, vectors.dtype) == ((7, 32), np.float32)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.allclose(vector, mean_state(folder, text, limit=32), atol=1e-6), text
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert abs(vectors[0] @ vectors[5]) < 0.99  # the tiny model can tell texts apart


def test_a_text_does_not_depend_on_its_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = np.concatenate([encoder.embed(folder, [text]) for text in TEXTS])
    for tokens in (1, 8, 10_000):
        monkeypatch.setattr(encoder, "BATCH_TOKENS", tokens)
        assert np.abs(encoder.embed(folder, TEXTS) - alone).max() < 1e-6, tokens


def test_each_distinct_text_is_embedded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    forward = torch.nn.Embedding.forward
    monkeypatch.setattr(
        torch.nn.Embedding, "forward", lambda layer, ids: rows.append(ids) or forward(layer, ids)
    )
    vectors = encoder.embed(folder, ["rash", "fever", "rash", "rash"])
    words = max(rows, key=lambda ids: ids.dim() * len(ids))
    assert len(words) == 2 and np.array_equal(vectors[0], vectors[2])


def test_the_base_of_the_policy_can_embed(tiny_base: Path) -> None:
    fever, nothing, rash, again = encoder.embed(
        tiny_base, ["Fever and cough.", "", "A rash.", "Fever and cough."]
    )
    assert np.array_equal(fever, again) and fever @ rash < 0.999
    assert not nothing.any()  # this tokenizer has no token for an empty text
    assert np.allclose(encoder.embed(tiny_base, ["A rash."]), rash, atol=1e-6)
    assert encoder.embed(tiny_base, []).shape == (0, 128)
