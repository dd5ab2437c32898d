"""The gRPC doors: from the contract to the domain and back, nothing else."""
