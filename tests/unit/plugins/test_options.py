"""One list of options, told in five places: they must say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.farrier.web.farrier.release.spec import KEYS, Spec
from ansible_collections.farrier.web.plugins.doc_fragments.app import ModuleDocFragment
from ansible_collections.farrier.web.plugins.filter.plan import FilterModule
from ansible_collections.farrier.web.plugins.module_utils import app_options
from ansible_collections.farrier.web.plugins.plugin_utils import app_source
from ansible_collections.farrier.web.plugins.plugin_utils.app_source import checked_options, listen_of

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "gunicorn_app"
PREFIX = "gunicorn_app_"
OPTIONS: dict[str, Any] = app_options.APP_OPTIONS


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _shape(option: dict[str, Any]) -> dict[str, Any]:
    kept = {
        key: option[key] for key in ("type", "elements", "default", "choices", "required") if key in option
    }
    # A module's documentation calls suboptions what arguments and roles call options.
    for key in ("options", "suboptions"):
        if key in option:
            kept["options"] = {name: _shape(nested) for name, nested in option[key].items()}
    return kept


def test_the_modules_documentation_has_every_option_as_it_is() -> None:
    documented = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    assert {name: _shape(option) for name, option in documented.items()} == {
        name: _shape(option) for name, option in OPTIONS.items()
    }


def test_the_roles_variables_are_the_modules_options() -> None:
    declared = _yaml(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert {name.removeprefix(PREFIX): _shape(option) for name, option in declared.items()} == {
        name: _shape(option) for name, option in OPTIONS.items() if name != "prefix"
    }
    assert all(name.startswith(PREFIX) for name in declared)


def test_every_secret_option_is_secret_in_the_role_too() -> None:
    declared = _yaml(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    secret = {name for name, option in OPTIONS.items() if option.get("no_log")}
    assert {name.removeprefix(PREFIX) for name, option in declared.items() if option.get("no_log")} == secret


def test_defaults_and_argument_specs_agree_key_by_key() -> None:
    declared = _yaml(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = _yaml(ROLE / "defaults" / "main.yml")
    assert defaults == {
        name: option["default"] for name, option in declared.items() if not option.get("required")
    }


def test_every_variable_says_what_it_is_in_a_sentence() -> None:
    declared = _yaml(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert [
        name for name, option in declared.items() if not option["description"][0].endswith((".", ").", '".'))
    ] == []


def test_the_role_hands_every_variable_to_the_modules() -> None:
    block = _yaml(ROLE / "tasks" / "main.yml")[0]
    handed = block["module_defaults"]["group/farrier.web.app"]
    assert handed.pop("prefix") == PREFIX
    assert handed == {name: f"{{{{ {PREFIX}{name} }}}}" for name in OPTIONS if name != "prefix"}


def test_the_readme_of_the_role_names_every_variable() -> None:
    text = (ROLE / "README.md").read_text()
    assert [name for name in OPTIONS if name != "prefix" and f"`{PREFIX}{name}`" not in text] == []


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text("")
    return tmp_path


def _checked(app: Path, **given: Any) -> dict[str, Any]:
    whole = {"name": "shop", "app": "main:app", "path": str(app), "prefix": PREFIX, **given}
    result: dict[str, Any] = checked_options(whole, {})
    return result


def test_a_spec_holds_only_what_was_given_and_every_key_that_farrier_knows(app: Path) -> None:
    spec = app_options.spec_of(_checked(app), {"type": "requirement", "requirement": "shop"})
    assert set(spec) <= set(KEYS)
    assert "user" not in spec and "python" not in spec
    assert Spec.from_mapping(spec).user == "shop"


def test_memory_cpus_and_database_are_settings_of_the_plan(app: Path) -> None:
    options = _checked(app, memory="300MiB", cpus="0.5", database={"max_connections": 50})
    assert app_options.chosen_settings(options) == {
        "memory_limit": "300MiB",
        "cpu_limit": "0.5",
        "database_max_connections": 50,
    }


def test_how_it_is_deployed_is_in_the_spec_only_where_somebody_said_so(app: Path) -> None:
    plain = app_options.spec_of(_checked(app), {})
    assert not {"weight", "measure", "guard", "notify", "retry_bad", "migrate_here"} & set(plain)
    assert "strategy" not in plain["settings"]
    said = {"strategy": "queue", "guard": {"seconds": 5}, "notify": {"command": "logger"}, "retry_bad": True}
    spec = Spec.from_mapping(
        app_options.spec_of(_checked(app, **said), {"type": "requirement", "requirement": "a"})
    )
    assert (spec.settings["strategy"], spec.guard.seconds, spec.guard.errors) == ("queue", 5, 0.05)
    assert spec.notify.command == "logger" and spec.retry_bad
    said = {"weight": 300, "measure": {"requests": ["GET /shop"], "seconds": 5}}
    spec = Spec.from_mapping(
        app_options.spec_of(_checked(app, **said), {"type": "requirement", "requirement": "a"})
    )
    assert (spec.weight, spec.measure.enabled) == (300, True)
    assert (spec.measure.requests, spec.measure.seconds) == (("GET /shop",), 5)


def test_the_address_of_a_webhook_is_a_secret(app: Path) -> None:
    address = "https://hooks.example.org/services/T01/abc"
    options = _checked(app, notify={"webhook": address})
    assert address in app_options.hidden_texts(options)
    assert "notify" not in app_options.sealed(options)


def test_a_slow_app_is_given_the_time_that_was_said_and_a_default_is_no_choice(app: Path) -> None:
    slow = app_options.spec_of(_checked(app, start_timeout=300), {"type": "requirement", "requirement": "a"})
    assert Spec.from_mapping(slow).start_timeout == 300
    assert "start_timeout" not in app_options.spec_of(_checked(app), {})


def test_a_warning_speaks_of_the_variables_that_were_written(app: Path) -> None:
    options = _checked(app, database={"max_connections": 8})
    told = app_options.warning_in_variables("raise database_max_connections", options)
    assert told == "raise gunicorn_app_database.max_connections"
    told = app_options.warning_in_variables("settings.json: timeout 0 never ends a worker", options)
    assert told == "gunicorn_app_settings: timeout 0 never ends a worker"
    assert app_options.warning_in_variables("two CPUs", options) == "shop: two CPUs"


def test_advice_speaks_of_the_variables_too(app: Path) -> None:
    told = app_options.in_variables("hello: this is bad; set retry_bad: true (--retry-bad) to", _checked(app))
    assert told == "hello: this is bad; set gunicorn_app_retry_bad: true to"


def test_what_ansible_prints_of_a_plan_is_its_values_and_its_verdict() -> None:
    plan = FilterModule().filters()["plan"]("1GiB")
    printed = app_options.without_reasons(plan)
    assert set(plan) - set(printed) == {"fields", "inputs", "schema"}
    short = app_options.in_short(plan)
    assert short["verdict"]["level"] == "comfortable" and short["workers"] == plan["workers"]
    assert len(repr(short)) < 700


def test_an_app_that_goes_needs_nothing_but_its_name() -> None:
    options = checked_options({"name": "shop", "state": "absent"}, {})
    spec = Spec.from_mapping(app_options.spec_of(options, {}))
    assert (spec.name, spec.state) == ("shop", "absent")


def test_where_it_listens_is_read_by_farrier_itself(app: Path) -> None:
    assert listen_of(_checked(app, bind="0.0.0.0:8080")) == {
        "kind": "tcp",
        "host": "0.0.0.0",
        "port": 8080,
        "path": "",
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"settings": {"workers": 0}}, "gunicorn_app_settings.workers: workers=0"),
        ({"settings": {"worker_class": "eventlet"}}, "gunicorn_app_settings.worker_class: "),
        ({"settings": {"worker_clas": "sync"}}, "gunicorn_app_settings.worker_clas: "),
        ({"settings": "workers=3"}, "gunicorn_app_settings: given a text; allowed: a mapping, such as {work"),
        ({"env": "PASSWORD=hunter2"}, "gunicorn_app_env: given a text; allowed: a mapping, such as {NAME: v"),
        ({"memory": "lots"}, "gunicorn_app_memory: given lots: it must be a size, such as 512MiB"),
        ({"memory": 300}, "gunicorn_app_memory: given 300, which is 300 bytes; write the unit, such as 300M"),
        ({"cpus": "many"}, "gunicorn_app_cpus: given many: it must be a number of CPUs"),
        (
            {"database": {"max_connections": -1}},
            "gunicorn_app_database.max_connections: given -1: it must be a whole number",
        ),
        (
            {"measure": {"requests": ["index"]}},
            "gunicorn_app_measure.requests: given 'index'; allowed: a list of requests: METHOD /PATH",
        ),
        ({"weight": 0}, "gunicorn_app_weight: given 0; allowed: a whole number from 1 to 1000"),
        (
            {"guard": {"requests": 0}},
            "gunicorn_app_guard.requests: given 0; allowed: a whole number from 1 to",
        ),
        ({"guard": {"second": 30}}, "guard.second. Supported parameters include: errors, latency, req"),
        (
            {"notify": {"webhook": "me@example.org"}},
            "gunicorn_app_notify.webhook: given a value; allowed: an ",
        ),
        ({"notify": "http://x"}, "gunicorn_app_notify: given a text; allowed: a mapping, such as {command: "),
        (
            {"strategy": "lightning"},
            "value of strategy must be one of: auto, overlap, rolling, queue, reload, ",
        ),
        ({"migrate_on": "second"}, "value of migrate_on must be one of: first, each, never, got: second"),
        ({"python": 3.1}, "gunicorn_app_python: given 3.1; allowed: 3.10 or newer, and quoted: "),
        ({"name": "root"}, "gunicorn_app_name: given 'root'; allowed: any name but "),
        ({"name": "farrier"}, "gunicorn_app_name: given 'farrier'; allowed: any name but "),
        ({"path": "/nowhere"}, "gunicorn_app_path: /nowhere does not exist"),
        ({"path": "", "requirement": "not valid"}, "gunicorn_app_requirement: given 'not valid'"),
        ({"requirement": "shop"}, "gunicorn_app_path: path and requirement are given"),
        ({"path": ""}, "gunicorn_app_path: no source is given"),
        ({"requirements": "req.txt"}, "gunicorn_app_requirements: req.txt is not in"),
        ({"bind": "0.0.0.0:99999"}, "gunicorn_app_bind: given '0.0.0.0:99999'"),
        ({"name": "Bad Name"}, "gunicorn_app_name: given 'Bad Name'"),
        ({"start_timeout": -1}, "gunicorn_app_start_timeout: given -1; allowed: "),
        ({"user": "root"}, "gunicorn_app_user: given 'root'"),
        ({"build_commands": [""]}, "gunicorn_app_build_commands: "),
        ({"env": {"a-b": "1"}}, "gunicorn_app_env.a-b: "),
        ({"git_deploy_key": "secret", "git_repo": "x", "path": ""}, "gunicorn_app_git_deploy_key: "),
        ({"ca_bundle": "/nowhere.pem"}, "gunicorn_app_ca_bundle: /nowhere.pem is no file"),
        ({"system_packages": ["--force"]}, "gunicorn_app_system_packages: given '--force'"),
        ({"installer": "poetry"}, "value of installer must be one of: auto, uv, pip, got: poetry"),
        ({"nonsense": 1}, "nonsense. Supported parameters include: app, "),
    ],
)
def test_each_wrong_value_is_one_line_that_names_the_variable(
    app: Path, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(AnsibleActionFail) as refused:
        _checked(app, **given)
    assert refused.value.message.startswith(told)
    assert "\n" not in refused.value.message


def test_a_mistyped_variable_is_told_with_the_one_that_was_meant(app: Path) -> None:
    whole = {"name": "shop", "app": "main:app", "path": str(app), "prefix": PREFIX}
    known = {f"{PREFIX}{name}": "" for name in (*OPTIONS, "result", "preflight") if name != "prefix"}
    checked_options(whole, {**known, "apps": [], "gunicorn_apps": []})
    with pytest.raises(AnsibleActionFail) as refused:
        checked_options(whole, {**known, "gunicorn_app_setings": {}})
    assert refused.value.message == (
        "gunicorn_app_setings: the role has no such variable; did you mean gunicorn_app_settings?"
    )
    # A role of somebody else's may have variables of its own beside the ones that it hands on.
    checked_options({**whole, "prefix": "shop_"}, {"shop_setings": {}})


def test_what_the_role_registers_is_no_mistake() -> None:
    tasks = [task for path in (ROLE / "tasks").glob("*.yml") for task in _yaml(path)]
    registered = {task["register"] for task in tasks if "register" in task}
    assert registered and registered <= {f"{PREFIX}{name}" for name in app_source.REGISTERED}


def test_json_is_taken_for_a_mapping(app: Path) -> None:
    assert _checked(app, settings='{"workers": 3}')["settings"] == {"workers": 3}


def test_a_secret_is_never_repeated(app: Path) -> None:
    with pytest.raises(AnsibleActionFail) as refused:
        _checked(app, env={"PASSWORD": "hunter2\0"}, git_deploy_key="hunter2", git_repo="x", path="")
    assert "hunter2" not in refused.value.message


def test_secrets_travel_as_one_text_and_arrive_as_they_were(app: Path) -> None:
    options = _checked(app, env={"DEBUG": "1", "PASSWORD": "hunter2"}, installer_env={"A": "b"})
    sent = app_options.sealed(options)
    assert not set(app_options.SECRETS) & set(sent)
    assert app_options.unsealed(sent) == options


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("DEBUG", "1", False),
        ("WEB_CONCURRENCY", "2", False),
        ("LANG", "C.UTF-8", False),
        ("DJANGO_SETTINGS_MODULE", "config.settings", False),
        ("REPOSITORY", "data/pages", False),
        ("API", "https://api.example.org/v1", False),
        ("SECRET_KEY", "correct-horse-battery", True),
        ("API_TOKEN", "tokenwithoutdigits", True),
        ("PASSWORD", "hunter2", True),
        ("STRIPE", "sk_live_51H8x+9/kQ==", True),
        ("DATABASE_URL", "postgres://shop:hunter2@db/shop", True),
    ],
)
def test_only_what_is_a_secret_is_looked_for_in_messages(
    app: Path, name: str, value: str, hidden: bool
) -> None:
    assert (value in app_options.hidden_texts(_checked(app, env={name: value}))) is hidden


def test_the_password_of_an_address_is_hidden_by_itself_too(app: Path) -> None:
    options = _checked(app, env={"DATABASE_URL": "postgres://shop:hunter2@db/shop"})
    assert "hunter2" in app_options.hidden_texts(options)


def test_a_relative_path_is_looked_for_beside_the_inventory_then_the_playbook(
    app: Path, tmp_path: Path
) -> None:
    (tmp_path / "inventories").mkdir()
    (tmp_path / "playbooks" / "shop").mkdir(parents=True)
    (tmp_path / "shop").mkdir()
    places = {"inventory_dir": str(tmp_path / "inventories"), "playbook_dir": str(tmp_path / "playbooks")}
    whole = {"name": "shop", "app": "main:app"}
    assert checked_options({**whole, "path": "../shop"}, places)["path"] == str(tmp_path / "shop")
    assert checked_options({**whole, "path": "shop"}, places)["path"] == str(tmp_path / "playbooks" / "shop")
