"""gRPC for every Tessera service: one server builder, one client, identity, errors, validation."""
