"""The entries a process holds, and the one question: does any of them match this token?

**Why it is fast.** A token, session or grant that was revoked is one key in the dict of its kind; a subject or client
is one generation in another. A lookup is a handful of dict probes, whatever the number of entries. A dict that outgrew
the processor's caches answers several times slower than a small one: kinds are apart so that a million entries of one
kind slow one probe and not three. The keys of a token are computed once, when it is first verified, and kept with it.
A token that matched nothing is not looked up again before something is added, and then only among the newest entries,
which are few, however many are held: the others were there when nothing matched (`version`).

**Why it cannot grow without bound.** Every entry has a position in the log, and identity names the *floor* in every
heartbeat: the oldest position that can still match a living token. A token lives fifteen minutes, so an entry is
dropped about that long after it came. What is held is bounded by (revocations per second) x (longest token life), not
by history. Entries are kept in the order of their positions, so dropping looks at what it drops and at nothing else.
What is dropped is dead by identity's clock; a verifier whose own is behind takes identity's word for how late it is.

**Why it is small.** Ids are 128-bit digests as integers, 48 bytes each, whatever the id looked like; values are shared;
the order costs 16 bytes an entry. At a million entries that is about 110 bytes for each, the dict included (there is a
test that measures it). Two ids with one digest would need 2^64 guesses by whoever chooses the ids, which is identity.

**Why applying is safe in any order, any number of times.** Adding an entry twice changes nothing, generations only
rise, and nothing but the floor removes. An entry that was added again later stays until its latest position is below
the floor. An entry that comes ahead of its predecessors may outlive the floor a little; none goes before its time.
"""

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count

from rescind.claims import Principal
from rescind.errors import RevocationKind, RevokedToken
from rescind.messages import Entry, EntryKind

_MARKED: tuple[EntryKind, ...] = ("token", "session", "grant")  # in this order `match` looks
_SEGMENT = 1024  # keys per segment of the order: large enough to be cheap, small enough to be freed soon
_SHRINK = 8  # the dict is made anew when it holds less than this part of what it once held
_MAX_SHARED = 1024  # different causes that are kept once
_NEWEST = 1024  # entries: to be asked of them alone, a token must have been asked about since the first of them came

_origins = count(1 << 48, 1 << 48)  # of the versions of each denylist: no two have one in common

# Where what an entry matches is found: the digest of its kind and id.
Place = int


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """What of a token the denylist is asked about: computed once per token."""

    tokens: tuple[int, ...]
    session: int | None
    grant: int | None
    subject: str
    gen: int | None
    client_id: str
    cgen: int
    prior_clients: tuple[tuple[str, int], ...]  # of an exchanged token: any of them taken back refuses it
    places: tuple[Place, ...]  # every place at which an entry that matches this token may stand (`place_of`)


def place_of(entry: Entry) -> Place:
    """The place of an entry: it can match those tokens, and no others, that have it among theirs."""
    return _key(entry.kind, entry.id)


def keys_of(principal: Principal) -> TokenKeys:
    """The keys under which `principal`'s token may be refused."""
    ids = (principal.jti, principal.ojti, *(prior.ojti for prior in principal.prior_actors))
    tokens = tuple(_key("token", id_) for id_ in ids if id_ is not None)
    session = None if principal.sid is None else _key("session", principal.sid)
    grant = None if principal.gid is None else _key("grant", principal.gid)
    prior_clients = tuple((prior.client_id, prior.cgen) for prior in principal.prior_actors)
    clients = (principal.client_id, *(client_id for client_id, _ in prior_clients))
    return TokenKeys(
        tokens=tokens,
        session=session,
        grant=grant,
        subject=principal.subject,
        gen=principal.gen,
        client_id=principal.client_id,
        cgen=principal.cgen,
        prior_clients=prior_clients,
        places=(
            *(mark for mark in (*tokens, session, grant) if mark is not None),
            _key("subject", principal.subject),
            *(_key("client", client_id) for client_id in clients),
        ),
    )


def _key(kind: EntryKind, id_: str) -> int:
    return int.from_bytes(sha256(f"{kind}:{id_}".encode()).digest()[:16])


@dataclass(slots=True)
class _Segment:
    """A stretch of the order: keys[i] came with positions[i]."""

    positions: "array[int]" = field(default_factory=lambda: array("Q"))
    keys: list[int] = field(default_factory=list)
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Generation:
    pos: int
    gen: int
    hard_gen: int
    cause: str


