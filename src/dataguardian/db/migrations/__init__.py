"""The catalogue's history: one file per revision, `versions/v<revision>_<what>.py`, up and down.

A revision never changes once it was released; it states its types and words itself and imports nothing of the program,
so that it means the same for ever. On SQLite a change to a table that exists goes through `op.batch_alter_table`.
"""
