"""What DataGuardian does: take, list, verify and restore backups. Knows adapters by contract only."""