class Denylist:
    """What is refused. Not thread-safe: one event loop owns it.

    `version` rises with every `add`, and is never one that another denylist of this process has: whoever found no match
    in a version finds none until it changes, and may name it then (`match`).
    """

    def __init__(self) -> None:
        self.version = next(_origins)
        self._newest: set[Place] = set()  # what was added after version `_newest_after`
        self._newest_after = self.version
        self._marks: dict[EntryKind, dict[int, str]] = {kind: {} for kind in _MARKED}  # causes
        self._order: deque[_Segment] = deque()
        self._most = dict.fromkeys(_MARKED, 0)  # marks at once, since the dict was last made smaller
        self._again: dict[int, int] = {}  # keys that stand in the order more than once: how many times more
        self._shared: dict[str, str] = {}  # causes, each once
        self._subjects: dict[str, _Generation] = {}
        self._clients: dict[str, _Generation] = {}
        self._generation_order: deque[tuple[int, EntryKind, str]] = deque()

    def __len__(self) -> int:
        """How many entries are held."""
        return sum(map(len, self._marks.values())) + len(self._subjects) + len(self._clients)

    def counts(self) -> dict[EntryKind, int]:
        """How many entries of each kind are held."""
        marked = {kind: len(marks) for kind, marks in self._marks.items()}
        return {**marked, "subject": len(self._subjects), "client": len(self._clients)}

    def add(self, pos: int, entry: Entry, cause: str) -> None:
        """Refuses, from now on, what `entry` matches. Adding it again changes nothing."""
        if len(self._newest) >= _NEWEST:
            self._newest.clear()
            self._newest_after = self.version
        place = place_of(entry)
        self._newest.add(place)
        self.version += 1
        if entry.kind == "subject":
            self._raise(self._subjects, pos, entry, cause)
        elif entry.kind == "client":
            self._raise(self._clients, pos, entry, cause)
        else:
            self._mark(pos, entry, place, cause)

    def drop_below(self, floor: int) -> bool:
        """Forgets what came at positions below `floor`: it can match no living token. True if there was anything."""
        held = len(self)
        for key in self._pop_below(floor):
            again = self._again.pop(key, 0)
            if again:  # it stays until it has left the order altogether: one of the others may be alive
                if again > 1:
                    self._again[key] = again - 1
                continue
            for marks in self._marks.values():
                if marks.pop(key, None) is not None:
                    break
        for kind, marks in self._marks.items():
            if len(marks) * _SHRINK < self._most[kind]:
                # A dict never gives back what it once needed; after a storm of revocations, this does.
                self._marks[kind] = dict(marks)
                self._most[kind] = len(marks)
        if not any(self._marks.values()):
            self._shared.clear()
        order = self._generation_order
        while order and order[0][0] < floor:
            pos, kind, id_ = order.popleft()
            generations = self._subjects if kind == "subject" else self._clients
            generation = generations.get(id_)
            if generation is not None and generation.pos <= pos:
                del generations[id_]
        return len(self) < held

    def match(self, keys: TokenKeys, clean_at: int = 0) -> RevokedToken | None:
        """The refusal if any entry matches, else None. `clean_at`: a version in which none did; 0 if not known."""
        if self._newest_after <= clean_at <= self.version and self._newest.isdisjoint(keys.places):
            return None
        tokens, sessions, grants = self._marks.values()
        for token in keys.tokens:
            if token in tokens:
                return RevokedToken("token", tokens[token])
        if keys.session is not None and keys.session in sessions:
            return RevokedToken("session", sessions[keys.session])
        if keys.grant is not None and keys.grant in grants:
            return RevokedToken("grant", grants[keys.grant])
        soft: RevokedToken | None = None  # told only if nothing hard matches: it says that a refresh will help
        if keys.gen is not None:
            subject = self._subjects.get(keys.subject)
            if subject is not None and keys.gen < subject.gen:
                if keys.gen < subject.hard_gen:
                    return RevokedToken("subject", subject.cause)
                soft = RevokedToken("subject", subject.cause, soft=True)
        if self._clients:  # seldom: a client is disabled, its secret changed
            for client_id, cgen in ((keys.client_id, keys.cgen), *keys.prior_clients):
                client = self._clients.get(client_id)
                if client is not None and cgen < client.gen:
                    if cgen < client.hard_gen:
                        return RevokedToken("client", client.cause)
                    soft = soft or RevokedToken("client", client.cause, soft=True)
        return soft

    def matches(self, kind: RevocationKind, id_: str) -> bool:
        """Whether an entry of this kind and id is held: for status pages and tests, not for judging tokens."""
        if kind == "subject":
            return id_ in self._subjects
        if kind == "client":
            return id_ in self._clients
        return kind != "key" and _key(kind, id_) in self._marks[kind]

    def _mark(self, pos: int, entry: Entry, key: int, cause: str) -> None:
        marks = self._marks[entry.kind]
        if key in marks:
            self._again[key] = self._again.get(key, 0) + 1
        else:
            if len(self._shared) >= _MAX_SHARED:
                self._shared.clear()
            marks[key] = self._shared.setdefault(cause, cause)
            self._most[entry.kind] = max(self._most[entry.kind], len(marks))
        if not self._order or len(self._order[-1].keys) >= _SEGMENT:
            self._order.append(_Segment())
        segment = self._order[-1]
        segment.positions.append(pos)
        segment.keys.append(key)

    def _pop_below(self, floor: int) -> Iterator[int]:
        while self._order:
            segment = self._order[0]
            while segment.dropped < len(segment.keys):
                if segment.positions[segment.dropped] >= floor:
                    return
                key = segment.keys[segment.dropped]
                segment.dropped += 1
                yield key
            self._order.popleft()

    def _raise(self, held: dict[str, _Generation], pos: int, entry: Entry, cause: str) -> None:
        before = held.get(entry.id)
        hard_gen = 0 if entry.soft else entry.gen
        if before is None:
            held[entry.id] = _Generation(pos, entry.gen, hard_gen, cause)
        else:
            held[entry.id] = _Generation(
                max(before.pos, pos),
                max(before.gen, entry.gen),
                max(before.hard_gen, hard_gen),
                cause if entry.gen >= before.gen else before.cause,
            )
        self._generation_order.append((pos, entry.kind, entry.id))
