"""The data plane: takes, lists, verifies, repairs and restores backups. It knows adapters by contract, no catalogue."""
