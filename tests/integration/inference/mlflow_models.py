"""Logs and registers models with an unmodified client of MLflow: `mlflow_models.py SCHEMA`.

Run with MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN set.
"""

from __future__ import annotations

import os
import sys

import mlflow
import numpy as np
import onnx
import pandas as pd
from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tests.onnx_graphs import WEIGHTS, linear_graph


class Doubled(mlflow.pyfunc.PythonModel):
    """A class of the user's own: a table in, a table out."""

    def predict(self, context: object, model_input: pd.DataFrame) -> pd.DataFrame:
        """Twice the number, and the text turned around."""
        if (model_input["n"] < 0).any():
            raise ValueError("n must not be negative")
        greeting = os.environ.get("GREETING", "")
        return pd.DataFrame(
            {
                "twice": model_input["n"] * 2,
                "back": [greeting + text[::-1] for text in model_input["text"]],
            }
        )


def main(schema: str) -> None:
    """Log one model of each kind, each as version 1 of its registered model."""
    frame = pd.DataFrame({"dep delay (min)": [1.0, 40.0, 2.0, 50.0], "carrier": list("abab")})
    columns = make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough")
    pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1, 0, 1])
    table = pd.DataFrame({"n": [1, 2], "text": ["ab", "cd"]})
    doubled = infer_signature(table, Doubled().predict(None, table))
    zeros = np.zeros((2, 4), np.float32)
    with mlflow.start_run():
        for name, requirement in (("late", "scikit-learn"), ("old", "scikit-learn==0.0.1")):
            mlflow.sklearn.log_model(
                pipeline,
                name=name,
                signature=infer_signature(frame, pipeline.predict(frame)),
                input_example=frame.head(2),
                pip_requirements=[requirement],
                registered_model_name=f"{schema}.{name}",
            )
        mlflow.pyfunc.log_model(
            python_model=Doubled(),
            name="doubled",
            signature=doubled,
            pip_requirements=["pandas"],
            registered_model_name=f"{schema}.doubled",
        )
        mlflow.onnx.log_model(
            onnx.load_model_from_string(linear_graph()),
            name="graph",
            signature=infer_signature({"x": zeros}, {"scores": zeros @ WEIGHTS}),
            registered_model_name=f"{schema}.graph",
        )


if __name__ == "__main__":
    main(sys.argv[1])
