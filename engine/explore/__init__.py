"""What the pages look up: search, filters, highlights, the report, the health of a store."""
