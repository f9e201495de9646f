"""The catalogue: tables, sessions, migrations and repositories. Nothing outside this room writes SQL."""
