"""The directory of an exported model: written, read back, checked and scored, whole or not at all."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa import hub, jsonl, model, policies, prompts
from medqa.export import checks, formats, scoring
from medqa.export.card import Card, read_metrics
from medqa.export.licences import parts
from medqa.export.scoring import Scores
from medqa.records import Example, HeldOut
from medqa.runtime.errors import UserError
from medqa.runtime.folders import atomic_folder
from medqa.runtime.sections import Params
from medqa.sampling import draw_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CALIBRATION_ROWS = 48  # of GPTQ
MODELS, DATA, METRICS = Path("models"), Path("data"), Path("metrics")


@dataclass(frozen=True)
class Target:
    """What to export: a policy of the run in the working folder, the format, and how many rows to score."""

    policy: str
    format: str
    out: Path
    rows: int


def export(target: Target, params: Params) -> Scores:
    """Write the directory. Raises UserError, and writes nothing, if any check fails or `out` is not empty."""
    # A server of `compute` has the run's model, but not the exported one.
    params = params.model_copy(
        update={"compute": params.compute.model_copy(update={"engine": "transformers"})}
    )
    out = target.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and is not empty; name another folder")
    if target.rows < 1:
        raise UserError(f"--rows {target.rows} must be at least 1")
    base, adapter = policies.folders(target.policy, MODELS)
    judge = policies.model_dir(params.evaluate.judge, MODELS)
    formats.check(target.format, base)
    rows, metrics = scoring.draw(DATA, target.rows, params.seed), read_metrics(METRICS)
    _say(f"merging {target.policy} in float32, and writing it as {target.format}")
    tok = model.tokenizer(base)
    merged = formats.Merged(
        formats.merge(base, adapter, params.dtype),
        tok,
        base,
        _calibration(params, tok) if target.format == "gptq" else [],
        params.evaluate.max_new_tokens,
    )
    with atomic_folder(out) as folder:
        expected = checks.digests(merged.model) if formats.same_weights(target.format) else None
        formats.write(target.format, merged, folder)
        parameters = sum(parameter.numel() for parameter in merged.model.parameters())
        del merged
        scores = _check(target, params, folder, expected, rows, judge)
        _card(target, params, metrics, parameters, scores).write(folder)
    return scores


def _check(
    target: Target,
    params: Params,
    folder: Path,
    expected: dict[str, str] | None,
    rows: list[HeldOut],
    judge: Path,
) -> Scores:
    """Read the exported model back, compare it with the run's own, and score both."""
    base, adapter = policies.folders(target.policy, MODELS)
    net, tok = formats.read(target.format, folder, params.dtype)
    checks.check_chat(model.tokenizer(base), tok, [row.question for row in rows])
    if expected:
        checks.check_weights(expected, net)
    _say(f"answering {len(rows)} held-out questions with the exported model and with the run's own")
    exported = scoring.answer_exported(net, tok, rows, params)
    del net  # one model after the other: the memory may not hold both
    original = scoring.answer_original(base, adapter, rows, params)
    return scoring.score(original, exported, rows, judge, params)


def _card(target: Target, params: Params, metrics: dict[str, Any], parameters: int, scores: Scores) -> Card:
    base = policies.model_dir("base", MODELS)
    models = {"base": base, "judge of the pairs": policies.model_dir("judge", MODELS)}
    if (name := params.evaluate.judge) != "judge":
        models["judge of the answers"] = policies.model_dir(name, MODELS)
    return Card(
        params=params,
        policy=target.policy,
        format=target.format,
        metrics=metrics,
        data=DATA,
        parts=parts(params, models),
        base_repo=(hub.read_pin(base) or {}).get("repo", ""),
        parameters=parameters,
        scores=scores,
    )


def _calibration(params: Params, tok: "PreTrainedTokenizerBase") -> list[str]:
    """Rows of the run's SFT text, rendered as training renders them."""
    path = DATA / "sft.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is not there, on which GPTQ is calibrated; make it with dvc repro")
    rows = jsonl.read_all(path, Example)
    drawn = sorted(rows, key=lambda row: draw_order(params.seed, f"calibration {row.id}"))[:CALIBRATION_ROWS]
    turns = [[*prompts.ask(row.question), *prompts.reply(row.answer)] for row in drawn]
    return tok.apply_chat_template(turns, tokenize=False)


def _say(line: str) -> None:
    print(f"export: {line}", file=sys.stderr, flush=True)
