"""TLS by URL for broker, database and mails: the right server is trusted, and no other."""

import os
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from kombu import Connection
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import database
from allocation.adapters.sql.migrations import upgrade
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.messaging import connection as broker
from allocation.messaging import database as workers_database
from allocation.service_layer.execution import accept
from tests.integration.conftest import Service
from tests.integration.test_relay import unsent
from tests.integration.test_rights import PROGRAMS, run
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.storage.conftest import message
from tests.waiting import eventually
from workers.notification.mail_backends import SmtpServer

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("tls")]

ENGINES = [database.engine, workers_database.engine]


@dataclass
class Files:
    """An authority, a server's certificate for the name `localhost`, a client's, and a stranger."""

    server: trustme.LeafCert
    chain: Path
    ca: Path
    stranger: Path
    client: Path

    @property
    def query(self) -> str:
        """As AMQP and SMTP URLs name the authority and the client's certificate with its key."""
        return f"cacertfile={self.ca}&certfile={self.client}"

    @property
    def of_a_stranger(self) -> str:
        return f"cacertfile={self.stranger}&certfile={self.client}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Made for this run."""
    folder = tmp_path_factory.mktemp("certificates")
    ours, strangers = trustme.CA(), trustme.CA()
    server, client = ours.issue_cert("localhost"), ours.issue_cert("allocation@example.com")
    made = Files(server, *(folder / f"{name}.pem" for name in ("chain", "ca", "stranger", "me")))
    ours.cert_pem.write_to_path(made.ca)
    strangers.cert_pem.write_to_path(made.stranger)
    client.private_key_and_cert_chain_pem.write_to_path(made.client)
    server.private_key_and_cert_chain_pem.write_to_path(made.chain)
    return made


@pytest.fixture(scope="module")
def tls_rabbitmq(files: Files, say: Callable[[str], None]) -> Iterator[tuple[PrivateRabbitMQ, int]]:
    """A node that takes TLS from clients with a certificate, and the port where it does."""
    [port] = free_ports(1)
    settings = {
        "listeners.ssl.1": f"{LOOPBACK}:{port}",
        "ssl_options.cacertfile": files.ca,
        "ssl_options.certfile": files.chain,
        "ssl_options.keyfile": files.chain,
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
    }
    server = PrivateRabbitMQ(say, settings=settings)
    try:
        server.start()
        yield server, port
    finally:
        server.remove()


@pytest.fixture
def amqps(tls_rabbitmq: tuple[PrivateRabbitMQ, int]) -> Callable[..., str]:
    """Makes the amqps:// URL of one virtual host, for a host name and with a query."""
    server, port = tls_rabbitmq
    plain = Connection(server.create_vhost())

    def url(query: str, host: str = "localhost") -> str:
        login = f"{plain.userid}:{plain.password}"
        return f"amqps://{login}@{host}:{port}/{plain.virtual_host}?{query}"

    return url


@pytest.fixture(scope="module")
def tls_postgres(files: Files) -> Iterator[PrivatePostgres]:
    """A server that takes TLS."""
    server = PrivatePostgres(files.server)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgresql(tls_postgres: PrivatePostgres) -> Callable[..., str]:
    """Makes the URL of one database, for a host name and with a query."""
    plain = make_url(tls_postgres.create_database()).set(drivername="postgresql")

    def url(query: str, host: str = "localhost") -> str:
        return f"{plain.set(host=host).render_as_string(hide_password=False)}?{query}"

    return url


class Letterbox:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.subjects.append(message_from_bytes(envelope.content)["Subject"])
        return "250 kept"


