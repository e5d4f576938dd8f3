"""What can go wrong in the test kit.

KitError
├── MissingProgram   a program is not on this machine: the text says where it was looked for
├── NotReady         something did not come up in time: the text ends with the last lines of its log
├── BadPod           a pod's manifest asks for what a process node does not have
├── Unreachable      the API server does not answer
└── ApiError         it answered with an error: `status` is the HTTP code
"""

from __future__ import annotations

import json


class KitError(Exception):
    """The root."""


class MissingProgram(KitError):
    """A program is not on this machine."""


class NotReady(KitError):
    """Something did not come up in time."""


class BadPod(KitError):
    """A pod's manifest asks for what a process node does not have."""


class Unreachable(KitError):
    """The API server does not answer."""


class ApiError(KitError):
    """The API server answered with an error.

    status: the HTTP code; message: the server's own sentence.
    """

    def __init__(self, status: int, body: str, *, where: str) -> None:
        try:
            self.message = str(json.loads(body).get("message", body))
        except ValueError:
            self.message = body
        self.status = status
        super().__init__(f"{where}: {status} {self.message[:500]}")
