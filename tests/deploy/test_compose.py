"""compose.yaml against the schema of compose files, and against the code that it runs."""

import importlib.util
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typer.main import get_command

from allocation.__main__ import command_line
from allocation.adapters.rabbitmq.permissions import ROLES, parse
from allocation.health import CHECKS
from allocation.settings import Settings
from workers.notification.settings import Settings as NotificationSettings
from workers.warehouse.settings import Settings as WarehouseSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
FLOWERS_OWN = {"FLOWER_BASIC_AUTH"}


def settings() -> set[str]:
    """Every variable that a process of ours reads."""
    ours = {f"ALLOCATION_{name.upper()}" for name in Settings.model_fields}
    of_workers = WarehouseSettings.model_fields | NotificationSettings.model_fields
    return ours | {name.upper() for name in of_workers}


def test_it_is_a_compose_file() -> None:
    """By the schema that the compose project publishes."""
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = jsonschema_rs.validator_for(json.loads(schema.read_text("utf-8")))

    assert [str(error) for error in validator.iter_errors(COMPOSE)] == []


@pytest.mark.parametrize("name", OURS)
def test_each_command_exists(name: str) -> None:
    """Written as a list, so that SIGTERM reaches the process and no shell."""
    command = OURS[name]["command"]
    assert isinstance(command, list)
    known = set(vars(get_command(command_line()))["commands"])
    match command:
        case ["allocation", verb]:
            assert verb in known
        case ["python", "-m", module]:
            assert importlib.util.find_spec(f"{module}.__main__")
        case ["celery", "-A", "allocation", "worker" | "flower", *_]:
            pass
        case _:
            pytest.fail(f"nobody knows the command {command}")


def test_each_variable_is_a_setting_and_each_setting_a_variable() -> None:
    """A misspelt one would be ignored in silence, and a forgotten one could not be set."""
    named = {variable for service in OURS.values() for variable in service["environment"]}

    assert named == settings() | FLOWERS_OWN


def test_every_setting_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()

    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.M)) >= settings()


def test_every_secret_comes_from_the_environment_and_has_no_default() -> None:
    """It stands in .env.example, empty; what may be set stands there as a comment."""
    text = (ROOT / "compose.yaml").read_text()
    example = (ROOT / ".env.example").read_text()

    taken = dict(re.findall(r"\$\{([A-Z_]+)(:.)", text))

    must = {name for name, sign in taken.items() if sign == ":?"}
    assert must == set(re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE))
    assert set(taken) - must == set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE))
    assert {name for name in taken if re.search("KEY|PASSWORD", name)} == must


def test_no_service_has_a_password_that_it_does_not_need() -> None:
    """Each knows its own user of the broker, and the database that it works on."""
    found = {
        name: set(re.findall(r"\$\{([A-Z_]*(?:PASSWORD|KEY))", str(service.get("environment"))))
        for name, service in SERVICES.items()
    }

    def of_broker(*names: str) -> set[str]:
        return {f"RABBITMQ_{name}_PASSWORD" for name in names}

    allocation = {"ALLOCATION_DATABASE_PASSWORD"}
    every_database = allocation | {"WAREHOUSE_DATABASE_PASSWORD", "NOTIFICATION_DATABASE_PASSWORD"}
    assert found == {
        "api": allocation | {"ALLOCATION_API_KEY"} | of_broker("API"),
        "allocation-worker": allocation | of_broker("WORKER"),
        "relay": allocation | of_broker("RELAY"),
        "inbound": allocation | of_broker("INBOUND"),
        "warehouse": {"WAREHOUSE_DATABASE_PASSWORD"} | of_broker("WAREHOUSE"),
        "notification": {"NOTIFICATION_DATABASE_PASSWORD"} | of_broker("NOTIFICATION"),
        "flower": {"FLOWER_PASSWORD"} | of_broker("FLOWER"),
        "operator": allocation | of_broker("OPERATOR"),
        "migrate": allocation,
        "topology": allocation
        | {"RABBITMQ_PASSWORD"}
        | of_broker(*(role.upper() for role in ROLES)),
        "postgres": every_database | {"POSTGRES_PASSWORD"},
        "rabbitmq": {"RABBITMQ_PASSWORD"},
        "mailpit": set(),
    }


def test_each_process_connects_as_the_user_of_its_role() -> None:
    """As `allocation topology` makes them, each with its own password."""
    urls = {
        name: service["environment"]["ALLOCATION_BROKER_URL"].partition("@")[0]
        for name, service in OURS.items()
        if "ALLOCATION_BROKER_URL" in service["environment"]
    }
    role_of = {"allocation-worker": "worker"}
    refusal = "set it in .env, see .env.example"

    made = SERVICES["topology"]["environment"]["ALLOCATION_BROKER_USERS"]
    assert urls == {"topology": f"amqp://allocation:${{RABBITMQ_PASSWORD:?{refusal}}}"} | {
        name: f"amqp://{role_of.get(name, name)}:"
        f"${{RABBITMQ_{role_of.get(name, name).upper()}_PASSWORD:?{refusal}}}"
        for name in set(OURS) - {"migrate", "topology"}
    }
    assert set(parse(re.sub(r"\$\{[^}]*}", "secret", made))) == set(ROLES)


def test_whatever_stays_up_is_checked_restarted_limited_and_stopped_in_time() -> None:
    """Each service of ours, read-only and without rights that it does not need."""
    lasting = {name: s for name, s in OURS.items() if s["restart"] != "no"}

    assert set(lasting) == {
        "api",
        "allocation-worker",
        "relay",
        "inbound",
        "warehouse",
        "notification",
        "flower",
    }
    for name, service in lasting.items():
        process = name.removeprefix("allocation-")
        assert service["healthcheck"]["test"] == [
            "CMD",
            "python",
            "-m",
            "allocation.health",
            process,
        ]
        assert process in CHECKS or process in ("relay", "inbound", "warehouse", "notification")
        assert (service["restart"], service["read_only"]) == ("unless-stopped", True)
        assert service["mem_limit"]
        assert service["logging"]["options"]["max-size"]


def test_the_worker_gets_longer_to_stop_than_it_takes() -> None:
    """Else it is killed in the middle of its own shutdown."""
    import celeryconfig

    grace = int(SERVICES["allocation-worker"]["stop_grace_period"].removesuffix("s"))

    assert grace > celeryconfig.worker_soft_shutdown_timeout + 10


def test_ports_are_published_on_loopback_only() -> None:
    """The four that the design names."""
    published = sorted(port for s in SERVICES.values() for port in s.get("ports", []))

    assert published == [f"127.0.0.1:{port}:{port}" for port in (15672, 5005, 5555, 8025)]
