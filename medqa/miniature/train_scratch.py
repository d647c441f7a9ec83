"""A plain training loop for tiny models and for judges, and the rows that it takes."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from medqa import prompts
from medqa.miniature.corrupted_answers import JudgeExample
from medqa.model import multiplies_bfloat16

LABEL_WEIGHT = 3.0
CANDIDATE_WEIGHT = 0.3


@dataclass(frozen=True)
class Row:
    """Token ids, each one's weight as a target (0: only read), its branch and its mark.

    A mark is 1 for a token of a right point, 0 for one of a wrong point, -1 for any other. Branch 0 is a
    common prefix. A token sees the prefix and its own branch, so that several endings are learnt from at the
    price of little more than one.
    """

    ids: list[int]
    weights: list[float]
    branches: list[int]
    marks: list[int]

    @property
    def labels(self) -> list[int]:
        """The tokens that are predicted in branches."""
        wanted = zip(self.ids, self.weights, self.branches, strict=True)
        return [token for token, weight, branch in wanted if weight > 0 and branch > 0]


def chunk_documents(texts: Sequence[list[int]], length: int, passes: int, seed: int) -> list[Row]:
    """Texts (token ids) strung together in random order into rows of `length` tokens, anew for each pass.

    What a model reads only at the beginning of a row it cannot find again behind a chat prompt.
    """
    rng, rows = random.Random(f"pack {seed}"), []
    for _ in range(passes):
        order = list(texts)
        rng.shuffle(order)
        stream = [token for text in order for token in text]
        rows += [stream[start : start + length] for start in range(0, len(stream), length)]
    return [Row(row, [1.0] * len(row), [0] * len(row), [-1] * len(row)) for row in rows if len(row) > 1]


def example_rows(
    tok: Any, lessons: Sequence[JudgeExample], template: str, max_length: int, labels_only: bool = False
) -> list[Row]:
    """Each lesson as a row: the judge's prompt, then a branch for each criterion that ends with its label.

    The candidate is predicted too, at a low weight, and its points are marked: without that a tiny model
    learns to compare far later. A model that can read already learns from `labels_only`. Rows longer than
    `max_length` are left out.
    """
    rows = (row for part in batched(lessons, 500) for row in _rows(tok, part, template, labels_only))
    return [row for row in rows if len(row.ids) <= max_length]


def _rows(tok: Any, lessons: Sequence[JudgeExample], template: str, labels_only: bool) -> Iterator[Row]:
    texts, starts = [], []
    for lesson in lessons:
        asked = prompts.judge(template, lesson.question, lesson.reference, lesson.candidate)
        for name, messages in asked.items():
            text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            texts.append(text + prompts.LABELS[lesson.labels[name]])
            starts.append(text.rfind(lesson.candidate))
    encoded = tok(texts, return_offsets_mapping=True, add_special_tokens=False)
    count = len(prompts.CRITERIA)
    for place in range(0, len(texts), count):
        ends = encoded.input_ids[place : place + count]
        prefix = len(commonprefix(ends))
        shown = encoded.offset_mapping[place][:prefix]
        weights = [
            CANDIDATE_WEIGHT if begin >= starts[place] and not labels_only else 0.0 for begin, _ in shown
        ]
        ids, branches = list(ends[0][:prefix]), [0] * prefix
        marks = [
            -1 if labels_only else _mark(begin - starts[place], end - starts[place], lessons[place // count])
            for begin, end in shown
        ]
        for branch, end in enumerate(ends, 1):
            ids += end[prefix:]
            weights += [0.0] * (len(end) - prefix - 1) + [LABEL_WEIGHT]
            branches += [branch] * (len(end) - prefix)
            marks += [-1] * (len(end) - prefix)
        yield Row(ids, weights, branches, marks)


def _mark(begin: int, end: int, lesson: JudgeExample) -> int:
    # A token begins with the space before its word.
    return next(
        (int(right) for first, last, right in lesson.points if first - 1 <= begin and end <= last), -1
    )


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Slices of at most `size` items (itertools.batched comes with Python 3.12)."""
    return (items[start : start + size] for start in range(0, len(items), size))


