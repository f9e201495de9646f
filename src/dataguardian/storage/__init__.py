"""Storages: where backups are kept. One file per type."""
