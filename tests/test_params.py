"""Each mistake in params.yaml is one clear line with the file, the key, the value and what is allowed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medqa.runtime import environment, params, schema
from medqa.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
SCRATCH = yaml.safe_load((ROOT / "medqa/miniature/shipped/recipe.yaml").read_text())["models"]
GONE = object()


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def changed(folder: Path, changes: dict[str, Any]) -> Path:
    """A params.yaml like the repository's, with other values under keys such as dpo.beta, or without them."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, value in changes.items():
        *parents, key = name.split(".")
        section = raw
        for parent in parents:
            section = section[parent]
        if value is GONE:
            del section[key]
        else:
            section[key] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_the_repositorys_own_file_is_right() -> None:
    assert params.read_params().dpo.beta > 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dpo.beta", "0.2", 0.2),
        ("dpo.beta", 1, 1.0),
        ("sft.learning_rate", "2e-05", 2e-5),
        ("generate.n", "3", 3),
        ("generate.temperature", 0, 0.0),
        ("generate.top_p", 1, 1.0),
        ("pairs.min_margin", 0, 0.0),
        ("data.max_sft", None, None),
    ],
)
def test_text_that_is_a_number_is_a_number(tmp_path: Path, name: str, value: Any, expected: Any) -> None:
    section, key = name.split(".")
    number = getattr(getattr(params.read_params(changed(tmp_path, {name: value})), section), key)
    assert (number, type(number)) == (expected, type(expected))


def test_a_number_as_yaml_reads_it(tmp_path: Path) -> None:
    # PyYAML reads 2e-05 as text; DVC writes it so for -S sft.learning_rate=2e-5.
    text = (ROOT / "params.yaml").read_text()
    text = re.sub(r"learning_rate: \S+", "learning_rate: 2e-05", text)
    assert isinstance(yaml.safe_load(text)["sft"]["learning_rate"], str)
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert params.read_params(path).sft.learning_rate == 2e-5


WHEEL = {"source": "wheel", "package": "p==1.0", "folder": "p/model", "sha256": "0" * 64}
MISTAKES = [
    ("dpo.betta", 0.1, "dpo has an unknown key 'betta'; did you mean beta?"),
    ("dpo.xyz", 0.1, "dpo has an unknown key 'xyz'; known are "),
    ("sft.lora.rank", 8, "sft.lora has an unknown key 'rank'; known are r, alpha, dropout"),
    ("models.base.nmae", "x", "models.base has an unknown key 'nmae'; did you mean name?"),
    ("dpo.beta", GONE, "dpo.beta is missing"),
    ("sft.lora.r", GONE, "sft.lora.r is missing"),
    ("models.judge.template", GONE, "models.judge.template is missing"),
    ("data.sft.source", GONE, "data.sft.source is missing"),
    ("dpo.beta", -1, "dpo.beta = -1: should be greater than 0"),
    ("dpo.beta", "abc", "dpo.beta = 'abc': should be a valid number"),
    ("dpo.beta", None, "dpo.beta = None: should be a valid number"),
    ("dpo.beta", True, "dpo.beta = True: must be a number"),
    ("dpo.beta", float("nan"), "dpo.beta = nan: should be a finite number"),
    ("sft.learning_rate", float("inf"), "sft.learning_rate = inf: should be "),
    ("generate.top_p", 1.5, "generate.top_p = 1.5: should be less than or equal to 1"),
    ("generate.temperature", [0.7], "generate.temperature = [0.7]: should be a valid number"),
    ("generate.n", 2.5, "generate.n = 2.5: should be a valid integer"),
    ("data.sft.source", "kaggle", "data.sft.source = 'kaggle': must be one of 'embedded', 'hub', 'files'"),
    ("models.base.source", "ftp", "models.base.source = 'ftp': must be one of 'hub', 'gguf', 'shipped', 's"),
    ("data.sft_kinds", ["essay"], "data.sft_kinds = ['essay']: should be 'open', 'exam' or 'literature'"),
    ("data.sft_kinds", [], "data.sft_kinds = []: "),
    ("data.max_sft", 0, "data.max_sft = 0: should be greater than or equal to 1"),
    ("data.sft", 3, "data.sft = 3: must hold keys of its own"),
    (
        "judge.template",
        "essay",
        "judge.template = 'essay': must be one of judge, judge-short, points, points-pair, points-short",
    ),
    (
        "judge.template",
        "judge",
        "judge template = 'judge' must be a template of method = 'points' (points, points-pair, ",
    ),
    (
        "models.judge.template",
        "judge",
        "models.judge.template = 'judge': must be judge.template = 'points-short', since a judge",
    ),
    (
        "judge.criteria",
        {"accuracy": 0, "completeness": 0, "key_points": 0},
        "judge.criteria at least one criterion needs a weight above 0",
    ),
    ("evaluate.judge", "other", "evaluate.judge = 'other': must be a judge of `models` (judge)"),
    ("encoder", "other", "encoder = 'other': must be a model of `models` (base, judge)"),
    ("encoder", GONE, "section encoder is missing"),
    (
        "models.judge",
        WHEEL,
        "models.judge.source = 'wheel': must be one of 'hub', 'gguf', 'shipped', 'scratch'",
    ),
    ("models.base", WHEEL, "models.base.source = 'wheel': must be one of 'hub', 'gguf', 'shipped', 's"),
    (
        "models.my",
        {"source": "ftp"},
        "models.my.source = 'ftp': must be one of 'hub', 'gguf', 'shipped', 'scratch'",
    ),
    ("models.my", WHEEL | {"package": "--p==1"}, "models.my.package = '--p==1': "),
    ("models.my", WHEEL | {"folder": "p/.."}, "models.my.folder = 'p/..': "),
    ("evaluate.judge", "base", "evaluate.judge = 'base': must be a judge of `models` (judge)"),
    ("models.second", {"source": "hub", "repo": "a/b"}, "models.second.revision is missing"),
    (
        "models.second",
        {"source": "hub", "repo": "a/b", "rev": "c"},
        "models.second has an unknown key 'rev'; ",
    ),
    (
        "compare.guards.max_repetition_rise",
        2,
        "compare.guards.max_repetition_rise = 2: should be less than or ",
    ),
    ("pairs.max_length_ratio", 0.5, "pairs.max_length_ratio = 0.5: should be greater than or equal to 1"),
    ("sft.micro_batch_size", 48, "sft batch_size = 64 must be a multiple of micro_batch_size = 48"),
    ("corpus", "no/such/folder", "corpus = 'no/such/folder': must be a folder that exists"),
    ("corpus", " ", "corpus = ' ': must be a folder that exists"),
    (
        "corpus",
        "data",
        "corpus = 'data': holds what stages write; must be a folder of its own, such as data/raw",
    ),
    ("corpus", ".", "corpus = '.': holds what stages write"),
    ("seed", True, "seed = True: must be a number"),
    ("seed", "$(touch x)", "seed = '$(touch x)': should be a valid integer"),
    ("sft.epochs", "1; touch x", "sft.epochs = '1; touch x': should be a valid number"),
    ("seed", -1, "seed = -1: must be from 0 to "),
    ("dtype", "int8", "dtype = 'int8': must be float32, bfloat16 or float16"),
    ("dpoo", {}, "has an unknown key 'dpoo'; did you mean dpo?"),
    ("dpo", GONE, "section dpo is missing"),
    ("dpo", None, "dpo = None: must hold keys of its own"),
]


