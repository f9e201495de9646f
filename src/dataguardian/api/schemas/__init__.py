"""What goes in and out: snake_case JSON, times in RFC 3339 UTC, sizes in bytes, ids UUIDs."""
