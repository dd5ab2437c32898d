"""Inference's own database: SQLite or PostgreSQL through SQLAlchemy."""

from services.inference.adapters.sql.budgets import SqlBudgets
from services.inference.adapters.sql.endpoints import SqlEndpoints
from services.inference.adapters.sql.replacements import SqlReplacements
from services.inference.adapters.sql.tables import METADATA

__all__ = ["METADATA", "SqlBudgets", "SqlEndpoints", "SqlReplacements"]
