"""Training batches without waste: rows side by side in lines instead of padding, logits of answer tokens alone."""

from collections.abc import Sequence
from functools import partial
from types import MethodType
from typing import Any

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")  # a number a token each
LOGITS = 2**24  # computed at once: 64 MB in float32
MORE = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
)


def pack(model: Any) -> None:
    """Let the forward pass that TRL gave a model run packed; what comes back has the shape of the padded batch.

    Rows are padded on the right. A row sees itself alone: transformers tells the rows of a line apart by their
    positions, which begin at 0. Numbers are those of the padded batch up to rounding.
    """
    padded = model.forward
    fused = partial(_fused, model) if _plain_head(model) else padded

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return padded(*args, **kwargs)
        ids, labels, mask = (kwargs.pop(name) for name in ("input_ids", "labels", "attention_mask"))
        places, positions = lines(mask.sum(1).tolist(), mask.shape[1], ids.device)
        taken = places.clamp(min=0)
        known = (places >= 0) & (positions > 0)  # of a row's first token nothing is foretold
        kwargs |= {"input_ids": ids.flatten()[taken], "position_ids": positions}
        targets = labels.flatten()[taken].masked_fill(~known, -100)
        output = fused(*args, labels=targets, fused_lm_head=True, **kwargs)
        for name in FIELDS:
            if (value := getattr(output, name)) is not None:
                back = value.new_zeros(ids.numel()).index_put((places[known],), value[known[:, 1:]])
                output[name] = back.view(ids.shape)[:, 1:]
        return output

    model.forward = MethodType(forward, model)


def _plain_head(model: Any) -> bool:
    """Whether `_fused` may do the work of TRL's head: one frozen matrix, and no Triton, with which TRL's is faster.

    Without Triton TRL computes the logits of every token, prompts and padding too, and twice (add_fused_lm_head).
    """
    from transformers.utils import is_triton_available

    config, head = model.config.get_text_config(), model.get_output_embeddings()
    triton = is_triton_available() and model.device.type != "cpu"
    frozen = head.bias is None and not head.weight.requires_grad
    return frozen and not triton and all(getattr(config, name, None) in (None, False) for name in MORE)


def _fused(model: Any, labels: Any, fused_lm_head: bool, **kwargs: Any) -> Any:
    """What TRL's forward pass returns for `labels` (rows × tokens, -100 where none): numbers of rows × tokens - 1."""
    from trl.trainer.utils import FusedCausalLMOutput

    hidden = model.base_model(**kwargs | {"use_cache": False}).last_hidden_state[:, :-1]
    labels = labels[:, 1:]
    mask = labels != -100
    numbers = score(hidden[mask], model.get_output_embeddings().weight, labels[mask])
    spread = {name: value.new_zeros(mask.shape).masked_scatter(mask, value) for name, value in numbers.items()}
    return FusedCausalLMOutput(loss=-spread["log_probs"].sum() / mask.sum().clamp(min=1), label_mask=mask, **spread)


def score(hidden: Any, weight: Any, targets: Any) -> dict[str, Any]:
    """The log-probability in nats of each target token, and what TRL logs of each, from its hidden state.

    `hidden` is tokens × width, `weight` (frozen) vocabulary × width. The gradient of log p(target) with respect to a
    hidden state is weight[target] - Σ p weight: computed with the logits, so that they need not be computed again.
    Without gradients there are neither entropy nor mean logits.
    """
    import torch

    device, learns = hidden.device.type, torch.is_grad_enabled()
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    size = max(1, LOGITS // len(weight))
    with torch.no_grad():
        weight, parts = weight.to(dtype), zip(hidden.to(dtype).split(size), targets.split(size), strict=True)
        columns = zip(*(_chunk(part, weight, aims, learns) for part, aims in parts), strict=True)
        log_probs, is_top1, *slopes = map(torch.cat, columns)
    if not learns:
        return {"log_probs": log_probs, "is_top1": is_top1}
    hidden, slope = hidden.float(), slopes[0]
    with torch.no_grad():
        entropy = (hidden * slope).sum(-1) - log_probs
        mean_logits = hidden @ weight.mean(0, dtype=torch.float32)
    # What is added is 0; its gradient is the slope.
    log_probs = log_probs + ((hidden - hidden.detach()) * slope).sum(-1)
    return {"log_probs": log_probs, "is_top1": is_top1, "entropy": entropy, "mean_logits": mean_logits}


def _chunk(hidden: Any, weight: Any, targets: Any, learns: bool) -> tuple[Any, ...]:
    import torch

    logits = hidden @ weight.T
    probs = logits.softmax(-1, dtype=torch.float32)
    top, best = probs.max(-1)
    # Not the logarithm of the target's own probability, which may be too small for float32.
    there, here = (logits.gather(1, column[:, None])[:, 0].float() for column in (targets, best))
    log_probs, is_top1 = there - here + top.log(), best == targets
    if not learns:
        return log_probs, is_top1
    probs.neg_()[range(len(targets)), targets] += 1
    return log_probs, is_top1, (probs.to(weight.dtype) @ weight).float()


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
