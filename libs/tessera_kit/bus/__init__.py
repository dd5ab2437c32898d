"""The bus: CloudEvents over Kafka, a transactional outbox, consumers that handle an event once."""
