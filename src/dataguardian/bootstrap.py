"""The only place that wires: addresses and settings become adapters."""

from __future__ import annotations
