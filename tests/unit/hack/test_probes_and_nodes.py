"""Rows of probe answers, addresses of pods, log tails."""

from __future__ import annotations

import socket

import pytest

from hack.cluster.api import Json
from hack.cluster.procnode.logs import tail
from hack.cluster.procnode.node import ADDRESSES, SOCKETS, address, listening, pod_environment
from hack.cluster.procnode.probes import EAGER_SECONDS, EAGER_TIMES, Answers


@pytest.mark.parametrize(
    ("spec", "heard", "expected"),
    [
        pytest.param({}, [True], [True], id="one good answer is enough by default"),
        pytest.param({}, [False] * 3, [None, None, False], id="three bad ones count by default"),
        pytest.param({"failureThreshold": 1}, [False, True], [False, True], id="one bad one, if asked"),
        pytest.param(
            {"successThreshold": 2}, [True, False, True, True], [None, None, None, True], id="rows are broken"
        ),
    ],
)
def test_a_row_of_answers_counts_once_it_is_long_enough(
    spec: Json, heard: list[bool], expected: list[bool | None]
) -> None:
    answers = Answers(spec)
    assert [answers.heard(ok) for ok in heard] == expected


def test_a_starting_container_is_asked_often_and_a_hopeless_one_no_longer() -> None:
    answers = Answers({"periodSeconds": 5})
    assert answers.pause(eager=True) == EAGER_SECONDS
    assert answers.pause(eager=False) == 5.0
    for _ in range(EAGER_TIMES + 1):
        answers.heard(False)
    assert answers.pause(eager=True) == 5.0


def test_every_pod_of_a_network_has_an_address_of_its_own_that_is_never_the_nodes() -> None:
    addresses = {address("127.64.0.1", number) for number in range(ADDRESSES)}
    assert len(addresses) == ADDRESSES
    assert "127.64.0.1" not in addresses
    assert all(each.startswith("127.64.") and max(map(int, each.split("."))) <= 255 for each in addresses)


@pytest.mark.parametrize(("count", "expected"), [(0, b""), (2, b"b\nc\n"), (9, b"a\nb\nc\n")])
def test_a_tail_is_the_last_lines(count: int, expected: bytes) -> None:
    assert tail([b"a\n", b"b\n", b"c\n"], count) == expected


def test_pods_get_this_python_first_and_nothing_secret_of_ours() -> None:
    env = pod_environment({"PATH": "/bin", "HOME": "/home/x", "TOKEN": "secret"})
    assert env["PATH"].endswith(":/bin")
    assert env["HOME"] == "/home/x"
    assert "TOKEN" not in env


def test_an_address_at_which_something_listens_is_known() -> None:
    with socket.create_server(("127.99.3.7", 0)):
        assert "127.99.3.7" in listening(SOCKETS.read_text())
    assert "127.99.3.7" not in listening(SOCKETS.read_text())
