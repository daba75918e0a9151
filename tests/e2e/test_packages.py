"""What is released: wheel and sdist, and what other services get from them."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from venv import EnvBuilder

import pytest
from packaging.metadata import Metadata

from allocation.client import listen
from allocation.entrypoints.api.description.openapi import document
from tests.e2e.conftest import House
from tests.servers.processes import ROOT, Process, clean_environment

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("house")]

SOURCES = ("allocation", "workers")
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "celeryconfig.py")
SERVERS_OWN = ("celery", "sqlalchemy", "flask", "jsonschema_rs", "structlog", "pydantic", "typer")


@dataclass
class Built:
    """The two files, and what the builder said."""

    wheel: Path
    sdist: Path
    said: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist of this tree, the wheel made from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy(ROOT / name, source)
    said = output(sys.executable, "-m", "build", "--outdir", out, source)
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel, sdist, said)


def output(*command: str | Path) -> str:
    """What the command prints; it has to succeed."""
    done = subprocess.run(
        command,
        env=clean_environment() | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def sources() -> set[str]:
    """Every file of the tree that the packages need."""
    files = (path for name in SOURCES for path in (ROOT / name).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts} | {
        "celeryconfig.py"
    }


def installed(folder: Path, *options: str | Path) -> Path:
    """The Python of a new environment, in which pip has installed what the options say."""
    EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    output(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *options)
    return python


@pytest.fixture(scope="module")
def outside(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel without extras, and what that needs."""
    folder = tmp_path_factory.mktemp("outside")
    return installed(folder, "--constraint", ROOT / "constraints.txt", built.wheel)


def test_the_packages_have_every_file_of_the_tree_and_no_other(built: Built) -> None:
    """Contract, migrations, templates, static files and the markers of types among them."""
    with zipfile.ZipFile(built.wheel) as wheel:
        wheeled = {name for name in wheel.namelist() if ".dist-info/" not in name}
    with tarfile.open(built.sdist) as sdist:
        packed = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}

    assert wheeled == sources()
    assert {name for name in packed if ".egg-info/" not in name} == sources() | {
        *BESIDE,
        "PKG-INFO",
        "setup.cfg",
    }


def test_they_are_built_without_a_warning_and_say_what_they_are(built: Built) -> None:
    """The metadata keep their standard; a client needs one library."""
    with zipfile.ZipFile(built.wheel) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Metadata.from_email(wheel.read(name))

    told = [line for line in built.said.splitlines() if "byte-compiling is disabled" not in line]
    assert [line for line in told if "warn" in line.lower() or "deprecat" in line.lower()] == []
    needed = [need for need in metadata.requires_dist or [] if need.marker is None]
    assert [need.name for need in needed] == ["kombu"]
    assert metadata.provides_extra == ["subscriber", "server", "otel", "dev"]
    assert metadata.license_expression == "MIT"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()
    assert all([metadata.summary, metadata.author, metadata.keywords, metadata.classifiers])


def test_the_messaging_kit_needs_neither_flask_nor_celery() -> None:
    program = "import sys; sys.modules.update(flask=None, celery=None)"

    output(sys.executable, "-c", f"{program}; import allocation.messaging.subscriber")


OUTSIDE = '''
"""Another service: it takes an order over AMQP and over HTTP, and hears of both."""

import importlib.util
import json
import sys

from allocation.client import AmqpClient, HttpClient, listen

broker_url, api_url, *servers_own = sys.argv[1:]
http = HttpClient(api_url)
with listen(broker_url, "shop.events", quiet=20) as events, AmqpClient(broker_url, http) as amqp:
    created = http.create_batch(batchref="shelf", sku="LAMP", qty=10, wait=20)
    over_amqp = amqp.allocate(orderid="order-1", sku="LAMP", qty=3, wait=20)
    over_http = http.allocate(orderid="order-2", sku="LAMP", qty=2, wait=20)
    refused = amqp.allocate(orderid="order-3", sku="NOPE", qty=1, wait=20)
    gone = amqp.dispatch(orderid="order-1", sku="LAMP", wait=20)
    heard = []
    for event in events:
        heard.append([event.type, event.sequence, event.data.get("orderid")])
        if event.type == "allocation.dispatched.v1":
            break
print(json.dumps({
    "installed": [name for name in servers_own if importlib.util.find_spec(name)],
    "statuses": [one.status for one in (created, over_amqp, over_http, refused, gone)],
    "facts": [dict(one.facts) for one in (over_amqp, over_http, refused)],
    "reason": refused.reason,
    "heard": heard,
}))
'''


