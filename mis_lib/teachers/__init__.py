"""Teachers: who writes, looks, judges and draws when data is constructed. Two protocols, several implementations, one cache."""
