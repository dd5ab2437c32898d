"""The tracking service: experiments, runs, parameters, metrics with history, tags and artifacts."""
