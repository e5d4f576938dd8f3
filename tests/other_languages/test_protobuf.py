"""Bodies in protobuf: they arrive as they were, and a program in Go reads them out of a mailbox."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from starling import AgentId, register_codec, testing
from starling.adapters.nats import EmbeddedServer
from starling.core.envelope import Envelope, frame_body
from starling.core.ids import ShardId
from starling.errors import CantHandle, DecodeError, SpecError
from starling.messages import decode, encode
from starling.protobuf import ProtobufCodec, register_protobuf
from starling.testing import TestMesh

from tests.integration.conftest import mesh_on
from tests.other_languages.sightings import DESCRIPTORS, Notebook, Noted, Place, Sighting, sighting

HERE = Path(__file__).parent
NAME = "starling.tests.Sighting"
BOOK = AgentId("notebook", "b")
GO_BOUND = 300.0


async def test_a_protobuf_message_arrives_as_it_was_and_so_does_its_answer() -> None:
    async with testing.mesh(Notebook, shards=1) as mesh:
        await mesh.send(BOOK, sighting("starling"))
        await mesh.idle()
        assert (await mesh.state(Notebook, "b")).last == "starling [('adults', 2), ('young', 7)] 2"
        assert await mesh.call(BOOK, sighting("wren")) == Noted(sightings=2)


def test_the_body_is_what_protobuf_makes_of_it_under_the_full_name_of_its_type() -> None:
    name, body = encode(sighting("wren"))
    assert name == NAME
    assert Sighting.FromString(body) == sighting("wren")
    assert decode(name, body) == sighting("wren")


@pytest.mark.parametrize("content_type", ["application/protobuf", "application/x-protobuf", ""])
async def test_a_sender_in_another_language_may_name_the_content_type(content_type: str) -> None:
    async with testing.mesh(Notebook, shards=1) as mesh:
        await put(mesh, content_type)
        await mesh.idle()
        assert (await mesh.state(Notebook, "b")).sightings == 1


async def test_a_body_of_another_content_type_is_a_dead_letter_that_says_which_are_taken() -> None:
    async with testing.mesh(Notebook, shards=1) as mesh:
        await put(mesh, "application/json")
        await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert letter.reason == "DecodeError"
        assert "'application/json' is not taken, only application/protobuf or application/x-protobuf is" in letter.text


async def put(mesh: TestMesh, content_type: str) -> None:
    """Store a frame as a program without Starling would."""
    body = sighting("wren").SerializeToString()
    envelope = Envelope(id="1", type=NAME, body=body, target=BOOK, content_type=content_type)
    await (await mesh._admin.publish("st.test.notebook.m.0.o.n", frame_body([envelope.pack()]), {"St-V": "1"}))


def test_what_is_no_such_message_is_refused_by_name() -> None:
    with pytest.raises(DecodeError, match=f"{NAME}: its codec cannot read it"):
        decode(NAME, b"\xff\xff")
    with pytest.raises(DecodeError, match="content type 'text/plain' is not taken"):
        decode("str", b'"x"', "text/plain")
    with pytest.raises(SpecError, match="is no generated message class"):
        register_protobuf(dict)
    with pytest.raises(SpecError, match="has a codec already"):
        register_codec(Sighting, ProtobufCodec(Sighting))


async def test_a_message_that_no_handler_names_is_refused_as_any_other() -> None:
    register_protobuf(Place)
    async with testing.mesh(Notebook, shards=1) as mesh:
        with pytest.raises(CantHandle, match=r"has no handler that takes starling\.tests\.Place"):
            await mesh.call(BOOK, Place())


def test_without_the_extra_the_import_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['google.protobuf.message'] = None\n"
        "try:\n    import starling.protobuf\nexcept Exception as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "install starling-mesh[protobuf]" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """The program in Go, built from its pinned modules; skipped where Go or they are not to be had."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    source, program = HERE / "decode", tmp_path_factory.mktemp("go") / "decode"

    def go(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
        command = ["go", *arguments]
        return subprocess.run(
            command, cwd=source, env=environment, capture_output=True, text=True, timeout=GO_BOUND, check=False
        )

    fetched = go("mod", "download", "google.golang.org/protobuf", "github.com/vmihailenco/msgpack/v5")
    if fetched.returncode:
        pytest.skip(f"the modules of tests/other_languages/decode are not to be had: {fetched.stderr[-300:]}")
    built = go("build", "-trimpath", "-o", str(program), ".")
    assert built.returncode == 0, built.stderr

    def run(*files: Path) -> list[dict[str, Any]]:
        command = [str(program), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.timeout(2 * GO_BOUND + 120)
@pytest.mark.row("RT-91")
async def test_a_program_in_go_decodes_the_messages_that_a_real_mailbox_holds(
    nats_server: EmbeddedServer, tmp_path: Path, decoder: Callable[..., list[dict[str, Any]]]
) -> None:
    descriptors = tmp_path / "descriptors"
    descriptors.write_bytes(DESCRIPTORS.SerializeToString())
    async with mesh_on(nats_server, tmp_path) as cluster:
        pool = await cluster.pool(agents={"notebook": "tests.other_languages.sightings:Notebook"})
        await pool.map("w-0")
        pool.start("w-0")
        await pool.owns("w-0", 0)
        async with cluster.client() as mesh:
            await mesh.send(BOOK, sighting("starling"), headers={"from": "field"})
            assert await mesh.call(BOOK, sighting("wren"), timeout=30.0) == Noted(sightings=2)
        name = pool.names.mailbox(ShardId(0))
        stored = await cluster.store.page(name, pool.names.mailbox_subjects(ShardId(0)), 1)

    frames = [tmp_path / f"frame-{message.sequence}" for message in stored]
    for file, message in zip(frames, stored, strict=True):
        assert message.headers is not None
        assert message.headers["St-V"] == "1"
        file.write_bytes(message.data)
    first, second = decoder(descriptors, *frames)

    assert (first["type"], first["target"], first["headers"]) == (NAME, ["notebook", "b"], {"from": "field"})
    assert first["message"] == {
        "bird": "starling",
        "seenAt": "1764000000123",
        "path": [{"latitude": 52.5, "longitude": 13.25}, {"latitude": -0.5}],
        "counts": {"adults": 2, "young": 7},
        "certainty": "PERHAPS",
        "picture": base64.b64encode(b"\x00\xff").decode(),
        "altitude": -12,
    }
    assert second["message"] == json_format.MessageToDict(sighting("wren"))
