"""The data plane: takes, lists, verifies, repairs and restores backups. Knows adapters by contract, and no catalogue."""
