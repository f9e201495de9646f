"""What the service decides: who may do what, when work is due, what is kept, what people are told.

Knows rows and queues; the bytes are core's.
"""
