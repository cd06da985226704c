"""What a network costs and what a run did: counts, latency, tables, pictures, the run record."""
