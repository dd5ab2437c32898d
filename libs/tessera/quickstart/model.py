"""The model: how likely a flight departs late, from what is known before it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tessera.quickstart.flights import CATEGORIES, NUMBERS

_EMBEDDING = 8


class DelayModel(nn.Module):
    """Embeddings of the categories beside standardised numbers, through two hidden layers.

    Inputs, in the order of `flights.FEATURES`: an int64 index of shape [rows, 1] per category (the
    size of its vocabulary for an unknown text), a float32 of shape [rows, 1] per number (NaN for
    an unknown one). Output: the probability of a late departure, float32 of shape [rows, 1].
    """

    def __init__(
        self, sizes: Sequence[int], means: Sequence[float], deviations: Sequence[float], hidden: int
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size + 1, _EMBEDDING) for size in sizes)
        self.register_buffer("means", torch.tensor(means, dtype=torch.float32))
        self.register_buffer("deviations", torch.tensor(deviations, dtype=torch.float32))
        width = _EMBEDDING * len(sizes) + len(means)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, *columns: Tensor) -> Tensor:
        """The probability of a late departure, shape [rows, 1]."""
        return torch.sigmoid(self.logits(*columns))

    def logits(self, *columns: Tensor) -> Tensor:
        """The log-odds of a late departure, shape [rows, 1]."""
        categories, numbers = columns[: len(self.embeddings)], columns[len(self.embeddings) :]
        embedded = [
            embedding(column.squeeze(1))
            for embedding, column in zip(self.embeddings, categories, strict=True)
        ]
        values = torch.cat(numbers, dim=1)
        known = torch.where(torch.isnan(values), self.means, values)
        logits: Tensor = self.layers(
            torch.cat([*embedded, (known - self.means) / self.deviations], 1)
        )
        return logits


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """The area under the ROC curve (Mann-Whitney U over pairs, ties count half).

    Args:
        scores: Probabilities, float, shape [rows].
        labels: 0 or 1, float, shape [rows].

    Returns:
        0 to 1; NaN when only one class is there.
    """
    positives = labels.sum().item()
    negatives = labels.numel() - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(0).double()
    ranks = (last_rank - (counts.double() - 1) / 2)[inverse]
    statistic = ranks[labels > 0].sum().item() - positives * (positives + 1) / 2
    return float(statistic / (positives * negatives))


def signature(vocabularies: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """The model's inputs and outputs as the platform's `model.json` declares them."""
    return {
        "inputs": [
            {"name": "scheduled_at", "datatype": "INT64", "shape": [-1, 1], "role": "METADATA"},
            *(
                {
                    "name": name,
                    "datatype": "BYTES",
                    "shape": [-1, 1],
                    "role": "FEATURE",
                    "vocabulary": list(vocabularies[name]),
                }
                for name in CATEGORIES
            ),
            *(
                {"name": name, "datatype": "FP32", "shape": [-1, 1], "role": "FEATURE"}
                for name in NUMBERS
            ),
        ],
        "outputs": [{"name": "delay_probability", "datatype": "FP32", "shape": [-1, 1]}],
    }
