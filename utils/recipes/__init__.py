"""Published rows as recipes: what is typed, what came out there, and what comes out here."""
