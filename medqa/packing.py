"""Padded batches run without their padding: rows stand side by side in lines no longer than the longest row."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")  # a number a token each


def pack(model: Any) -> None:
    """Let the forward pass that TRL gave a model run packed; what comes back has the shape of the padded batch.

    Rows are padded on the right. A row sees itself alone: transformers tells the rows of a line apart by their
    positions, which begin at 0. Numbers are those of the padded batch up to rounding.
    """
    padded = model.forward

    def forward(self: Any, *given: Any, fused_lm_head: bool = False, **named: Any) -> Any:
        if not fused_lm_head:
            return padded(*given, **named)
        ids, labels, mask = (named.pop(name) for name in ("input_ids", "labels", "attention_mask"))
        places, positions = lines(mask.sum(1).tolist(), mask.shape[1], ids.device)
        taken = places.clamp(min=0)
        known = (places >= 0) & (positions > 0)  # of a row's first token nothing is foretold
        wanted = labels.flatten()[taken].masked_fill(~known, -100)
        told = padded(
            *given, input_ids=ids.flatten()[taken], position_ids=positions, labels=wanted, fused_lm_head=True, **named
        )
        for name in FIELDS:
            if (value := getattr(told, name)) is not None:
                back = value.new_zeros(ids.numel()).index_put((places[known],), value[known[:, 1:]])
                told[name] = back.view(ids.shape)[:, 1:]
        return told

    model.forward = MethodType(forward, model)


def lines(lengths: Sequence[int], wide: int, device: Any) -> tuple[Any, Any]:
    """Rows of so many tokens each put into lines: first fit, longest first (Johnson 1973).

    Returns two tensors (lines × longest row): each token's place in the padded batch (rows × `wide`) strung together,
    -1 where there is none, and its position in its row, 0 where there is none.
    """
    import torch

    longest = max(lengths)
    held: list[list[int]] = []
    free: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        line = next((line for line, room in enumerate(free) if room >= lengths[row]), len(free))
        if line == len(free):
            held.append([])
            free.append(longest)
        held[line].append(row)
        free[line] -= lengths[row]
    places = [[row * wide + place for row in rows for place in range(lengths[row])] for rows in held]
    positions = [[place for row in rows for place in range(lengths[row])] for rows in held]
    return (
        torch.tensor([some + [-1] * (longest - len(some)) for some in places], device=device),
        torch.tensor([some + [0] * (longest - len(some)) for some in positions], device=device),
    )
