"""Types and rules of the field: frozen, pure, without input or output."""
