"""Training's own database: SQLite or PostgreSQL through SQLAlchemy."""

from services.training.adapters.sql.chores import SqlChores
from services.training.adapters.sql.files import SqlCheckpointFiles
from services.training.adapters.sql.jobs import SqlJobs
from services.training.adapters.sql.tables import METADATA
from services.training.adapters.sql.triggers import FiringUnitOfWork, SqlFirings, SqlTriggers

__all__ = [
    "METADATA",
    "FiringUnitOfWork",
    "SqlCheckpointFiles",
    "SqlChores",
    "SqlFirings",
    "SqlJobs",
    "SqlTriggers",
]
