"""Training batches without waste: no padding, no prefix twice, logits of answer tokens alone.

The rows of a batch become the tokens of a tree, in which rows that begin alike share their beginning: a pair
its prompt, all rows the system prompt. All that a model does to a token alone runs once per token of the
tree.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

from medqa import chat

NAME = "medqa-rows"  # of the attention, as transformers knows it
LOGITS = 2**24  # computed at once: 64 MB in float32
COLUMNS = 32768  # of the vocabulary at once, for TRL's kernel, as TRL has it
# In the configuration of a model whose logits are more than a product, or whose attention is more than
# causal.
SPECIAL = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
    "sliding_window",
)


def enable(model: Any) -> None:
    """Let the forward pass that TRL gave a model run packed; what comes back has the shape of the padded
    batch.

    Rows are padded on the right. Numbers are those of the padded batch up to rounding; with dropout, rows
    share what they drop of a shared beginning. A model whose head is trained, or whose logits or attention
    are special, is left.
    """
    if not _plain(model):
        return
    _attend_by_rows(model)
    padded = model.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return padded(*args, **kwargs)
        return _packed(
            self, *(kwargs.pop(name) for name in ("input_ids", "labels", "attention_mask")), **kwargs
        )

    model.forward = MethodType(forward, model)


def tree(rows: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Rows of token ids as the tokens of a tree: each row's path through them, and the (row, place) that adds
    each.
    """
    paths: list[list[int]] = [[] for _ in rows]
    tokens: list[tuple[int, int]] = []
    last = None
    for row in sorted(range(len(rows)), key=lambda row: rows[row]):
        same = 0 if last is None else chat.common_prefix(rows[last], rows[row])
        paths[row] = paths[last][:same] if same else []
        paths[row] += range(len(tokens), len(tokens) + len(rows[row]) - same)
        tokens += [(row, place) for place in range(same, len(rows[row]))]
        last = row
    return paths, tokens


def _packed(model: Any, ids: Any, labels: Any, mask: Any, **kwargs: Any) -> Any:
    """What TRL's forward pass returns: numbers of rows × (tokens - 1), 0 where the label is -100."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    lengths, width = mask.sum(1).tolist(), int(mask.sum(1).max())
    paths, tokens = tree([row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)])
    paths = torch.tensor([path + [0] * (width - len(path)) for path in paths], device=ids.device)
    rows, places = torch.tensor(tokens, device=ids.device).T
    kwargs |= {
        "position_ids": places[None],
        "attention_mask": torch.empty(1, 1, 1, 1, device=ids.device),  # of four dimensions: taken as it is
        "paths": paths,
        "owners": rows * width + places,
        "use_cache": False,
    }
    hidden = model.base_model(input_ids=ids[rows, places][None], **kwargs).last_hidden_state[0]
    labels = labels[:, 1:]
    scored = labels != -100
    before = paths[:, :-1][scored[:, : width - 1]]  # the tokens after which the scored ones come
    numbers = score(_gather(hidden, before), model.get_output_embeddings().weight, labels[scored])
    spread = {
        name: value.new_zeros(scored.shape).masked_scatter(scored, value) for name, value in numbers.items()
    }
    return FusedCausalLMOutput(
        loss=-spread["log_probs"].sum() / scored.sum().clamp(min=1), label_mask=scored, **spread
    )


def _attend_by_rows(model: Any) -> None:
    """Let each row of a tree attend to itself alone: (1, heads, tokens, head) → (1, tokens, heads, head)."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, paths: Any = None, **kwargs: Any
    ) -> Any:
        if paths is None:
            return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        owners = kwargs.pop("owners")
        # On a CPU PyTorch's gradient of attention is slower in bfloat16: 13% of the time of SFT on
        # SmolLM2-135M.
        dtype = torch.float32 if query.device.type == "cpu" else value.dtype
        parts = (
            _gather(part[0].transpose(0, 1).to(dtype), paths).transpose(1, 2) for part in (query, key, value)
        )
        kwargs = {name: kwargs[name] for name in ("scaling", "dropout")}
        with torch.autocast(query.device.type, enabled=False):
            rows = sdpa_attention_forward(module, *parts, None, is_causal=True, **kwargs)[0]
        return _gather(rows.flatten(0, 1), owners)[None].to(value.dtype), None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _gather(numbers: Any, places: Any) -> Any:
    from torch.nn.functional import embedding

    # Indexing adds up the gradients of a place that is read twice in any order: other last bits in each run.
    return embedding(places, numbers.flatten(1)).unflatten(-1, numbers.shape[1:])


def _plain(model: Any) -> bool:
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    frozen = head.bias is None and not head.weight.requires_grad
    full = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    return frozen and full and all(getattr(config, name, None) in (None, False) for name in SPECIAL)


def score(hidden: Any, weight: Any, targets: Any) -> dict[str, Any]:
    """The log-probability in nats of each target token, and what TRL logs of each, from its hidden state.

    `hidden` is tokens × width, `weight` (frozen) vocabulary × width. The gradient of log p(target) with
    respect to a hidden state is weight[target] - Σ p weight: computed with the logits, so that they need not
    be computed again. Without gradients there are neither entropy nor mean logits. With Triton TRL's kernel
    is faster; without it, TRL computes the logits in the forward and in the backward pass
    (trl/kernels/chunked_logprob.py).
    """
    import torch
    from transformers.utils import is_triton_available

    if is_triton_available() and hidden.device.type != "cpu":
        return _kernel(hidden, weight, targets)
    device, learns = hidden.device.type, torch.is_grad_enabled()
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    size = max(1, LOGITS // len(weight))
    with torch.no_grad():
        weight, parts = weight.to(dtype), zip(hidden.to(dtype).split(size), targets.split(size), strict=True)
        columns = zip(*(_chunk(states, weight, ids, learns) for states, ids in parts), strict=True)
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


def _kernel(hidden: Any, weight: Any, targets: Any) -> dict[str, Any]:
    from trl.kernels import ChunkedLogProbFunction

    head = (hidden, weight, None, targets, 1.0, COLUMNS, None, 1.0, ("entropy", "mean_logits", "is_top1"))
    log_probs, entropy, _, mean_logits, is_top1 = ChunkedLogProbFunction.apply(*head)
    return {"log_probs": log_probs, "is_top1": is_top1, "entropy": entropy, "mean_logits": mean_logits}


def _chunk(hidden: Any, weight: Any, targets: Any, learns: bool) -> tuple[Any, ...]:
    import torch

    logits = hidden @ weight.T
    probs = logits.softmax(-1, dtype=torch.float32)
    top, best = probs.max(-1)
    # Not the logarithm of the target's own probability, which may be too small for float32.
    target_logits, best_logits = (logits.gather(1, ids[:, None])[:, 0].float() for ids in (targets, best))
    log_probs, is_top1 = target_logits - best_logits + top.log(), best == targets
    if not learns:
        return log_probs, is_top1
    probs.neg_()[range(len(targets)), targets] += 1
    return log_probs, is_top1, (probs.to(weight.dtype) @ weight).float()
