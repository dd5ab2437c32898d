"""The spool: payload records on local disk, from before their reply until the bus has them."""
