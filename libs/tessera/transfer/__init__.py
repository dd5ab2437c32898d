"""Moving experiments between Tessera and an MLflow server or file store; needs `mlflow-skinny`."""
