"""Receipts over gRPC: what verifiers say, checked, and what is known of them, told."""

import math
import re

from contracts.identity.v1 import revocations_pb2
from identity.receipts import Coverage, Freshness, Member, Report
from servicekit.errors import Kind, ServiceError

MOST_APPLIED = 1000  # positions in one report
LONGEST_WAIT_MS = 30_000
USUAL_WAIT_MS = 2_000
_ID = re.compile(r"vrf_[A-Za-z0-9_-]{16,64}")
_PLAIN = re.compile(r"[\x20-\x7e]{1,200}")
_LARGEST = 2**63 - 1
_FRESHNESS: dict[Freshness, "revocations_pb2.Freshness.ValueType"] = {
    "SYNCING": revocations_pb2.FRESHNESS_SYNCING,
    "FRESH": revocations_pb2.FRESHNESS_FRESH,
    "STALE": revocations_pb2.FRESHNESS_STALE,
}
_FRESHNESS_OF = {value: name for name, value in _FRESHNESS.items()}


def wait_of(request: revocations_pb2.RevokeRequest) -> float:
    """Seconds that a revocation is to be waited for; 0: not at all.

    Raises:
        ServiceError: BAD_WAIT.
    """
    if not 0 <= request.wait_ms <= LONGEST_WAIT_MS or request.wait not in revocations_pb2.Wait.values():
        raise ServiceError(Kind.INVALID, "BAD_WAIT", f"Wait for 0 to {LONGEST_WAIT_MS} ms.")
    if request.wait != revocations_pb2.WAIT_APPLIED:
        return 0.0
    return (request.wait_ms or USUAL_WAIT_MS) / 1000


def report_from(request: revocations_pb2.ReportRequest, client_id: str) -> Report:
    """What a verifier says.

    Raises:
        ServiceError: BAD_REPORT.
    """
    said = request.verifier
    texts = (said.audience, said.instance, *([said.log] if said.log else []))
    freshness = _FRESHNESS_OF.get(said.freshness)
    if _ID.fullmatch(said.id) is None or not all(map(_PLAIN.fullmatch, texts)) or freshness is None:
        raise _bad("It does not say who sends it.")
    if len(request.applied) > MOST_APPLIED or said.position < 0:
        raise _bad(f"It has more than {MOST_APPLIED} positions, or one below 0.")
    if not all(1 <= one.position <= _LARGEST and math.isfinite(one.delay_ms) for one in request.applied):
        raise _bad("It has a position or a delay that cannot be.")
    return Report(
        member=Member(said.id, said.audience, said.instance, said.log, said.position, freshness),
        client_id=client_id,
        applied={one.position: max(0.0, one.delay_ms) for one in request.applied},  # clocks differ
        leaving=request.leaving,
    )


def member_message(member: Member) -> revocations_pb2.Verifier:
    """A verifier, as the contract says it."""
    return revocations_pb2.Verifier(
        id=member.id,
        audience=member.audience,
        instance=member.instance,
        log=member.log,
        position=member.position,
        freshness=_FRESHNESS[member.freshness],
        reported_at=member.reported_at,
    )


def receipts_message(covered: Coverage) -> revocations_pb2.Receipts:
    """Who has applied a position and who has not, as the contract says it."""
    return revocations_pb2.Receipts(
        position=covered.position,
        applied=[
            revocations_pb2.Receipt(verifier=member_message(receipt.member), delay_ms=receipt.delay_ms)
            for receipt in covered.applied
        ],
        outstanding=[member_message(member) for member in covered.outstanding],
    )


def _bad(detail: str) -> ServiceError:
    return ServiceError(Kind.INVALID, "BAD_REPORT", detail)
