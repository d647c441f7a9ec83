"""A plain training loop for tiny models and for judges."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from medqa.miniature.token_rows import LABEL_WEIGHT, NO_POINT, TokenRow, batched
from medqa.model import multiplies_bfloat16
from medqa.runtime.model_sections import ScratchModel, TunedJudge
from medqa.runtime.progress import track

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def predict_labels(model: "PreTrainedModel", rows: Sequence[TokenRow], batch_size: int) -> list[list[int]]:
    """The likeliest token at the position of each of a row's `labels`."""
    predictions = []
    for batch in batched(rows, batch_size):
        likeliest = label_logits(model, batch).argmax(-1)
        predictions += [ids.tolist() for ids in likeliest.split([len(row.labels) for row in batch])]
    return predictions


def label_logits(model: "PreTrainedModel", rows: Sequence[TokenRow]) -> "torch.Tensor":
    """The logits at the positions of the rows' `labels`: (labels of all rows, vocabulary)."""
    import torch

    table = _table(rows, model)
    is_label = table.weights[:, 1:] == LABEL_WEIGHT
    with torch.inference_mode():
        states = model.model(input_ids=table.ids[:, :-1], **table.inputs).last_hidden_state
        return model.lm_head(states[is_label])


def train(
    model: "PreTrainedModel",
    rows: Sequence[TokenRow],
    source: ScratchModel | TunedJudge,
    seed: int,
    label: str,
) -> list[float]:
    """Train in place with AdamW and a one-cycle schedule; returns the loss of each step.

    The loss is the weighted next-token loss, with bfloat16 arithmetic where the device has it. Rows are drawn
    in shuffled epochs and batched by length. `source` has steps, batch_size and learning_rate.
    """
    import torch

    # A judge that is trained to label each point learns within minutes how to compare; from the answer's
    # labels alone, in hours.
    point_head = torch.nn.Linear(model.config.hidden_size, 1, device=model.device)
    weights = [weight for weight in (*model.parameters(), *point_head.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=source.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    # The schedule divides by the length of its warm-up, which must not be one step.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, source.learning_rate, total_steps=source.steps, pct_start=max(0.1, 2 / source.steps)
    )
    batches = islice(_batches(rows, source.batch_size, random.Random(f"fit {seed}")), source.steps)
    losses = (_loss(model, point_head, _table(batch, model)) for batch in batches)
    return minimise(model, optimizer, schedule, losses, source.steps, label)


def minimise(
    net: "PreTrainedModel",
    optimizer: "torch.optim.Optimizer",
    schedule: "torch.optim.lr_scheduler.LRScheduler",
    losses: Iterable["torch.Tensor"],
    steps: int,
    label: str,
) -> list[float]:
    """Take a step down each loss, which is computed when its turn comes; returns their values."""
    import torch

    values: list[float] = []
    net.train()
    for loss in track(losses, label, steps, "step"):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        values.append(loss.detach().item())
    net.eval()
    return values


def _loss(model: "PreTrainedModel", point_head: "torch.nn.Linear", table: "_Table") -> "torch.Tensor":
    """The weighted next-token loss, plus the loss of labelling each point's tokens as right or wrong."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    targets, weights, point_labels = table.ids[:, 1:], table.weights[:, 1:], table.point_labels[:, :-1]
    is_target, in_point = weights > 0, point_labels != NO_POINT
    device = model.device.type
    with torch.autocast(device, torch.bfloat16, enabled=multiplies_bfloat16(device)):
        out = model.model(input_ids=table.ids[:, :-1], output_hidden_states=True, **table.inputs)
        logits = model.lm_head(out.last_hidden_state[is_target])
        point_logits = point_head(out.hidden_states[-2][in_point])[:, 0]
    each = cross_entropy(logits.float(), targets[is_target], reduction="none")
    loss = (each * weights[is_target]).sum() / weights.sum()
    if len(point_logits):
        loss = loss + binary_cross_entropy_with_logits(point_logits.float(), point_labels[in_point].float())
    return loss


def _batches(rows: Sequence[TokenRow], batch_size: int, rng: random.Random) -> Iterator[list[TokenRow]]:
    """Batches of rows of similar length, without end."""
    while True:
        order = list(range(len(rows)))
        rng.shuffle(order)
        order.sort(key=lambda index: len(rows[index].ids) // 8)
        groups = list(batched(order, batch_size))
        rng.shuffle(groups)
        yield from ([rows[index] for index in group] for group in groups)


@dataclass(frozen=True)
class _Table:
    """Rows as tensors (rows × width), and the model's further inputs for their branches (width - 1)."""

    ids: "torch.Tensor"
    weights: "torch.Tensor"
    branches: "torch.Tensor"
    point_labels: "torch.Tensor"
    inputs: dict[str, "torch.Tensor"]


def _table(rows: Sequence[TokenRow], model: "PreTrainedModel") -> _Table:
    import torch

    # Few different widths: the processor's library keeps compiled code and memory for each shape it has seen.
    width = -(-max(len(row.ids) for row in rows) // 16) * 16 + 1

    def tensor(values: Sequence[list[int] | list[float]], fill: float) -> "torch.Tensor":
        padded = [[*value, *[fill] * (width - len(value))] for value in values]
        return torch.tensor(padded, device=model.device)

    branches = tensor([row.branches for row in rows], 0)
    return _Table(
        tensor([row.ids for row in rows], 0),
        tensor([row.weights for row in rows], 0.0),
        branches,
        tensor([row.point_labels for row in rows], NO_POINT),
        _branch_inputs(branches[:, :-1], model.dtype) if branches.any() else {},
    )


def _branch_inputs(branches: "torch.Tensor", dtype: "torch.dtype") -> dict[str, "torch.Tensor"]:
    """Positions and attention mask by which each token sees the prefix and its own branch up to itself."""
    import torch

    in_prefix = (branches == 0).long().cummin(-1).values.bool()
    same_branch = branches[:, :, None] == branches[:, None, :]
    visible = (same_branch | in_prefix[:, None, :]) & torch.ones_like(same_branch[0]).tril()
    mask = torch.zeros(visible.shape, device=branches.device, dtype=dtype)
    mask = mask.masked_fill(~visible, torch.finfo(dtype).min)
    return {"position_ids": (visible.sum(-1) - 1).clamp(min=0), "attention_mask": mask[:, None]}
