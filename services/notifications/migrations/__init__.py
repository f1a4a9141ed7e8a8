"""The steps that lead from an empty database to `storage.metadata`."""
