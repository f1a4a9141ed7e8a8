"""/api/control: the control room, for scope identity:admin."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from contracts.identity.v1 import revocations_pb2 as rv
from servicekit.errors import Kind, ServiceError
from servicekit.http import StrictRoute, only_query
from session.control import Faults, Thief
from session.domain import Held
from session.rest.access import Access
from session.service import Policies
from session.upstream import Upstream

_FRESHNESS = {rv.FRESHNESS_SYNCING: "SYNCING", rv.FRESHNESS_FRESH: "FRESH", rv.FRESHNESS_STALE: "STALE"}
_POSITIONS = 2**63


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RevokeBody(_Strict):
    """What is taken back. `soft` is for subjects and clients."""

    kind: Literal["token", "session", "grant", "subject", "client", "key"]
    target: str = Field(min_length=1, max_length=256)
    soft: bool = False
    cause: str = Field(default="ADMINISTRATOR", pattern=r"^[A-Z][A-Z0-9_]{0,63}$")


class RevokedBody(BaseModel):
    """Its place in the log; 0 when nothing alive matched. `at` is ms since the epoch by the database clock."""

    log: str
    position: int
    at: int


class VerifierBody(BaseModel):
    """A process that verifies tokens. `reported_at` is ms since the epoch."""

    id: str
    audience: str
    instance: str
    position: int
    freshness: str
    reported_at: int


class StatusBody(BaseModel):
    """Where the log stands, and who verifies."""

    log: str
    head: int
    floor: int
    kids: list[str]
    verifiers: list[VerifierBody]


class AppliedBody(BaseModel):
    """One receipt. `delay_ms` is null where it is not known."""

    verifier: str
    audience: str
    instance: str
    delay_ms: float | None


class ReceiptsBody(BaseModel):
    """Who has applied a position, and who has not."""

    position: int
    applied: list[AppliedBody]
    outstanding: list[VerifierBody]


class CommandBody(BaseModel):
    """One fault."""

    part: str
    fault: str
    command: str


class FaultsBody(BaseModel):
    """What can be broken, and whether from here."""

    available: bool
    commands: list[CommandBody]


class FaultBody(_Strict):
    """What to do to which part."""

    part: str = Field(max_length=32)
    fault: str = Field(max_length=32)


class StolenBody(BaseModel):
    """The name of a stolen copy; the token stays here."""

    id: str


class HttpBody(BaseModel):
    """What HTTP answered; status 0: nothing."""

    status: int
    reason: str


class GrpcBody(BaseModel):
    """What gRPC answered."""

    code: str
    reason: str


class TriedBody(BaseModel):
    """What the thief got."""

    accepted: bool
    http: HttpBody
    grpc: GrpcBody
    ms: float


def router(upstream: Upstream, faults: Faults, thief: Thief, policies: Policies, access: Access) -> APIRouter:
    """The routes. What takes back needs a sign-in of late."""
    routes = APIRouter(
        prefix="/api/control", tags=["control room"], route_class=StrictRoute, dependencies=[Depends(only_query())]
    )
    administer, dangerously = Depends(access.administer), Depends(access.administer_dangerously)
    operate = Depends(access.operate)  # what was broken can be mended although identity is what was broken

    @routes.get("/status")
    async def status(held: Annotated[Held, administer]) -> StatusBody:
        said = await upstream.status(held, 0, policies.admin)
        return StatusBody(
            log=said.log,
            head=said.head,
            floor=said.floor,
            kids=list(said.kids),
            verifiers=[_verifier(one) for one in said.verifiers],
        )

    @routes.post("/revoke")
    async def revoke(held: Annotated[Held, dangerously], body: RevokeBody) -> RevokedBody:
        if body.soft and body.kind not in ("subject", "client"):
            raise ServiceError(Kind.INVALID, "VALIDATION_FAILED", "Only subjects and clients can be revoked softly.")
        request = rv.RevokeRequest(soft=body.soft, cause=body.cause)
        setattr(request, body.kind, body.target)
        said = await upstream.revoke(held, request, policies.admin)
        return RevokedBody(log=said.log, position=said.position, at=said.at)

    @routes.get("/receipts/{position}")
    async def receipts(held: Annotated[Held, administer], position: int) -> ReceiptsBody:
        if not 0 < position < _POSITIONS:
            raise ServiceError(Kind.INVALID, "VALIDATION_FAILED", "Positions are 1, 2, 3 and so on.")
        said = (await upstream.status(held, position, policies.admin)).receipts
        return ReceiptsBody(
            position=position,
            applied=[_applied(one) for one in said.applied],
            outstanding=[_verifier(one) for one in said.outstanding],
        )

    @routes.get("/faults")
    async def what_can_break(held: Annotated[Held, operate]) -> FaultsBody:  # noqa: ARG001
        commands = [CommandBody(part=one.part, fault=one.fault, command=one.command) for one in faults.commands()]
        return FaultsBody(available=faults.available, commands=commands)

    @routes.post("/faults", status_code=204)
    async def break_it(held: Annotated[Held, operate], body: FaultBody) -> None:  # noqa: ARG001
        await faults.inject(body.part, body.fault)

    @routes.post("/stolen", status_code=201)
    async def steal(held: Annotated[Held, administer]) -> StolenBody:
        return StolenBody(id=await thief.steal(held))

    @routes.post("/stolen/{stolen_id}/use")
    async def use(held: Annotated[Held, operate], stolen_id: str) -> TriedBody:
        tried = await thief.use(held, stolen_id)
        return TriedBody(
            accepted=tried.accepted,
            http=HttpBody(status=tried.http_status, reason=tried.http_reason),
            grpc=GrpcBody(code=tried.grpc_code, reason=tried.grpc_reason),
            ms=tried.ms,
        )

    return routes


def _verifier(one: rv.Verifier) -> VerifierBody:
    return VerifierBody(
        id=one.id,
        audience=one.audience,
        instance=one.instance,
        position=one.position,
        freshness=_FRESHNESS.get(one.freshness, "UNKNOWN"),
        reported_at=one.reported_at,
    )


def _applied(one: rv.Receipt) -> AppliedBody:
    return AppliedBody(
        verifier=one.verifier.id,
        audience=one.verifier.audience,
        instance=one.verifier.instance,
        delay_ms=one.delay_ms if one.HasField("delay_ms") else None,
    )
