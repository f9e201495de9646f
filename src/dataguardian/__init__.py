"""DataGuardian: a backup manager whose backups are known to restore."""

__version__ = "0.1.0"
