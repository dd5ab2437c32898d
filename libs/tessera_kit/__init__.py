"""What the Tessera services stand on: configuration, errors, rpc, bus, stores and telemetry. Imports no service."""
