"""The sink: payload records from the bus become rows of inference tables, each exactly once."""