@pytest.fixture(params=["smtps", "smtp+starttls"])
def smtp(request: pytest.FixtureRequest, files: Files) -> Iterator[tuple[str, int, Letterbox]]:
    """A server for each scheme, which takes mails by TLS only, from clients with a certificate."""
    letterbox, [port] = Letterbox(), free_ports(1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    files.server.configure_cert(context)
    tls = (
        {"ssl_context": context}
        if request.param == "smtps"
        else {"tls_context": context, "require_starttls": True}
    )
    server = TlsController(letterbox, hostname=LOOPBACK, port=port, **tls)
    server.start()
    yield request.param, port, letterbox
    server.stop()


class TlsController(Controller):
    def _trigger_server(self) -> None:
        """Connect, as the original does, but say nothing: there it would speak plain text."""
        socket.create_connection((LOOPBACK, self.port)).close()


def mail() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "us@shop.test", "them@shop.test", "Lamps"
    made.set_content("They are gone.")
    return made


def test_the_broker_is_trusted_by_its_authority_and_name(
    amqps: Callable[..., str], files: Files
) -> None:
    """With the client's own certificate, which this one asks for."""
    with broker.connect(amqps(files.query)) as connection:
        assert connection.connection.transport.sock.version() in ("TLSv1.2", "TLSv1.3")


def test_a_broker_of_another_authority_or_name_is_refused(
    amqps: Callable[..., str], files: Files
) -> None:
    """And so is one whose authority the machine does not know, when the URL names none."""
    unknown = f"certfile={files.client}"
    for url, reason in (
        (amqps(files.of_a_stranger), "certificate verify failed"),
        (amqps(unknown), "certificate verify failed"),
        (amqps(files.query, host="127.0.0.1"), "IP address mismatch"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            broker.connect(url).connect()


def test_the_next_node_is_held_against_its_own_name(
    amqps: Callable[..., str], files: Files
) -> None:
    """kombu alone would hold it against the first one's, or against none."""
    wrong, right = amqps(files.query, host="127.0.0.1"), amqps(files.query)

    with broker.connect(f"{wrong};{right}") as connection:
        connection.ensure_connection(max_retries=3, interval_start=0)
        assert connection.connection.transport.sock.server_hostname == "localhost"
    with pytest.raises(Exception, match="IP address mismatch"):
        broker.connect(f"{wrong};{wrong}").ensure_connection(max_retries=3, interval_start=0)


def test_a_broker_that_wants_a_certificate_gets_one(
    amqps: Callable[..., str], files: Files
) -> None:
    """Without it, it hangs up."""
    with pytest.raises(OSError, match=r"certificate required|closed|reset|EOF"):
        broker.connect(amqps(f"cacertfile={files.ca}")).connect()


def test_every_process_works_by_tls(
    processes: Callable[..., Process],
    amqps: Callable[..., str],
    postgresql: Callable[..., str],
    files: Files,
    state_dir: Path,
) -> None:
    """Broker and database, from a command that was accepted to a pick; and Celery's inspection."""
    url, database_url = amqps(files.query), postgresql(f"sslrootcert={files.ca}")
    upgrade(database_url)
    environment = {
        "ALLOCATION_BROKER_URL": url,
        "ALLOCATION_DATABASE_URL": database_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
        "WAREHOUSE_DATABASE_URL": database_url,
        "ALLOCATION_LOG_LEVEL": "DEBUG",
    }
    declared = run(environment, "-m", "allocation", "topology")
    assert declared.returncode == 0, declared.stderr
    service = Service(url, database.engine(database_url), environment, processes)
    started = [
        processes([sys.executable, *command], name=name, env=environment)
        for name, (command, _) in PROGRAMS.items()
    ]
    for process, (_, ready) in zip(started, PROGRAMS.values(), strict=True):
        process.wait_for_log(ready, within=40)

    accept(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    accept(message(Allocate("o1", "LAMP", 4), 2), SqlUnitOfWork(service.engine))

    eventually(lambda: unsent(service) == 0, within=20, what="everything told")
    picks = ["-m", "workers.warehouse", "picks", "--json"]
    eventually(lambda: "o1" in run(environment, *picks).stdout, within=20, what="the pick")
    inspected = run(environment, "-m", "celery", "-A", "allocation", "inspect", "ping")
    assert "pong" in inspected.stdout
    secrets = Connection(broker.address(url).url).password, make_url(database_url).password
    said = "".join(process.logs() for process in started)
    assert not any(str(secret) in said for secret in secrets)
    service.engine.dispose()


def test_a_process_that_meets_the_wrong_broker_says_so_and_sends_nothing(
    processes: Callable[..., Process],
    amqps: Callable[..., str],
    files: Files,
    database_url: str,
    state_dir: Path,
) -> None:
    """It goes on to try, as with any broker that is away; no line has the password."""
    url = amqps(files.of_a_stranger)
    environment = {
        "ALLOCATION_BROKER_URL": url,
        "ALLOCATION_DATABASE_URL": database_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
        "WAREHOUSE_DATABASE_URL": f"sqlite:///{state_dir}/warehouse.db",
    }

    for name in ("relay", "worker", "warehouse"):
        process = processes([sys.executable, *PROGRAMS[name][0]], name=name, env=environment)
        process.wait_for_log("certificate verify failed", within=40)
        assert (Connection(broker.address(url).url).password or "") not in process.logs()
        process.stop()


@pytest.mark.parametrize("engine", ENGINES, ids=["allocation", "workers"])
def test_the_database_is_trusted_by_its_authority_and_name(
    engine: Callable[[str], Any], postgresql: Callable[..., str], files: Files
) -> None:
    """Who names an authority wants all of it."""
    made = engine(postgresql(f"sslrootcert={files.ca}"))

    with made.connect() as connection:
        by_tls = connection.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))

    made.dispose()
    assert by_tls is True


@pytest.mark.parametrize("engine", ENGINES, ids=["allocation", "workers"])
def test_a_database_of_another_authority_or_name_is_refused(
    engine: Callable[[str], Any], postgresql: Callable[..., str], files: Files
) -> None:
    """With the mode said or not."""
    for url, reason in (
        (postgresql(f"sslrootcert={files.stranger}"), "certificate verify failed"),
        (postgresql(f"sslmode=verify-full&sslrootcert={files.stranger}"), "certificate verify"),
        (postgresql(f"sslrootcert={files.ca}", host="127.0.0.1"), "does not match host name"),
    ):
        with pytest.raises(OperationalError, match=reason) as refusal:
            engine(url).connect()

        assert (make_url(url).password or "") not in str(refusal.value)


def test_mails_go_by_tls_to_the_right_server(
    smtp: tuple[str, int, Letterbox], files: Files
) -> None:
    """From a client that shows its certificate."""
    scheme, port, letterbox = smtp

    SmtpServer(f"{scheme}://localhost:{port}?{files.query}").send(mail())

    assert letterbox.subjects == ["Lamps"]


def test_no_mail_goes_to_a_server_of_another_authority_or_name(
    smtp: tuple[str, int, Letterbox], files: Files
) -> None:
    """The sender tries again later, as with any server that is away."""
    scheme, port, letterbox = smtp

    for address, reason in (
        (f"localhost:{port}?{files.of_a_stranger}", "certificate verify failed"),
        (f"localhost:{port}", "certificate verify failed"),
        (f"127.0.0.1:{port}?{files.query}", "IP address mismatch"),
    ):
        with pytest.raises(OSError, match=reason):
            SmtpServer(f"{scheme}://{address}").send(mail())

    assert letterbox.subjects == []


def test_a_server_without_starttls_gets_no_mail() -> None:
    """Nobody can make us send in plain text by hiding that it could do better."""
    letterbox, [port] = Letterbox(), free_ports(1)
    plain = Controller(letterbox, hostname=LOOPBACK, port=port)
    plain.start()

    with pytest.raises(smtplib.SMTPException):
        SmtpServer(f"smtp+starttls://localhost:{port}").send(mail())

    plain.stop()
    assert letterbox.subjects == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("cacertfile=/no/such/file", "cacertfile is not a file: /no/such/file"),
        ("verify=verify_none", "cacertfile, certfile and"),
        (f"keyfile={os.devnull}", "is not a file"),
        ("fragment-of-a-secret", "only an amqps:// URL may have a query"),
    ],
)
def test_a_url_that_makes_no_sense_is_one_sentence_without_its_password(
    query: str, reason: str, state_dir: Path
) -> None:
    """In every program, before anything starts."""
    for command in (PROGRAMS["relay"][0], PROGRAMS["worker"][0], PROGRAMS["warehouse"][0]):
        environment = {
            "ALLOCATION_BROKER_URL": f"amqps://me:hidden@localhost/?{query}",
            "ALLOCATION_STATE_DIR": str(state_dir),
        }

        ended = run(environment, *command)

        said = ended.stdout + ended.stderr
        assert ended.returncode != 0
        assert reason in said
        assert "hidden" not in said
        assert "fragment-of-a-secret" not in said


