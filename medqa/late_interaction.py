"""Late interaction (Khattab and Zaharia 2020): how far a text says a statement, by vectors of tokens."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CALIBRATION = "calibration.json"  # in the directory of a model that was tuned for late interaction


@dataclass(frozen=True)
class Calibration:
    """From a similarity to a probability: 1 / (1 + exp(-scale * (similarity - offset)))."""

    scale: float
    offset: float

    def probability(self, similarity: float) -> float:
        """That the text says the statement."""
        return 1 / (1 + exp(-self.scale * (similarity - self.offset)))


def read_calibration(model_dir: Path) -> Calibration:
    """The calibration of a model directory. Raises FileNotFoundError if it has none."""
    return Calibration(**json.loads((model_dir / CALIBRATION).read_text(encoding="utf-8")))


def write_calibration(model_dir: Path, calibration: Calibration) -> None:
    """Write the calibration into a model directory."""
    text = json.dumps(asdict(calibration), indent=2) + "\n"
    (model_dir / CALIBRATION).write_text(text, encoding="utf-8")


TokenVectors: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"


def statement_vectors(
    net: "PreTrainedModel", rows: Sequence[Sequence[int]], questions: Sequence[Sequence[int]]
) -> TokenVectors:
    """As `token_vectors`, of statements about questions. All are token ids.

    The tokens of a statement that its question holds do not count, if others are left: any text about the
    question matches them, and a sentence that repeats the question would be true.
    Statements are of another token type than texts: a question that an answer repeats is no match of itself.
    """
    import torch

    vectors, counts = token_vectors(net, rows, token_type=1)
    for row, counted, question in zip(rows, counts, questions, strict=True):
        is_new = torch.tensor([token not in question for token in row], device=net.device)
        if (counted[: len(row)] & is_new).any():
            counted[: len(row)] &= is_new
    return vectors, counts


def token_vectors(net: "PreTrainedModel", rows: Sequence[Sequence[int]], token_type: int = 0) -> TokenVectors:
    """Unit vectors (rows, tokens, width) of token ids, and the mask (rows, tokens) of those that count.

    The first and the last token, which the tokenizer adds, do not count.
    """
    import torch
    from torch.nn.functional import normalize
    from torch.nn.utils.rnn import pad_sequence

    device = net.device
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    position = torch.arange(ids.shape[1], device=device)
    seen = position < lengths[:, None]
    types = torch.full_like(ids, token_type)
    states = net(input_ids=ids, attention_mask=seen.long(), token_type_ids=types).last_hidden_state
    return normalize(states.float(), dim=-1), (position > 0) & (position < lengths[:, None] - 1)


def similarities(statements: TokenVectors, texts: TokenVectors) -> "torch.Tensor":
    """The mean over a statement's tokens of the best cosine among a text's tokens: (statements, texts).

    They come from `statement_vectors` and `token_vectors`. It is from -1 to 1, -1 where a side has no tokens.
    """
    import torch

    (queries, query_mask), (keys, key_mask) = statements, texts
    cosines = torch.einsum("qtw,dsw->qdts", queries, keys).masked_fill(~key_mask[None, :, None], -1)
    best = cosines.amax(-1).masked_fill(~query_mask[:, None], 0).sum(-1)
    count = query_mask.sum(-1)[:, None]
    return torch.where(count > 0, best / count.clamp(min=1), -1.0)
