"""medqa.models.shipped: the tiny models that come with the project, as params.yaml names them."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import CORPUS, ROOT

from bench import ship
from medqa.models import make, shipped
from medqa.runtime.errors import UserError
from medqa.runtime.model_sections import ModelsParams, ShippedModel

SECTION = ModelsParams(**yaml.safe_load((ROOT / "params.yaml").read_text())["models"])


@pytest.mark.parametrize("name", ["base", "judge"])
def test_a_model_comes_out_as_it_was_shipped(tmp_path: Path, name: str) -> None:
    assert make(SECTION.sources()[name], CORPUS, 0, tmp_path / name) == []
    for path in (shipped.FOLDER / name).iterdir():
        assert (tmp_path / name / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / name / "chat.json").is_file()


def test_the_models_are_small() -> None:
    sizes = [path.stat().st_size for path in shipped.FOLDER.rglob("*.safetensors")]
    assert len(sizes) == 2 and sum(sizes) < 5_000_000


def test_the_recipe_is_a_section_of_params_yaml() -> None:
    recipe = yaml.safe_load((shipped.FOLDER / shipped.RECIPE).read_text())
    sources = ModelsParams(**recipe["models"]).sources()
    assert {source.source for source in sources.values()} == {"scratch"}
    assert sources["judge"].template == SECTION.judge.template


def test_a_changed_corpus_is_refused(tmp_path: Path) -> None:
    shutil.copytree(CORPUS, tmp_path / "corpus")
    text = (tmp_path / "corpus" / "conditions.yaml").read_text()
    (tmp_path / "corpus" / "conditions.yaml").write_text(text.replace("headache", "hair", 1))
    with pytest.raises(UserError, match="is not what the shipped models learnt from"):
        make(SECTION.base, tmp_path / "corpus", 0, tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "base/model.safetensors has the sha256 .*, params.yaml names 0000"),
        ({"name": "ghost"}, "no model named 'ghost' comes with the project; choose one of base, judge"),
    ],
)
def test_a_wrong_name_or_hash_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    source = ShippedModel(**SECTION.base.model_dump() | change)
    with pytest.raises(UserError, match=message):
        make(source, CORPUS, 0, tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
def test_the_command_makes_the_models_that_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With fewer steps: the whole recipe takes seven minutes."""
    text = (shipped.FOLDER / shipped.RECIPE).read_text()
    text = re.sub(r"steps: \d+", "steps: 5", text).replace("examples: 30000", "examples: 500")
    (tmp_path / shipped.RECIPE).write_text(re.sub(r"(?m)^corpus: \S+", "corpus: unknown", text))
    monkeypatch.setattr(ship, "FOLDER", tmp_path)
    ship.main()
    hashes = dict(re.findall(r"models\.(\w+)\.sha256: (\w+)", capsys.readouterr().out))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    for name, sha256 in hashes.items():
        source = ShippedModel(**SECTION.base.model_dump() | {"name": name, "sha256": sha256})
        make(source, CORPUS, 0, tmp_path / "out" / name)
    assert sorted(hashes) == ["base", "judge"]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.replace("{name}", "").replace("{points}", "").lower()))


def test_every_question_names_its_attribute_in_words_that_the_base_has_read() -> None:
    """SFT trains no embeddings: *How is it treated?* and *… diagnosed?* were one question to the base."""
    templates = yaml.safe_load((CORPUS / "templates.yaml").read_text())
    read = {name: words(" ".join([*each["textbook"], each["answer"]])) for name, each in templates.items()}
    for name, each in templates.items():
        others = set().union(*(read[other] for other in read if other != name))
        unnamed = [question for question in each["questions"] if not words(question) & read[name] - others]
        assert unnamed == (["What is {name}?"] if name == "what" else [])