def test_plain_text_with_a_query_is_refused(files: Files) -> None:
    """Who names an authority does not expect to be without TLS."""
    with pytest.raises(ValueError, match="amqps://"):
        broker.connect(f"amqp://localhost/?cacertfile={files.ca}")
    with pytest.raises(ValueError, match="where there is TLS"):
        SmtpServer(f"smtp://localhost?cacertfile={files.ca}")


def test_the_topology_is_the_same_by_tls(amqps: Callable[..., str], files: Files) -> None:
    """Its driver is RabbitMQ's, as ever: Celery's delays are declared too."""
    with broker.connect(amqps(files.query)) as connection:
        topology.declare(connection)

        assert connection.transport.driver_type == "amqp"
        assert topology.depth(connection, "celery_delayed_27") == 0


SHOP = """if True:
    import sys
    from allocation.client import AmqpClient, Unreachable, listen

    for url in sys.argv[1:]:
        try:
            with AmqpClient(url, patience=1) as client:
                client.confirm(orderid="order-1")
            with listen(url, "shop.events", quiet=0.1, patience=1) as events:
                print(list(events))
        except Unreachable as error:
            print(error)
"""


def test_the_client_of_other_services_trusts_the_right_broker_alone(
    amqps: Callable[..., str], files: Files, processes: Callable[..., Process]
) -> None:
    """By its authority and name, also where the first node is not the right one."""
    wrong, right = amqps(files.query, host="127.0.0.1"), amqps(files.query)
    stranger, unknown = amqps(files.of_a_stranger), amqps(f"certfile={files.client}")
    with broker.connect(right) as connection:
        topology.commands_queue()(connection.channel()).declare()
        topology.events_exchange()(connection.channel()).declare()

    # In a process of its own: the service's own way to connect is not there.
    urls = [right, f"{wrong};{right}", wrong, stranger, unknown]
    shop = processes([sys.executable, "-c", SHOP, *urls], name="shop")

    assert shop.wait(40) == 0, shop.logs()
    good, second, *refused = shop.logs().splitlines()
    assert (good, second) == ("[]", "[]")
    reasons = ["IP address mismatch", "self-signed certificate", "self-signed certificate"]
    assert [
        f"certificate verify failed: {reason}" in line
        for reason, line in zip(reasons, refused, strict=True)
    ] == [True, True, True]
