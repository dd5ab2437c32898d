"""The public client of the platform; import it from `tessera`."""
