"""The gateway's HTTP doors: the Open Inference Protocol's REST form, and MLflow's scoring."""