def test_a_service_outside_has_its_orders_served_with_the_clients_part_alone(
    house: House, outside: Path, processes: Callable[..., Process], tmp_path: Path
) -> None:
    """From the wheel without extras, in an environment that has nothing of the server's."""
    (tmp_path / "shop.py").write_text(OUTSIDE)

    command = [outside, "shop.py", house.broker_url, f"http://127.0.0.1:{house.port}", *SERVERS_OWN]
    shop = processes(command, name="shop", cwd=tmp_path)

    assert shop.wait(60) == 0, shop.logs()
    shelf = {"status": "allocated", "batchref": "shelf", "eta": None}
    assert json.loads(shop.logs().splitlines()[-1]) == {
        "installed": [],
        "statuses": ["succeeded", "succeeded", "succeeded", "rejected", "succeeded"],
        "facts": [
            {"orderid": "order-1", "sku": "LAMP", "qty": 3} | shelf,
            {"orderid": "order-2", "sku": "LAMP", "qty": 2} | shelf,
            {"sku": "NOPE"},
        ],
        "reason": "unknown sku",
        "heard": [
            ["allocation.batch_created.v1", 1, None],
            ["allocation.allocated.v1", 2, "order-1"],
            ["allocation.allocated.v1", 3, "order-2"],
            ["allocation.dispatched.v1", 4, "order-1"],
        ],
    }


def test_the_command_says_what_it_lacks_beside_the_client(outside: Path) -> None:
    """One sentence, where the service's libraries were not installed."""
    command = outside.with_name("allocation")

    done = subprocess.run([command, "demo"], capture_output=True, text=True, check=False)

    sentence = "typer is missing: the service needs the extra, `allocation[server]`\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_the_service_runs_from_the_wheel(
    built: Built, processes: Callable[..., Process], tmp_path: Path
) -> None:
    """Its files are found where it is installed; what it depends on is this environment's."""
    python = installed(tmp_path / "venv", "--no-deps", "--no-index", built.wheel)
    [packages] = (tmp_path / "venv" / "lib").glob("*/site-packages")
    # A path alone: the editable install of this project beside them stays unseen.
    [ours] = {path for path in sys.path if path.endswith("site-packages")}
    (packages / "dependencies.pth").write_text(ours)
    state = {"ALLOCATION_STATE_DIR": str(tmp_path / "state")}
    allocation = python.with_name("allocation")
    where = "import allocation.settings as found, celeryconfig; print(found.__file__)"

    def told(*command: str | Path) -> str:
        process = processes([*command], name="installed", env=state, cwd=tmp_path)
        assert process.wait(40) == 0, process.logs()
        return process.logs()

    assert told(python, "-c", where).strip() == str(packages / "allocation" / "settings.py")
    assert json.loads(told(allocation, "openapi")) == document()
    told(allocation, "migrate")
    assert "holds" in told(allocation, "check")


def test_the_examples_of_the_clients_page_do_what_it_says(
    house: House, outside: Path, processes: Callable[..., Process], tmp_path: Path
) -> None:
    """One after the other, with the wheel alone."""
    page = (ROOT / "docs" / "clients.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    broker, api = "amqp://guest:guest@127.0.0.1:5672//", "http://127.0.0.1:5005"
    with listen(house.broker_url, "shop.events"):
        pass  # the queue is there before what the last block hears

    told = []
    for block in blocks:
        program = block.replace(broker, house.broker_url)
        program = program.replace(api, f"http://127.0.0.1:{house.port}").replace(
            "quiet=10", "quiet=3"
        )
        (tmp_path / "example.py").write_text(program)
        example = processes([outside, "example.py"], name="example", cwd=tmp_path)
        assert example.wait(40) == 0, example.logs()
        told.append(example.logs().splitlines())

    assert told == [
        ["succeeded allocated shelf-1", "rejected unknown sku"],
        ["pending shelf-1", "succeeded"],
        [],
        [
            "allocation.batch_created.v1 RED-CHAIR 1 None",
            "allocation.allocated.v1 RED-CHAIR 2 order-1",
            "allocation.allocated.v1 RED-CHAIR 3 order-2",
            "allocation.dispatched.v1 RED-CHAIR 4 order-2",
            "allocation.allocated.v1 RED-CHAIR 5 order-3",
        ],
    ]
