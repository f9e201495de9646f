"""The REST API. It validates, translates and documents; every decision is made in `service`."""
