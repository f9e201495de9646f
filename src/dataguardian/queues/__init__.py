"""The queues: BullMQ on Redis. A queue job never carries data; it only says which row to look at."""
