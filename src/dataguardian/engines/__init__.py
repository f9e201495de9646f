"""Engines: how each type of datasource is dumped, checked and restored. One file per type."""
