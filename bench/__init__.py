"""Measures what this project promises about speed and memory, each figure beside a peer in the same run.

`python -m bench` runs every section and writes docs/benchmarks.md; `python -m bench verify push` runs only those named.

    verify, entries   `verifying`   one process, nothing else: tokens against PyJWT, joserfc and bare RSA
    memory            `memory`      a process of its own: what a million entries take
    push              `push`        the real system: acknowledged revocation → refused in every verifier process
    asking            `asking`      the real system: the same check by asking Redis or identity at every request
    catchup           `catchup`     the real system: a new verifier until it is FRESH

Machines are noisy. Contestants therefore take turns in short rounds, their order changes, a figure is the median of
the rounds, and a ratio is the median of the ratios within each round. The garbage collector stays on, as in a service.
"""