@pytest.mark.parametrize(("name", "value", "message"), MISTAKES)
def test_a_mistake_is_one_clear_line(tmp_path: Path, name: str, value: Any, message: str) -> None:
    path = changed(tmp_path, {name: value})
    with pytest.raises(UserError) as error:
        params.read_params(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_another_judge_can_be_named_and_evaluate(tmp_path: Path) -> None:
    changes = {"models.second": SCRATCH["judge"] | {"layers": 2}, "evaluate.judge": "second"}
    models = params.read_params(changed(tmp_path, changes)).models
    assert (models.judges(), models.second.layers) == (["judge", "second"], 2)
    # Trained alike from the same seed, the second judge would be the first.
    assert len({models.seed(name, 7) for name in ("base", "judge", "second")}) == 3


def test_an_encoder_embeds_and_does_not_judge(tmp_path: Path) -> None:
    changes = {"models.encoder": WHEEL, "encoder": "encoder"}
    parsed = params.read_params(changed(tmp_path, changes))
    assert parsed.models.judges() == ["judge"]
    assert list(parsed.models.sources()) == ["base", "judge", "encoder"]
    with pytest.raises(
        UserError, match=r"evaluate.judge = 'encoder': must be a judge of `models` \(judge\)$"
    ):
        params.read_params(changed(tmp_path, changes | {"evaluate.judge": "encoder"}))


NAMES = [
    "qwen2.5-3b",
    "my judge",
    "x;id",
    "../tests",
    "a/b",
    "a@b",
    "it's",
    "$HOME",
    "a\nb",
    "a\n",
    "é",
    "",
    "x" * 65,
    1,
    None,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_letters_digits_and_two_signs(tmp_path: Path, name: Any) -> None:
    path = with_judges(tmp_path, name)
    with pytest.raises(UserError) as error:
        params.read_params(path)
    message = f"models has a model named {name!r}: a name is text of 1 to 64 letters, digits, - and _"
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("names", [["sft"], ["DPO"], ["scores"], ["Judge"], ["BASE"], ["second", "Second"]])
def test_a_name_that_is_taken_is_one_line(tmp_path: Path, names: list[str]) -> None:
    path = with_judges(tmp_path, *names)
    with pytest.raises(UserError) as error:
        params.read_params(path)
    message = f"models has a model named {names[-1]!r}: that name is taken, whatever its case; choose another"
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    "name", ["second", "qwen2_5-3B", "-S", "1", "seed", "sources", "model_fields", "__class__"]
)
def test_any_other_name_is_a_judge(tmp_path: Path, name: str) -> None:
    models = params.read_params(with_judges(tmp_path, name)).models
    assert (
        models.judges() == ["judge", name]
        and models.sources()[name] == models.judge
        and models.seed(name, 5) == 7
    )


def with_judges(folder: Path, *names: Any) -> Path:
    """A params.yaml like the repository's, with further judges like its judge, in this order."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["models"] |= dict.fromkeys(names, raw["models"]["judge"])
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    return path


HOME = Path.home()


@pytest.mark.parametrize(
    ("cache", "root", "expected"),
    [
        ("", "", Path(".medqa")),
        (" ", "/p", Path("/p/.medqa")),
        ("~/kept", "/p", HOME / "kept"),
        ("kept", "/p", Path("/p/kept")),
        ("/kept", "/p", Path("/kept")),
    ],
)
def test_where_work_is_kept(monkeypatch: pytest.MonkeyPatch, cache: str, root: str, expected: Path) -> None:
    monkeypatch.setenv("MEDQA_CACHE", cache)
    monkeypatch.setenv("DVC_ROOT", root)
    assert environment.scratch_root() == expected


@pytest.mark.parametrize("cache", ["{}/file", "{}/file/below", "~no-such-user/kept"])
def test_where_work_cannot_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDQA_CACHE", cache.format(tmp_path))
    with pytest.raises(UserError, match="file is a file|that user has no home"):
        environment.scratch_root()


def test_a_mistake_in_any_section_stops_every_reader(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dpo.beta"):
        params.read_params(changed(tmp_path, {"dpo.beta": -1}))


def test_several_mistakes_are_as_many_lines(tmp_path: Path) -> None:
    path = changed(
        tmp_path, {"dpo.beta": -1, "generate.top_p": 1.5, "generate.n": 1, "pairs": GONE, "sft.epoch": 2}
    )
    with pytest.raises(UserError) as error:
        params.read_params(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    for name in ("dpo.beta", "generate.top_p", "generate.n", "section pairs", "'epoch'; did you mean epochs"):
        assert sum(name in line for line in lines) == 1, name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dpo: [1, 2", "cannot be read as YAML: "),
        (b"dpo:\n\tbeta: 1\n", "cannot be read as YAML: "),
        (b"\xff\xfe\x00", "cannot be read as YAML: "),
        (b"", "must hold sections (seed, "),
        (b"# only a comment\n", "must hold sections (seed, "),
        (b"- dpo\n", "must hold sections (seed, "),
        (None, "is not there; medqa preset base writes it"),
    ],
    ids=["open bracket", "tab", "no UTF-8", "empty", "comment", "list", "no file"],
)
def test_a_file_that_is_no_params_is_one_clear_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        params.read_params(path)
    assert str(error.value).startswith(f"{path} {message}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named_before_any_work(tmp_path: Path) -> None:
    files = {"source": "files", "path": "nothing.jsonl"}
    with pytest.raises(UserError) as error:
        base = SCRATCH["base"] | {"text": "none.jsonl"}
        params.read_params(changed(tmp_path, {"data.sft": files, "models.base": base}))
    assert str(error.value).splitlines() == [
        f"{tmp_path}/params.yaml: models.base.text = 'none.jsonl': no such file in medqa/miniature/corpus",
        f"{tmp_path}/params.yaml: data.sft.path = 'nothing.jsonl': no such file in medqa/miniature/corpus",
    ]


def test_the_schema_for_editors_is_current() -> None:
    assert (ROOT / "params.schema.json").read_text() == schema.schema(), (
        "run python -m medqa.runtime.schema > params.schema.json"
    )


def test_every_key_is_described() -> None:
    definitions = {"Params": json.loads(schema.schema())} | json.loads(schema.schema())["$defs"]
    obvious = {"source", "layers", "accuracy", "completeness", "key_points"}
    missing = [
        f"{name}.{key}"
        for name, section in definitions.items()
        for key, field in section["properties"].items()
        if key not in obvious and not {"description", "$ref"} & field.keys()
    ]
    assert not missing


@pytest.mark.parametrize("path", ["params.yaml", "presets/base.yaml"])
def test_each_file_names_its_schema(path: str) -> None:
    """By a name that is right in presets/ too, through a link, so that it is the same line in both."""
    file = ROOT / path
    name = file.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / name).resolve() == ROOT / "params.schema.json"
