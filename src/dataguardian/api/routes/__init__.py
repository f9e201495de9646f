"""The routes, a file per router. None of them decides anything."""
