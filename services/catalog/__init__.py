"""The catalog: the tree of governed objects, who may do what with them, and their lineage."""
