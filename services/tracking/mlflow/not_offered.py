"""Why this server does not offer some of MLflow's rpcs, and what takes their place."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["why_not_offered"]

_WHY: Final = (
    (
        r"Guardrail",
        (
            "nothing here looks into what models are asked and answer; judge it afterwards, with "
            "mlflow.genai.evaluate on search_traces"
        ),
    ),
    (
        r"Gateway|Endpoint|Budget",
        (
            "no models of outside providers are called; registered ones are served and limited by "
            "the platform's own gateway: the inference service's endpoints, rate limits and "
            "budgets (tessera.inference.v1)"
        ),
    ),
    (
        r"Workspace",
        "work is kept apart by the catalog's catalogs, schemas and grants (tessera.catalog.v1)",
    ),
    (
        r"PromptOptimizationJob",
        "optimise prompts on the client, with mlflow.genai.optimize_prompts",
    ),
    (
        r"OnlineScoring",
        "this server runs no scorers; judge traces with mlflow.genai.evaluate on search_traces",
    ),
    (r"UnifiedTrace|OnlineTrace", "it asks for a Databricks SQL warehouse; use searchTracesV3"),
)


def why_not_offered(name: str) -> str:
    """Return why an rpc is not offered, as `MlflowService/createWorkspace`; empty if untold."""
    return next((why for pattern, why in _WHY if re.search(pattern, name)), "")
