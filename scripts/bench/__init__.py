"""What a read and a create cost, measured against the least that an HTTP server costs.

Read in this order: ``rows`` (what is measured), ``deck`` (the requests), ``stage`` (the servers),
``drive`` (the load), ``cpu``, ``result`` (from measurements to numbers), ``measure`` (one run),
``report``, ``__main__``.
"""
