"""``flwr run .`` on loopback: a SuperLink with TLS and node authentication, and SuperNodes with data of their own."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from federated.server.run import run
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import build_encoder
from tests.conftest import REPOSITORY
from tests.federated.conftest import outcome
from tests.federated.data.test_nodes import config_of, flags_of, grid_of, places, write_classes

__all__ = ["places"]  # the fixture

pytestmark = [pytest.mark.slow, pytest.mark.promise]

BIN = Path(sys.executable).parent


def private_pem(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def write_certificates(folder: Path) -> None:
    """An authority (ca.crt) and what it says of 127.0.0.1 (server.pem, server.key)."""
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    today = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, of: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(hours=1))
            .not_valid_after(today + datetime.timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        )
        return builder.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)

    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    (folder / "ca.crt").write_bytes(certificate("authority", authority, x509.BasicConstraints(True, None)))
    (folder / "server.pem").write_bytes(certificate("127.0.0.1", server, address))
    (folder / "server.key").write_bytes(private_pem(server, PrivateFormat.PKCS8))


def write_node_key(path: Path) -> None:
    """What ssh-keygen -t ecdsa -b 384 writes: a private key, and a public one beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(private_pem(key, PrivateFormat.OpenSSH))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public + b"\n")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Federation:
    """Flower's programs in a folder of their own; ``port`` is the SuperLink's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        home = folder / "home"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink.loop]\naddress = "127.0.0.1:{self.port}"\nroot-certificates = "{folder / "ca.crt"}"\n'
        )
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        offline = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
        self.environment = {**os.environ, **offline, "PATH": path, "FLWR_HOME": str(home)}
        self.environment.pop("PYTHONPATH", None)

    @contextmanager
    def program(self, log: str, *command: object) -> Iterator[subprocess.Popen[bytes]]:
        """A program that goes on until the end of the test; what it says goes to a file."""
        with (self.folder / log).open("wb") as file:
            process = subprocess.Popen(
                [BIN / str(command[0]), *map(str, command[1:])],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
            )
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def superlink(self, stack: ExitStack) -> None:
        """Start it and wait until it answers."""
        tls = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key"]
        address = ["--host", "127.0.0.1", "--port", self.port]
        quick = "--disable-runtime-dependency-installation"
        stack.enter_context(
            self.program("superlink.log", "flower-superlink", *tls, "--enable-supernode-auth", *address, quick)
        )
        wait_until(lambda: self.flwr("supernode", "ls", "loop").returncode == 0, "the SuperLink answers")

    def supernode(self, stack: ExitStack, number: int, data: Path, *credentials: object) -> subprocess.Popen[bytes]:
        address = ["--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1", "--port", free_port()]
        node_config = ["--node-config", f'partition-id={number} data="{data}"']
        command = ("flower-supernode", *credentials, *address, *node_config)
        return stack.enter_context(self.program(f"node{number}.log", *command))

    def flwr(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [BIN / "flwr", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=600
        )


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.5)


def test_two_nodes_with_tls_and_a_stranger(places: Path) -> None:
    write_certificates(places)
    for name in ("node0", "node1", "stranger"):
        write_node_key(places / f"{name}.key")
    write_classes(places / "stranger" / "train", 6, "grey", "light")
    save_encoder(places / "encoder.pt", build_encoder("resnet8", seed=1), "resnet8", 1, {})
    federation = Federation(places)
    trust = ["--root-certificates", "ca.crt", "--auth-supernode-private-key"]
    with ExitStack() as stack:
        federation.superlink(stack)
        for name in ("node0", "node1"):
            registered = federation.flwr("supernode", "register", f"{name}.key.pub", "loop", "--name", name)
            assert registered.returncode == 0, registered.stdout
        for number in (0, 1):
            federation.supernode(stack, number, places / f"node{number}", *trust, f"node{number}.key")
        # One whose key was not registered, and one without a key: both are turned away and end by themselves.
        strangers = [
            federation.supernode(stack, 2, places / "stranger", *trust, "stranger.key"),
            federation.supernode(stack, 3, places / "stranger", "--root-certificates", "ca.crt"),
        ]
        for stranger in strangers:
            assert stranger.wait(timeout=120) != 0
        fields = {"rounds": 1, "init": str(places / "encoder.pt"), "head": "centroid", "per_client_every": 1}
        fields["train"] = "last-block"  # the rest comes once, before the first round, and the nodes keep it
        flags = flags_of(places, **fields)
        done = federation.flwr("run", REPOSITORY, "loop", "--stream", "--run-config", f'flags="{flags}"')
        refused = federation.flwr("run", REPOSITORY, "loop", "--stream", "--run-config", 'flags="--rounds 0"')
        listed = json.loads(federation.flwr("ls", "loop", "--format", "json").stdout)
    details = {run["status"]: run["status-details"] for run in listed["runs"]}
    assert set(details) == {"finished:completed", "finished:failed"}, done.stdout
    assert details["finished:failed"].endswith("--rounds must be at least 1, got 0")
    assert "ServerApp raised an exception: --rounds must be at least 1, got 0" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert "42 of 42 encoder tensors loaded" in done.stdout
    assert "2 clients with 12 to 20 examples" in done.stdout
    assert "Failed to activate SuperNode" in (places / "node2.log").read_text()
    assert "SuperNode authentication is enabled" in (places / "node3.log").read_text()
    # The same weights as in one process, whatever carried the messages.
    deployed = outcome((places / "run").rename(places / "deployed"))
    assert not deployed[0][-1]["failures"]
    assert outcome(run(config_of(places, **fields), quiet=True, grid=grid_of(places)).folder) == deployed
