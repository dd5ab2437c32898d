"""The spool: payload records on local disk, from before their reply until the bus has them.

The gateway appends to it; the shipper, a process of its own, brings what is there to the bus.
"""
