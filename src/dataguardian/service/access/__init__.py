"""Access: who is asking. Users and their sessions, tokens, passwords, second factors, the first administrator."""
