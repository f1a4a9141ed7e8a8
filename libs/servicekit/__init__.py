"""Process plumbing for the services: errors, settings, database, telemetry, and a life from start to clean stop.

Owns: the error vocabulary, the shape of a service process (HTTP + gRPC in one loop), logs and metrics.
Never: knows what a service does. There is no business word in here, and no service is imported.
Only `errors` and `verification` know libs/rescind: every service answers for tokens in the same words.
"""
