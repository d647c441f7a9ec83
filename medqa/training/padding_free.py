"""Padding-free training batches: no padding, each prefix once, logits of answer tokens only.

The rows of a batch become the tokens of a prefix tree: a pair shares its prompt, all rows share the system
prompt. Everything that a model computes per token runs once per token of the tree.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

from medqa.prefixes import common_prefixes, share_prefixes
from medqa.training.token_logprobs import token_logprobs

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel
    from trl.trainer.utils import FusedCausalLMOutput

NAME = "medqa-rows"  # of the attention, in the registry of transformers
# Settings of models whose logits are more than a product, or whose attention is more than causal.
SPECIAL = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
    "sliding_window",
)


def enable(model: PreTrainedModel) -> None:
    """Let the forward pass that TRL gave a model run without padding; its output keeps the padded shape.

    Rows are padded on the right. Results equal those of the padded batch up to rounding; with dropout, rows
    drop the same of a shared prefix. A model is left as it is if its head is trained, or if its logits or its
    attention are special.
    """
    if not _supports(model):
        return
    _register_attention(model)
    padded_forward = model.forward

    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return padded_forward(*args, **kwargs)
        batch = (kwargs.pop(name) for name in ("input_ids", "labels", "attention_mask"))
        return _forward(self, *batch, **kwargs)

    model.forward = MethodType(forward, model)


def _supports(model: PreTrainedModel) -> bool:
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    frozen = head.bias is None and not head.weight.requires_grad
    full_attention = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    special = any(getattr(config, name, None) not in (None, False) for name in SPECIAL)
    return frozen and full_attention and not special


def _forward(
    model: PreTrainedModel, ids: Tensor, labels: Tensor, mask: Tensor, **kwargs: Any
) -> FusedCausalLMOutput:
    """The output of TRL's forward pass: values of shape (rows, tokens - 1), 0 where the label is -100."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    rows, positions, token_index = _prefix_tree(ids, mask)
    width = token_index.shape[1]
    kwargs |= {
        "position_ids": positions[None],
        # transformers takes a mask of four dimensions as it is; the attention below does not read it.
        "attention_mask": torch.empty(1, 1, 1, 1, device=ids.device),
        "token_index": token_index,
        "outputs": rows * width + positions,
        "use_cache": False,
    }
    hidden = model.base_model(input_ids=ids[rows, positions][None], **kwargs).last_hidden_state[0]
    labels = labels[:, 1:]
    labelled = labels != -100
    previous = token_index[:, :-1][labelled[:, : width - 1]]  # tokens that come before labelled ones
    head = model.get_output_embeddings().weight
    values = {
        name: value.new_zeros(labelled.shape).masked_scatter(labelled, value)
        for name, value in token_logprobs(_gather(hidden, previous), head, labels[labelled]).items()
    }
    loss = -values["log_probs"].sum() / labelled.sum().clamp(min=1)
    return FusedCausalLMOutput(loss=loss, label_mask=labelled, **values)


def _prefix_tree(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The prefix tree of padded rows: the row and the position of each token, and the tokens of each row.

    Shapes: (tokens,), (tokens,), and (rows, width) with 0 past the end of a row.
    """
    import torch

    lengths, width = mask.sum(1).tolist(), int(mask.sum(1).max())
    unpadded = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    order = sorted(range(len(unpadded)), key=unpadded.__getitem__)
    ordered = [unpadded[row] for row in order]
    paths, tokens = share_prefixes(ordered, common_prefixes(ordered))
    token_index = torch.tensor([path + [0] * (width - len(path)) for path in paths], device=ids.device)
    rows, positions = torch.tensor(tokens, device=ids.device).T
    sorted_rows = torch.tensor(order, device=ids.device)
    return sorted_rows[rows], positions, token_index[sorted_rows.argsort()]


def _register_attention(model: PreTrainedModel) -> None:
    """Causal attention per row: (1, heads, tokens, head width) → (1, tokens, heads, head width)."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        token_index: Tensor | None = None,
        outputs: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        if token_index is None or outputs is None:
            return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        # On a CPU the gradient of attention is slower in bfloat16: 13% of SFT's time on SmolLM2-135M.
        dtype = torch.float32 if query.device.type == "cpu" else value.dtype
        queries, keys, values = (
            _gather(part[0].transpose(0, 1).to(dtype), token_index).transpose(1, 2)
            for part in (query, key, value)
        )
        settings = {name: kwargs[name] for name in ("scaling", "dropout")}
        with torch.autocast(query.device.type, enabled=False):
            rows = sdpa_attention_forward(module, queries, keys, values, None, is_causal=True, **settings)[0]
        return _gather(rows.flatten(0, 1), outputs)[None].to(value.dtype), None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    from torch.nn.functional import embedding

    # Indexing adds up the gradients of a repeated index in any order: last bits would differ between runs.
    return embedding(index, values.flatten(1)).unflatten(-1, values.shape[1:])
