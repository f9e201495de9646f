"""The only place that writes SQL. A repository works within a session that somebody else opened and commits."""
