from tessera_kit.store.migrate import run_migrations

run_migrations()
