"""The MLflow REST door: what unmodified `mlflow` clients speak."""
