"""The child process that carries out one backup, restore or verification for the service: plan in, result out.

A process of its own, because compression and encryption hold the interpreter's lock at times, memory returns when it
ends, a cancel is a signal, and a crash is contained.
"""
