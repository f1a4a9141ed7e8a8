"""Generated from proto/contracts by `make proto`."""
