"""What tracking is about, free of gRPC, SQL and the bus."""