def predict_labels(model: Any, rows: Sequence[Row], batch: int) -> list[list[int]]:
    """The likeliest token in the place of each row's `labels`."""
    import torch

    predictions = []
    for part in batched(rows, batch):
        table = _table(part, model)
        labels = (table.weights[:, 1:] > 0) & (table.branches[:, 1:] > 0)
        with torch.inference_mode():
            states = model.model(input_ids=table.ids[:, :-1], **table.extra).last_hidden_state
            likeliest = model.lm_head(states[labels]).argmax(-1)
        predictions += [ids.tolist() for ids in likeliest.split(labels.sum(-1).tolist())]
    return predictions


def train(
    model: Any, rows: Sequence[Row], steps: int, batch: int, learning_rate: float, seed: int, label: str
) -> list[float]:
    """Train in place with AdamW and a one-cycle schedule on weighted next-token loss; returns each step's
    loss.

    Rows are drawn in shuffled epochs and batched by length. bfloat16 arithmetic where the device has it.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as bce
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm

    # Told of each point whether it is right, a judge finds within minutes how to compare; from labels alone,
    # in hours.
    teacher = torch.nn.Linear(model.config.hidden_size, 1, device=model.device)
    weights = [weight for weight in (*model.parameters(), *teacher.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    # The schedule divides by the length of its rise, which must not be one step.
    rise = max(0.1, 2 / steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=rise
    )
    losses: list[float] = []
    model.train()
    batches = _batches(rows, steps, batch, random.Random(f"fit {seed}"))
    for chosen in tqdm(batches, total=steps, desc=label, unit="step", mininterval=2):
        table = _table(chosen, model)
        wanted = table.weights[:, 1:] > 0
        with torch.autocast(
            model.device.type, torch.bfloat16, enabled=multiplies_bfloat16(model.device.type)
        ):
            out = model.model(input_ids=table.ids[:, :-1], output_hidden_states=True, **table.extra)
            logits = model.lm_head(out.last_hidden_state[wanted])
            marked = table.marks[:, :-1] >= 0
            right = teacher(out.hidden_states[-2][marked])[:, 0]
        each = cross_entropy(logits.float(), table.ids[:, 1:][wanted], reduction="none")
        loss = (each * table.weights[:, 1:][wanted]).sum() / table.weights[:, 1:].sum()
        if len(right):
            loss = loss + bce(right.float(), table.marks[:, :-1][marked].float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.detach().item())
    model.eval()
    return losses


def tail_mean(losses: Sequence[float]) -> float:
    """The mean over the last tenth of the steps, at least one."""
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _batches(rows: Sequence[Row], steps: int, batch: int, rng: random.Random) -> Iterator[list[Row]]:
    done = 0
    while True:
        order = list(range(len(rows)))
        rng.shuffle(order)
        order.sort(key=lambda index: len(rows[index].ids) // 8)
        groups = [order[start : start + batch] for start in range(0, len(order), batch)]
        rng.shuffle(groups)
        for group in groups:
            if done == steps:
                return
            done += 1
            yield [rows[index] for index in group]


@dataclass(frozen=True)
class _Table:
    """Rows as tensors (rows × width), and what their branches ask of a forward pass (one token less)."""

    ids: Any
    weights: Any
    branches: Any
    marks: Any
    extra: dict[str, Any]


def _table(rows: Sequence[Row], model: Any) -> _Table:
    import torch

    device = model.device

    # Few different widths: the processor's library keeps compiled code and scratch memory for each shape it
    # has seen.
    width = -(-max(len(row.ids) for row in rows) // 16) * 16 + 1

    def tensor(values: Sequence[list[Any]], fill: float) -> Any:
        return torch.tensor([[*value, *[fill] * (width - len(value))] for value in values], device=device)

    ids, weights = tensor([row.ids for row in rows], 0), tensor([row.weights for row in rows], 0.0)
    branches, marks = tensor([row.branches for row in rows], 0), tensor([row.marks for row in rows], -1)
    if not branches.any():
        return _Table(ids, weights, branches, marks, {})
    read = branches[:, :-1]
    prefix = (read == 0).long().cummin(-1).values
    same = read[:, :, None] == read[:, None, :]
    seen = (same | prefix[:, None, :].bool()) & torch.ones_like(same[0]).tril()
    positions = (seen.sum(-1) - 1).clamp(min=0)
    mask = torch.zeros(seen.shape, device=device, dtype=model.dtype).masked_fill(
        ~seen, torch.finfo(model.dtype).min
    )
    return _Table(ids, weights, branches, marks, {"position_ids": positions, "attention_mask": mask[:, None]})
