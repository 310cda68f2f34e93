"""The rounds of a study: loop, channel to the sites, aggregation, record."""
