"""Every limit and default of the data plane, in one place. Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

WIRE_VERSION: Final = 1

DEFAULT_SHARDS: Final = 16
MAX_SHARDS: Final = 1024
MAX_AGENT_TYPE: Final = 63
MAX_KEY_BYTES: Final = 256

MAX_COMMIT: Final = 512 * KIB
MAX_BODY: Final = 256 * KIB
"""What travels and is stored in place; a larger body, reply or cell goes to the object store, by reference."""
MAX_LARGE: Final = 64 * MIB
"""Largest body, reply or cell of all."""
LARGE_BODIES: Final = 64 * MIB
"""Large bodies and answers that a worker holds at once for its turns, and states that it loads, together: the largest
of all fits in. In memory each is two to three times its size for a while. No setting: a pod that shall hold more at
once needs a further pod."""
MAX_HEADERS: Final = 16 * KIB
"""Names and values of a message's headers together, those that it passes on among them."""
MAX_TURN_TARGETS: Final = 1000
"""Messages of one turn; more go out in pieces."""
MAX_TURN_BYTES: Final = 64 * MIB
MAX_RECORD: Final = 900 * KIB
"""What one turn may leave for its record: a server takes 1 MiB, and the record says more than that."""
PIECE_BYTES: Final = 128 * KIB
KNOWN_CELLS: Final = 4096
"""Cells of a shard whose place in the table is kept in mind, beside those on their way there."""
DIRTY_CELLS: Final = 4096
"""Cells of a shard on their way to the table, beyond which it reads no further message."""
MAX_PARKED: Final = 50_000
PARK_FROM: Final = 2048
PARKED_IN_MEMORY: Final = 64
CAREFUL_FROM: Final = 3
"""Takes in a row without a commit, from which on a message may be what kills the process."""
WINDOW: Final = 4096
READ_AHEAD_MESSAGES: Final = 1024
READ_AHEAD_BYTES: Final = 4 * MIB
MAILBOX_LIMIT: Final = 100_000
MAILBOX_MAX_BYTES: Final = 1024 * MIB
DEAD_LETTER_LIMIT: Final = 100_000
DEAD_LETTER_MAX_BYTES: Final = 1024 * MIB
OUTBOX_PAUSES_OUTSIDE: Final = 4 * MIB
UNSTORED_BYTES: Final = 8 * MIB
"""What turns of a shard have left that is in no record or object store yet, beyond which no further one starts."""
OUTBOX_REFUSES_SENDS: Final = 64 * MIB

SNAPSHOT_RECORDS: Final = 4096
SNAPSHOT_BYTES: Final = 32 * MIB

DEDUPE_WINDOW: Final = 30.0
REPEAT_WITHIN: Final = 25.0
"""How long a frame that may be stored is repeated: a repeat must arrive within the dedupe window of the first try."""
NO_STREAM_PATIENCE: Final = 3.0
"""How long a mailbox that the routes name may be missing: a server that starts says so too."""
MAX_CONCURRENT_TURNS: Final = 256
CALL_TIMEOUT: Final = 30.0
MAX_CALL_TIMEOUT: Final = 3600.0
ASK_AGAIN: Final = 5.0
"""After so long without a reply the callee is asked whether it has sent one; then twice as long each time."""
ASK_AGAIN_CAP: Final = 60.0
SENT_REPLIES: Final = MIB
"""Replies that a shard has sent lately and can send again, together."""
ASKED_PAUSE: Final = 0.25
"""At least so long between two looks at what was sent, however many ask."""
ASKED_AT_ONCE: Final = 10_000
"""Addresses that wait for the next look; who comes later has to ask again."""
ADDRESS_BYTES: Final = 256
"""No address of a reply is longer."""
QUERY_TIMEOUT: Final = 5.0
ATTEMPTS: Final = 5
BACKOFF_FIRST: Final = 1.0
BACKOFF_CAP: Final = 60.0
PASSIVATION_IDLE: Final = 600.0
MAX_ACTIVE: Final = 50_000
MAX_LAZY: Final = 1024
HOOK_TIMEOUT: Final = 30.0
CLOSE_TIMEOUT: Final = 1.0
MAX_QUERIES: Final = 256
QUERIES_WAITING: Final = 4096

MEMBER_TTL: Final = 10.0
MEMBER_RENEWAL: Final = 3.0
MEMBER_GRACE: Final = 2.0
LIVENESS_INTERVAL: Final = 0.5
ORPHAN_AFTER: Final = 15.0
CLOCK_LOOK: Final = 5.0
"""Between two questions for the store's time."""
FIRST_CLOCK_LOOK: Final = 0.2
RECONNECT_GRACE: Final = 10.0
FENCED_PAUSE_FIRST: Final = 1.0
FENCED_PAUSE_CAP: Final = 60.0

MOVE_WAIT: Final = 10.0
PREPARE_WAIT: Final = 2.0
"""How long an owner that is to hand shards over goes on although no next owner has read a journal."""
DRAIN: Final = 30.0
TURN_END_GRACE: Final = 1.0
RELEASE_DELIVERY: Final = 1.0
NO_ROUTE_AFTER: Final = 60.0
STORE_TIMEOUT: Final = 5.0
