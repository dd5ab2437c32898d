"""The training job of the life cycle test: a logistic regression on two columns of a table.

It is sent to the platform as text and runs there, not here.
"""

import sys

import torch
from torch import nn

from tessera import jobs


class Regression(nn.Module):
    """The probability of the label, shape [rows, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.line(torch.cat([x1, x2], dim=1)))


def main() -> None:
    job = jobs.current()
    rows = job.read_table(sys.argv[1], columns=["x1", "x2", "label"], order_by=["happened_at"])
    x1, x2, label = (
        torch.tensor(rows[name].to_pylist(), dtype=torch.float32).unsqueeze(1)
        for name in rows.column_names
    )
    job.log_params({"rows": rows.num_rows})
    model = Regression()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    steps = 60
    for step in range(1, steps + 1):
        loss = nn.functional.binary_cross_entropy(model(x1, x2), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.progress(step, steps, loss=loss.item())
        job.log_metrics({"loss": loss.item()}, step=step)
    one = {"datatype": "FP32", "shape": [-1, 1]}
    signature = {
        "inputs": [
            {"name": "x1", "role": "FEATURE", **one},
            {"name": "x2", "role": "FEATURE", **one},
            {"name": "happened_at", "role": "METADATA", **one, "datatype": "INT64"},
        ],
        "outputs": [{"name": "probability", **one}],
    }
    job.register_model(
        model, [x1[:8], x2[:8]], signature=signature, metrics={"final_loss": loss.item()}
    )


if __name__ == "__main__":
    main()
