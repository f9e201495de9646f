"""The parts of the service that do the work: consumers of the queues and the loops that feed them."""
